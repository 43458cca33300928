"""Networks whose means are of no block's values have one arithmetic, in torch and in the engine."""

import pytest
import torch
import torch.nn.functional as F

import micronet
from mean_networks import Means
from micronet.artifact import engine as engines
from micronet.artifact import inspection, reader
from micronet.artifact.engine import Engine
from micronet.artifact.network import PackedNetwork
from micronet.quantization.evaluation import exact_functions
from packed_networks import (
    CLASSIFIER,
    FOUR,
    bits_of,
    changed,
    compressed,
    content_of,
    network,
    packed,
    read,
)

SHAPE = (3, 19, 13)


def means_network():
    names = ("stem", "squeeze.reduce", "squeeze.expand", "mix", "again")
    return compressed(Means(), SHAPE, dict.fromkeys(names, FOUR) | {"head": CLASSIFIER})


def mobilenet():
    pytest.importorskip("timm")
    return network("timm:mobilenetv3_small_100", 48)


def inexact(file):
    return [node for node in file.document.nodes if not getattr(node, "exact", True)]


def assert_one_arithmetic(model, shape, rng, sets):
    """The file says that it is exact, and every way to run it gives the same bits."""
    file = read(content_of(packed(model, shape)))
    assert inexact(file) == []
    assert "every node has one arithmetic" in inspection.description(file)
    images = torch.randn(7, *shape, generator=rng)
    last = images.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        wanted = bits_of(model(images))
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with torch.no_grad():
            for order in (images, last):
                for count in (1, 3):
                    parts = torch.cat([model(part) for part in order.split(count)])
                    assert torch.equal(bits_of(parts), wanted)
                assert torch.equal(bits_of(model(order)), wanted)
            assert torch.equal(bits_of(reader.network_of(file)(images)), wanted)
        # With gradients too, as whoever forgets `no_grad` finds out.
        assert torch.equal(bits_of(model(images)), wanted)
    for threads in (1, 2):
        engine = Engine.from_bytes(content_of(file), threads=threads)
        for name in sets:
            engines.choose_instruction_set(name)
            for count in (1, 3, 7):
                found = [torch.from_numpy(engine(part.numpy())) for part in images.split(count)]
                assert torch.equal(bits_of(torch.cat(found)), wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "shape"), [(means_network, SHAPE), (mobilenet, (3, 48, 48))], ids=["means", "timm"]
)
def test_means_of_any_value_have_one_arithmetic(make, shape, rng, every_instruction_set):
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    before = torch.get_num_threads()
    try:
        assert_one_arithmetic(make(), shape, rng, every_instruction_set)
    finally:
        torch.set_num_threads(before)


def test_without_its_own_means_evaluation_has_torchs_bits(rng, monkeypatch):
    """What holds the tests above: torch's own mean differs, and the file says so."""
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    model = means_network()
    images = torch.randn(64, *SHAPE, generator=rng)
    with torch.no_grad():
        exact = model(images)
        monkeypatch.delitem(exact_functions._TABLE, torch.Tensor.mean)
        assert not torch.equal(bits_of(model(images)), bits_of(exact))
    assert {node.function for node in inexact(packed(model, SHAPE))} == {"mean"}


@pytest.mark.parametrize(
    ("left_out", "function", "count"),
    [(F.silu, "swish", 2), (torch.sigmoid, "sigmoid", 1), (torch.Tensor.sigmoid, "sigmoid", 1)],
)
def test_a_function_of_torchs_own_is_told(left_out, function, count, rng, monkeypatch):
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    monkeypatch.delitem(exact_functions._TABLE, left_out)
    found = inexact(packed(means_network(), SHAPE))
    assert [node.function for node in found] == [function] * count


def test_a_file_that_is_not_exact_runs_as_it_did(rng, monkeypatch):
    """Its means are torch's own in torch, and the page's in the engine."""
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    model = means_network()
    file = packed(model, SHAPE)

    def not_exact(plain, tensors):
        for node in plain["nodes"]:
            if "exact" in node and node["function"] in ("mean", "swish", "sigmoid"):
                node["exact"] = False

    old = read(changed(file, not_exact))
    assert len(inexact(old)) > 5 and "computed by torch's own functions" in (
        inspection.description(old)
    )
    images = torch.randn(16, *SHAPE, generator=rng)
    monkeypatch.setattr(exact_functions, "_TABLE", {})
    with torch.no_grad():
        again = reader.network_of(old)
        assert isinstance(again, PackedNetwork)
        assert torch.equal(bits_of(again(images)), bits_of(model(images)))
    new, engine = Engine.from_bytes(content_of(file)), Engine.from_bytes(content_of(old))
    assert (new(images.numpy()) == engine(images.numpy())).all()


def test_a_file_of_a_network_is_exact_after_export(rng, tmp_path):
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    model = means_network()
    assert inexact(micronet.export(model, tmp_path, image_size=16)) == []
