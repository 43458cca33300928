"""The engine gives the logits of a network's evaluation, bit for bit, without torch."""

import random
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

import fuzz_packed
import micronet
from micronet.artifact import engine as engines
from micronet.artifact import reader
from micronet.artifact.engine import Engine
from micronet.models import architectures
from micronet.quantization.quantize import LayerBits
from micronet.utils.errors import UserError
from packed_by_hand import integer_network
from packed_networks import (
    FOUR,
    Everything,
    batches_for,
    changed,
    compressed,
    content_of,
    network,
    packed,
    read,
)
from paths import ROOT


def assert_same_bits(found, wanted):
    assert found.dtype == np.float32 and found.shape == wanted.shape
    assert np.array_equal(found.view(np.int32), wanted.view(np.int32))


def check(content, wanted, shape, rng, sets, threads=(1, 2)):
    """The engine of a file gives what ``wanted`` gives, however it runs."""
    batches = batches_for(rng, shape)
    with torch.no_grad():
        logits = [wanted(images.clone()).numpy() for images in batches]
    for count in threads:
        engine = Engine.from_bytes(content, threads=count)
        assert engine.input_shape == shape
        for name in sets:
            engines.choose_instruction_set(name)
            for images, each in zip(batches, logits, strict=True):
                assert_same_bits(engine(images.numpy()), each)


@pytest.mark.parametrize(
    ("arch", "size"),
    [
        ("resnet20", 32),
        ("mobilenetv2_cifar", 32),
        ("efficientnet-micro", 32),
        ("efficientnet-b0 of half its depth", 40),
        ("resnet10", 48),
    ],
)
def test_networks(arch, size, rng, every_instruction_set):
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    model, shape = network(arch, size), (3, size, size)
    content = content_of(packed(model, shape))
    check(content, model, shape, rng, every_instruction_set)
    check(content, reader.network_of(read(content)), shape, rng, every_instruction_set[-1:], (1,))


@pytest.mark.parametrize(
    "bits",
    [
        FOUR,
        LayerBits(4, 4, weight_step="learned", activation_step="learned", offset=True),
        LayerBits(4, 4, symmetric=True),
        LayerBits(1, 1),
        LayerBits(8, 8),
        LayerBits(2.4, 3.2),
        LayerBits(None, 4),
        LayerBits(4, None),
    ],
    ids=str,
)
def test_every_kind_of_node_at_every_precision(bits, rng, every_instruction_set):
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    model, shape = Everything(), (3, 13, 13)
    chosen = dict.fromkeys(architectures.layers(model), bits)
    model = compressed(model, shape, chosen, sparsity=0.5)
    check(content_of(packed(model, shape)), model, shape, rng, every_instruction_set)


@pytest.mark.parametrize("high", [6.0, 2.5, 8.0])
def test_a_relu6_before_a_quantizer(high, rng, every_instruction_set):
    model = nn.Sequential(nn.Conv2d(3, 20, 3), nn.ReLU6(), nn.Conv2d(20, 4, 1))
    model = compressed(model, (3, 9, 9), {"0": FOUR, "2": FOUR}, sparsity=0)
    with torch.no_grad():
        model[0].weight.mul_(9.0)  # so that many values are beyond 6
    model[2].input_quantizer.start_from(0.0, high, 1)
    content = content_of(packed(model, (3, 9, 9)))
    check(content, model, (3, 9, 9), rng, every_instruction_set)
    values = model[0](torch.randn(8, 3, 9, 9, generator=rng))
    assert (values > 8.0).any()


