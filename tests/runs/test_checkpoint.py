"""Checkpoints: whole or not at all, and a clear word for a damaged one."""

import json

import pytest
import safetensors.torch
import torch

from micronet.models import architectures
from micronet.runs import checkpoint, directory
from micronet.utils.errors import UserError


def example():
    return {
        "model/w": torch.randn(3, 4).t(),
        "mask/w": torch.tensor([1, 2], dtype=torch.uint8),
        "model/steps": torch.tensor([5]),
    }


def test_round_trip_is_bit_exact(tmp_path):
    path = tmp_path / "last.safetensors"
    tensors = example()
    checkpoint.save(path, tensors, {"arch": "x", "value": 0.1})
    found = checkpoint.load(path)
    assert found.meta == {"format": checkpoint.FORMAT, "arch": "x", "value": 0.1}
    assert found.tensors.keys() == tensors.keys()
    assert all(torch.equal(found.tensors[k], tensors[k]) for k in tensors)
    assert found.group("model").keys() == {"w", "steps"}
    assert json.loads(path.with_suffix(".json").read_text()) == found.meta
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.json", "last.safetensors"]


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, -1])
def test_cut_short(tmp_path, keep):
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, example(), {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"last\.safetensors' is cut short or damaged"):
        checkpoint.load(path)


def test_not_ours(tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="not a micronet checkpoint"):
        checkpoint.load(path)
    safetensors.torch.save_file({"w": torch.zeros(2)}, path, {"micronet": "{"})
    with pytest.raises(UserError, match="damaged header"):
        checkpoint.load(path)
    safetensors.torch.save_file({"w": torch.zeros(2)}, path, {"micronet": '{"format": 99}'})
    with pytest.raises(UserError, match="format 99"):
        checkpoint.load(path)


def test_failed_write_leaves_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, example(), {"epoch": 1})
    before = path.read_bytes()

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        checkpoint.save(path, example(), {"epoch": 2})
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


def test_run_or_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no run or checkpoint"):
        directory.find_checkpoint(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no checkpoint"):
        directory.find_checkpoint(tmp_path)


def test_records_of_a_repeated_epoch_are_replaced(tmp_path):
    run = directory.RunDirectory(tmp_path)
    for epoch in (0, 1, 2, 1):
        run.record({"epoch": epoch, "value": 10 * epoch})
    assert [r["epoch"] for r in run.metrics()] == [0, 1]
    assert run.summary_file.read_text().splitlines() == ["epoch,value", "0,0", "1,10"]


def test_a_network_that_scales_its_images_does_so_again(tmp_path):
    """As torchvision's published GoogLeNet does, which ``--pretrained`` starts from."""
    torch.manual_seed(0)
    model = architectures.create_model("googlenet", 3)
    architectures.transform_input_(model)
    meta = {"arch": "googlenet", "num_classes": 3, "channels": 3, "bits": {}}
    images = torch.randn(1, 3, 32, 32)
    for scales in (True, False):
        path = tmp_path / f"{scales}.safetensors"
        state = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
        checkpoint.save(path, state, meta | {"transform_input": scales})
        loaded = directory.load(path).model
        assert architectures.transforms_input(loaded) == scales
        assert torch.equal(loaded._transform_input(images), images) != scales
        assert not scales or torch.equal(loaded(images), model.eval()(images))
