"""Files that were changed: one sentence, before anything is made of them."""

import time

import numpy as np
import pytest
from torch import nn

import fuzz_packed
from micronet.artifact import reader
from micronet.utils.errors import UserError
from packed_networks import FOUR, changed, compressed, content_of, packed, read


@pytest.mark.slow
def test_changed_files_are_answered():
    seed = time.time_ns() % 10**6
    print(f"seed {seed}")
    failed, _, done = fuzz_packed.fuzz(60, seed, most=150)
    assert failed == 0 and done == 150


def test_a_wrong_answer_would_be_seen(monkeypatch, capsys):
    sources = fuzz_packed.sources()
    monkeypatch.setattr(fuzz_packed, "sources", lambda: sources)
    whole = [content_of(file) for file in sources]
    answer = fuzz_packed.answer

    def broken(content):
        return answer(content) if content in whole else {}["x"]

    monkeypatch.setattr(fuzz_packed, "answer", broken)
    failed, _, done = fuzz_packed.fuzz(30, 0, most=10)
    assert 0 < failed <= done == 10 and "KeyError" in capsys.readouterr().out


@pytest.fixture(scope="module")
def file():
    model = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.ReLU(), nn.Conv2d(16, 5, 1))
    return packed(compressed(model, (3, 6, 6), {"0": FOUR, "2": FOUR}), (3, 6, 6))


def layer(key, value, name="2"):
    return lambda plain, tensors: plain["layers"][name].__setitem__(key, value)


def node(index, key, value):
    return lambda plain, tensors: plain["nodes"][index].__setitem__(key, value)


def tensor(name, value, index=0):
    return lambda plain, tensors: tensors[name].__setitem__(index, value)


def rescaled(plain, tensors):
    tensors["2.input_scale"][0] = np.float32(1e-42)


def cycle(plain, tensors):
    plain["nodes"][1]["inputs"] = [3]


def huge(plain, tensors):
    plain["layers"]["2"] |= {"shape": [2**20, 2**20, 1, 1], "layout": "bit mask", "values": 0}


def extra(plain, tensors):
    tensors["more"] = np.zeros(3, np.uint8)


def lacking(plain, tensors):
    del tensors["2.bias"]


def unread(plain, tensors):
    plain["nodes"].append({"kind": "activation", "inputs": [2], "function": "relu", "exact": True})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plain, tensors: plain.update(version=2), "has version 2, this program reads 1"),
        (lambda plain, tensors: plain.update(format="x"), "format is 'x'"),
        (lambda plain, tensors: plain.update(more=1), "unknown key 'more'"),
        (lambda plain, tensors: plain.update(quantization_config={}), "is not that of its layers"),
        (lambda plain, tensors: plain.update(output=99), "output is node 99"),
        (node(1, "kind", "relu"), r"nodes\[1\] is of no kind that version 1 has: 'relu'"),
        (node(2, "layer", "3"), "calls layer '3', which there is not"),
        (node(3, "function", "gelu"), "function is 'gelu'"),
        (cycle, r"nodes\[1\] \(quantize\): reads node 3, which does not come before it"),
        (unread, "is read by none"),
        (layer("levels", 300), "300 levels"),
        (layer("stride", [0, 1]), "stride is"),
        (layer("groups", 3), "3 groups do not divide 5"),
        (layer("sums", "double"), "sums is 'double'"),
        (layer("packing", [2, 8]), "packing is"),
        (layer("values", 10**6), "cannot be stored"),
        (layer("weight_of", "2"), "stores none"),
        (huge, "weights are more than a file of its size holds"),
        (extra, "has a tensor 'more' that nothing reads"),
        (lacking, "lacks tensor '2.bias'"),
        (tensor("2.bias", np.nan), "layer '2': bias is not finite"),
        (tensor("2.input_scale", np.inf), "quantizer '2.input': scale inf"),
        (rescaled, "is that of no quantizer"),
        (tensor("0.weight_mask", 0), "its mask keeps"),
    ],
)
def test_what_does_not_fit_is_one_sentence(change, message, file):
    with pytest.raises(UserError, match=message):
        reader.network_of(read(changed(file, change)))


def test_files_that_are_none(tmp_path, file):
    content = content_of(file)
    for wrong, message in (
        (b"", "0 bytes are no packed network"),
        (b"x" * 100, "does not fit the file"),
        (content[:-1], "its tensors take"),
        (content + b"x", "its tensors take"),
        (content[:-1] + bytes([content[-1] ^ 1]), "do not have the SHA-256"),
        ((2).to_bytes(8, "little") + b"{}", "have no key 'micronet_packed'"),
        ((2).to_bytes(8, "little") + b"[]", "is no JSON object"),
        ((9).to_bytes(8, "little") + b'{"a":1,"a', "is not JSON"),
    ):
        with pytest.raises(UserError, match=message):
            read(wrong)
    with pytest.raises(UserError, match="cannot read"):
        reader.read(tmp_path / "nothing")
    assert not reader.is_packed(tmp_path / "nothing")