@pytest.mark.parametrize("block", ["1x4", "16x1", "4x4", "2x9"])
def test_blocks(block, rng, every_instruction_set):
    rows, columns = map(int, block.split("x"))
    model = nn.Sequential(nn.Conv2d(18, 37, 3, padding=1), nn.ReLU(), nn.Conv2d(37, 21, 1))
    model = compressed(model, (18, 9, 9), {"0": FOUR, "2": FOUR}, sparsity=0)
    with torch.no_grad():
        for layer in (model[0], model[2]):
            matrix = layer.weight.view(len(layer.weight), -1)
            kept = torch.rand(-(-matrix.shape[0] // rows), -(-matrix.shape[1] // columns)) < 0.4
            kept = kept.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
            matrix.mul_(kept[: matrix.shape[0], : matrix.shape[1]])
    check(content_of(packed(model, (18, 9, 9))), model, (18, 9, 9), rng, every_instruction_set)


@pytest.mark.parametrize("radix", [False, True])
def test_codes_from_end_to_end(radix, rng, every_instruction_set):
    content = integer_network(rng, radix)
    wanted = reader.network_of(read(content))
    check(content, wanted, (3, 6, 6), rng, every_instruction_set)


@pytest.fixture(scope="module")
def small():
    model = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.ReLU(), nn.Conv2d(16, 5, 1))
    return packed(compressed(model, (3, 6, 6), {"0": FOUR, "2": FOUR}), (3, 6, 6))


def test_a_file_a_folder_and_what_is_none(tmp_path, small, rng):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content_of(small))
    images = torch.randn(2, 3, 6, 6, generator=rng).numpy()
    assert_same_bits(Engine(tmp_path)(images), Engine(path, threads=3)(images))
    assert Engine(path)(images[:0]).shape == (0, 5, 4, 4)
    assert_same_bits(Engine(path)(images.astype(np.float64)), Engine(path)(images))
    for wrong in (images[:, :2], images[0], images[..., :5]):
        with pytest.raises(UserError, match=r"are not \(N, 3, 6, 6\)"):
            Engine(path)(wrong)
    images[1, 2, 3, 4] = np.nan
    with pytest.raises(UserError, match="an image has a value that is not finite"):
        Engine(path)(images)
    with pytest.raises(UserError, match="nothing: cannot be read: No such file"):
        Engine(tmp_path / "nothing")
    with pytest.raises(UserError, match="0 threads are not 1 to 256"):
        Engine(path, threads=0)
    with pytest.raises(UserError, match="no instruction set 'mmx'"):
        engines.choose_instruction_set("mmx")


def test_a_value_that_overflows_has_no_code(small):
    """The scale of a layer whose sums leave the floats: its codes would all look like numbers."""

    def change(plain, tensors):
        tensors["0.weight_scale"][:] = 3e38

    engine = Engine.from_bytes(content_of(small))
    assert np.isfinite(engine(np.ones((1, 3, 6, 6), np.float32))).all()
    engine = Engine.from_bytes(changed(small, change))
    with pytest.raises(UserError, match=r"nodes\[\d\] \(quantize\) '2.input' reads a value that"):
        engine(np.full((1, 3, 6, 6), 50, np.float32))


def test_steps_and_memory(small):
    engine = Engine.from_bytes(content_of(small))
    assert engine.profile() == [] and engine.classes == ()
    assert 0 < engine.arena_bytes(1) < engine.arena_bytes(4)
    engine.start_profile()
    engine(np.zeros((4, 3, 6, 6), np.float32))
    steps = engine.profile()
    assert any("(conv) 2" in title for title, _ in steps)
    assert all(seconds >= 0 for _, seconds in steps)


def test_no_torch_is_loaded(tmp_path, small):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content_of(small))
    code = (
        "import sys, numpy, micronet\n"
        f"print(micronet.Engine({str(path)!r})(numpy.ones((1, 3, 6, 6))).sum())\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    wanted = micronet.load_packed(path)(torch.ones(1, 3, 6, 6)).detach().numpy().sum()
    assert float(done.stdout) == pytest.approx(float(wanted))


def test_changed_files_are_taken_as_the_reader_takes_them():
    """What the reader takes, the engine takes and computes alike; to others it says why not."""
    seed = time.time_ns() % 10**6
    print(f"seed {seed}")
    draw, files, taken = random.Random(seed), fuzz_packed.sources(), 0
    for _ in range(200):
        content = fuzz_packed.mutated(draw.choice(files), draw)
        engine = sentence = None
        try:
            engine = Engine.from_bytes(content)
        except UserError as error:
            sentence = str(error)
            assert sentence and "\n" not in sentence
        try:
            wanted = reader.network_of(read(content))
        except UserError:
            continue
        assert engine is not None, sentence
        taken += 1
        images = torch.randn(2, *engine.input_shape)
        if images.numel() > 10**5:
            continue
        with torch.no_grad():
            logits = wanted(images).numpy()
        if np.isfinite(logits).all():
            assert_same_bits(engine(images.numpy()), logits)
    assert taken
