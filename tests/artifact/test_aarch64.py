"""The engine on 64-bit ARM gives the logits of this machine, bit for bit. ``make test-arm``
builds the command for that and says where it is; everything here runs on an emulator."""

import os
import subprocess

import numpy as np
import pytest
import torch

from micronet.artifact.engine import Engine
from micronet.models import architectures
from micronet.quantization.quantize import LayerBits
from packed_networks import FOUR, Everything, compressed, content_of, network, packed

FOLDER = os.environ["MICRONET_AARCH64"]
# Without dot products of bytes, and with all that the emulator knows.
PROCESSORS = {"cortex-a53": ["baseline", "neon"], "max": ["baseline", "neon", "neondot"]}
EMULATOR = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]


def command(processor, *arguments):
    program = [*EMULATOR, "-cpu", processor, f"{FOLDER}/micronet-run", *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True)


def check(folder, content, shape, rng):
    """Every instruction set of every processor, on images of several kinds."""
    (folder / "model.safetensors").write_bytes(content)
    images = torch.randn(3, *shape, generator=rng)
    images[1] *= 50
    images[2] = 0
    wanted = Engine.from_bytes(content)(images.numpy())
    for number, image in enumerate(images):
        (folder / f"{number}.f32").write_bytes(image.numpy().tobytes())
    files = [folder / f"{number}.f32" for number in range(len(images))]
    for processor, sets in PROCESSORS.items():
        for name in sets:
            done = command(processor, folder, *files, "--values", "--instruction-set", name)
            assert done.returncode == 0, done.stderr
            found = [float.fromhex(line) for line in done.stdout.split()]
            found = np.array(found, np.float32).reshape(wanted.shape)
            assert np.array_equal(found.view(np.int32), wanted.view(np.int32)), (processor, name)


@pytest.mark.parametrize(
    ("arch", "size"), [("resnet20", 32), ("mobilenetv2_cifar", 32), ("efficientnet-micro", 32)]
)
def test_networks(arch, size, rng, tmp_path):
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    content = content_of(packed(network(arch, size), (3, size, size)))
    check(tmp_path, content, (3, size, size), rng)


# Sums of pairs of products within 16 bits, beyond them, and of few levels.
@pytest.mark.parametrize("bits", [FOUR, LayerBits(8, 8), LayerBits(2.4, 3.2)], ids=str)
def test_each_kind_of_node_and_of_layer(bits, rng, tmp_path):
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    model, shape = Everything(), (3, 13, 11)
    model = compressed(model, shape, dict.fromkeys(architectures.layers(model), bits))
    check(tmp_path, content_of(packed(model, shape)), shape, rng)


def test_what_the_processor_has_is_chosen(rng, tmp_path):
    model = compressed(Everything(), (3, 13, 11))
    (tmp_path / "model.safetensors").write_bytes(content_of(packed(model, (3, 13, 11))))
    for processor, sets in PROCESSORS.items():
        best = command(processor, tmp_path, "--bench", "0.01")
        assert best.stdout.startswith(sets[-1] + ","), best.stdout + best.stderr
        lacking = command(processor, tmp_path, "--instruction-set", "neondot")
        assert (lacking.returncode == 0) == ("neondot" in sets)
