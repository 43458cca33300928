"""The page of the format: another program reads the file by it, and gets the same bits."""

import json
import re

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn

import plain_reader
from micronet.artifact import reader
from micronet.artifact.format import document, nodes, packing
from micronet.artifact.format.tensors import packed_bits, specs
from micronet.quantization.quantize import LayerBits
from micronet_kernels.scheme import code_group
from packed_by_hand import integer_network
from packed_networks import FOUR, Everything, changed, compressed, content_of, network, packed, read
from paths import ROOT

PAGE = (ROOT / "docs" / "format.md").read_text()


def assert_plain(content, rng, shape):
    """The plain reader gives the packed network's output of an image."""
    image = torch.randn(shape, generator=rng)
    with torch.no_grad():
        wanted = reader.network_of(read(content))(image[None])[0].numpy()
    found = plain_reader.run(content, image.numpy())
    assert np.array_equal(found.view(np.int32), wanted.view(np.int32))


@pytest.mark.parametrize(
    "bits",
    [
        FOUR,
        LayerBits(2.4, 8, activation_step="learned", offset=True),
        LayerBits(None, 3),
        LayerBits(3, None),
        LayerBits(8, 8, symmetric=True),
    ],
    ids=str,
)
def test_another_program_computes_the_same(bits, rng):
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    model = Everything()
    names = [name for name, module in model.named_children() if hasattr(module, "weight")]
    chosen = {name: bits for name in names if "norm" not in name}
    model = compressed(model, (3, 9, 9), chosen, sparsity=0.4)
    file = packed(model, (3, 9, 9))
    assert all(getattr(node, "exact", True) for node in file.document.nodes)
    assert_plain(content_of(file), rng, (3, 9, 9))


def test_a_network_with_gates_and_blocks_by_another_program(rng):
    torch.manual_seed(torch.randint(10**6, (), generator=rng))
    file = packed(network("efficientnet-micro", 16), (3, 16, 16))
    assert_plain(content_of(file), rng, (3, 16, 16))


@pytest.mark.parametrize("radix", [False, True])
def test_codes_from_end_to_end(radix, rng):
    content = integer_network(rng, radix)
    assert_plain(content, rng, (3, 6, 6))
    spec = specs(read(content).document)["conv.weight_packed"]
    assert spec.bits == (108 // 3 * 7 if radix else 108 * 3)


def test_two_exports_are_the_same_bytes_and_any_reader_opens_them(tmp_path, rng):
    model = network("efficientnet-micro", 16)
    one, two = (content_of(packed(model, (3, 16, 16))) for _ in range(2))
    assert one == two
    tensors = safetensors.numpy.load(one)
    file = read(one)
    assert tensors.keys() == file.contents.tensors.keys()
    assert all(np.array_equal(tensors[name], t) for name, t in file.contents.tensors.items())
    assert json.loads(json.dumps(file.document.to_plain())) == file.document.to_plain() | {
        "input": list(file.document.input)
    }


@pytest.mark.parametrize("levels", [2, 3, 5, 6, 7, 15, 16, 17, 100, 255, 256])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 97])
def test_codes_come_back_in_either_packing(levels, count, rng):
    codes = torch.randint(levels, (count,), generator=rng, dtype=torch.uint8)
    for way in ((1, (levels - 1).bit_length()), code_group(levels)):
        stored = packing.to_bits(codes, way, levels)
        assert len(stored) == -(-packed_bits(count, way) // 8)
        assert torch.equal(packing.from_bits(stored, count, way, levels), codes)
        if count:
            assert np.array_equal(plain_reader.codes(stored, count, way, levels), codes.numpy())


def test_the_page_lists_every_key_kind_and_function():
    for kind in nodes.KINDS:
        assert f"| `{kind}` |" in PAGE
    for function in nodes.FUNCTIONS:
        assert f"`{function}`" in PAGE
    for key in document.Layer.__dataclass_fields__:
        assert re.search(rf"^\|.*`{key}`", PAGE, re.MULTILINE), key
    plain = packed(compressed(nn.Sequential(nn.Conv2d(3, 4, 3)), (3, 5, 5), {"0": FOUR}), (3, 5, 5))
    for key in plain.document.to_plain():
        assert f"`{key}`" in PAGE, key


def test_a_document_that_is_changed_keeps_its_checksum(rng):
    file = packed(compressed(nn.Sequential(nn.Conv2d(3, 4, 3)), (3, 5, 5), {"0": FOUR}), (3, 5, 5))
    assert read(changed(file, lambda plain, tensors: None)).document == file.document
