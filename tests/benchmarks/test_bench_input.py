"""The benchmark of the input pipeline, small: both sides see all images, and the line adds up."""

import json

import pytest
import torch

from benchmarks.pipeline import input as bench
from image_folders import make_folder
from micronet.utils.errors import UserError


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "data", 96) / "train"


def test_both_read_the_same_images(folder):
    batches = []
    for make in (bench.ours, bench.theirs):
        images, labels = zip(*make(folder, False, 0)(), strict=True)
        batches.append((torch.cat(images), torch.cat(labels)))
    (one, first), (two, second) = batches
    assert torch.equal(first, second)
    # torchvision divides by 255 first, which rounds once more.
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_ends_with_the_figures_of_the_table(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IMAGENET_SAMPLE_DIR", str(folder))
    threads = torch.get_num_threads()
    try:
        assert bench.main(["--rounds", "1", "--results", str(tmp_path)]) == 0
    finally:
        torch.set_num_threads(threads)
    last = capsys.readouterr().out.splitlines()[-1]
    found = json.loads(last.removeprefix("RESULT "))
    record = json.loads((tmp_path / "input_cpu.json").read_text())
    row = record["rows"][0]
    assert found["images_per_s"] == round(row["micronet"], 1) > 0
    assert found["vs_torchvision"] == round(row["micronet"] / row["torchvision"], 3)
    assert "| evaluation | 2 |" in (tmp_path / "input_cpu.md").read_text()


def test_names_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.delenv("IMAGENET_SAMPLE_DIR", raising=False)
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setattr(bench, "ARCHIVE", tmp_path / "none.tar")
    with pytest.raises(UserError, match="IMAGENET_SAMPLE_DIR"):
        bench.images()
