"""What the stage of `make gpu` that compares bits with the CPU counts, and when it stops."""

import dataclasses
import tarfile

import pytest
import torch
from torch import nn

from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.stages import bit_identity
from image_folders import make_folder

CPU = Settings("cpu", True, "unused")


@pytest.fixture
def record(tmp_path):
    return Record(tmp_path / "found.json")


def test_one_bit_is_a_difference():
    x = torch.randn(5, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other.view(torch.int32)[3] ^= 1
    assert bit_identity.different(x, x.clone()) == 0
    assert bit_identity.different(x, other) == 1
    assert bit_identity.different(x, x.double()) == 5
    assert bit_identity.different(x, x[:4]) == 5


@torch.no_grad()
def test_another_weight_is_another_sum_and_logit():
    case = bit_identity.QUICK_CASES[1]
    batches = list(bit_identity.images([], case.side, 4))
    here, there = (bit_identity.prepared(case, batches) for _ in range(2))
    *_, rows = bit_identity.compare(here, there, batches, "cpu")
    assert [row["differ"] for row in rows] == [0, 0, 0]
    layer = next(m for m in there.modules() if isinstance(m, bit_identity.QuantizedConv2d))
    nn.init.normal_(layer.weight)
    *_, (logits, codes, sums) = bit_identity.compare(here, there, batches, "cpu")
    # Every layer is fed with its input on the CPU: one layer sums otherwise, and none rounds so.
    assert logits["differ"] > 0 and sums["differ"] > 0 and codes["differ"] == 0


@pytest.mark.parametrize(
    ("device", "seconds", "differ", "known"),
    [
        ("cuda", 60, 0, {"bit_identical": True}),
        ("cuda", 60, 1, {"bit_identical": False}),
        # One image each second, of which the last three are for the end.
        ("cuda", 5.5, 1, {"bit_identical": False}),
        ("cuda", 5.5, 0, "no bit differed, but no time for all images: 2 of 4 for efficientnet-"),
        ("cuda", 2, 0, "no time for all images: 0 of 4 for efficientnet-micro, 0 of 4 for resnet"),
        ("cpu", 60, 0, "no device"),
    ],
)
def test_bits_are_identical_where_all_were_compared(
    device, seconds, differ, known, record, monkeypatch
):
    clock = [0.0]
    monkeypatch.setattr(bit_identity.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(bit_identity, "images", lambda *_: iter([torch.zeros(1, 1)] * 4))
    monkeypatch.setattr(bit_identity, "prepared", lambda *_: nn.Identity())
    monkeypatch.setattr(nn.Module, "to", lambda network, _: network)

    def compare(here, there, batches, device):
        for number, _ in enumerate(batches, 1):
            clock[0] += 1
            yield [{"what": "logits", "images": number, "values": 10, "differ": differ}]

    monkeypatch.setattr(bit_identity, "compare", compare)
    bit_identity.measure(dataclasses.replace(CPU, device=device, ends=seconds), record)
    found = record.found
    assert found.figures == (known if isinstance(known, dict) else {})
    if isinstance(known, str):
        assert known in found.missing["bit_identical"]
    # A network has one row, whose numbers grow.
    rows = found.tables.get("Bits", [])
    assert len(rows) == len({row["network"] for row in rows})


def test_images_come_from_a_folder_or_a_tar(tmp_path):
    folder = make_folder(tmp_path / "data", 12) / "train"
    found = bit_identity.image_files(str(folder), tmp_path)
    assert len(found) > 0
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        archive.add(folder, "train")
    unpacked = bit_identity.image_files(str(tmp_path / "data.tar"), tmp_path / "scratch")
    assert [path.name for path in unpacked] == [path.name for path in found]
    (one,) = bit_identity.images(found, 16, len(found))
    (two,) = bit_identity.images(unpacked, 16, len(found))
    assert torch.equal(one, two) and one.shape[1:] == (3, 16, 16)
    assert bit_identity.image_files("", tmp_path) == []
