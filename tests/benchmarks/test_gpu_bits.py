"""What the stage of `make gpu` that compares bits with the CPU counts, and when it stops."""

import dataclasses
import tarfile
import time

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
    *_, rows = bit_identity.compare(here, there, batches, CPU)
    assert [row["differ"] for row in rows] == [0, 0, 0]
    layer = next(m for m in there.modules() if isinstance(m, bit_identity.QuantizedConv2d))
    nn.init.normal_(layer.weight)
    *_, (logits, codes, sums) = bit_identity.compare(here, there, batches, CPU)
    # Every layer is fed with its input on the CPU: one layer sums otherwise, and none rounds so.
    assert logits["differ"] > 0 and sums["differ"] > 0 and codes["differ"] == 0


@pytest.mark.parametrize(
    ("device", "seconds", "differ", "known"),
    [
        ("cuda", 60, 0, {"bit_identical": True}),
        ("cuda", 60, 1, {"bit_identical": False}),
        # One image each second, and some for the end.
        ("cuda", bit_identity.REST + 2.5, 1, {"bit_identical": False}),
        (
            "cuda",
            bit_identity.REST + 2.5,
            0,
            "no bit differed, but no time for all images: 2 of 4 for efficientnet-",
        ),
        ("cuda", 2, 0, "no time for all images: 0 of 4 for efficientnet-micro, 0 of 4 for resnet"),
        ("cpu", 60, 0, "no device"),
    ],
)
def test_bits_are_identical_where_all_were_compared(
    device, seconds, differ, known, record, monkeypatch
):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(bit_identity, "images", lambda *_: iter([torch.zeros(1, 1)] * 4))
    monkeypatch.setattr(bit_identity, "prepared", lambda *_: nn.Identity())
    monkeypatch.setattr(nn.Module, "to", lambda network, _: network)

    def compare(here, there, batches, settings):
        for number, _ in enumerate(batches, 1):
            clock[0] += 1
            if settings.left() < bit_identity.REST:
                raise TimeoutError
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


def test_batches_are_evaluated_at_a_time_and_come_in_their_order():
    class Slower(nn.Module):
        def forward(self, batch):
            time.sleep(0.02 * float(batch))
            return 2 * batch * self.weight

    network = Slower()
    network.weight = nn.Parameter(torch.ones(()))
    batches = [torch.tensor(float(5 - n)) for n in range(5)]
    found = list(bit_identity.evaluated(network, batches, CPU))
    assert [float(logits) for logits in found] == [10, 8, 6, 4, 2]
    assert not any(logits.requires_grad for logits in found)


def test_no_batch_is_waited_for_longer_than_the_stage_lasts():
    class Waits(nn.Module):
        def forward(self, batch):
            time.sleep(float(batch))
            return batch

    soon = dataclasses.replace(CPU, ends=time.monotonic() + bit_identity.REST + 0.3)
    found = bit_identity.evaluated(Waits(), [torch.tensor(n) for n in (0.0, 2.0)], soon)
    assert float(next(found)) == 0
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        next(found)
    assert time.monotonic() - began < 2


def test_images_come_from_a_folder_or_a_tar(tmp_path):
    folder = make_folder(tmp_path / "data", 12) / "train"
    found = bit_identity.image_files(str(folder), tmp_path)
    assert len(found) > 0
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        archive.add(folder, "train")
    unpacked = bit_identity.image_files(str(tmp_path / "data.tar"), tmp_path / "scratch")
    assert [path.name for path in unpacked] == [path.name for path in found]
    one, two = (torch.cat(list(bit_identity.images(f, 16, len(f)))) for f in (found, unpacked))
    assert torch.equal(one, two) and one.shape[1:] == (3, 16, 16)
    assert bit_identity.image_files("", tmp_path) == []
