"""``micronet export --format``: from a run or a packed file to what other programs read."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

import micronet
from micronet.__main__ import main
from micronet.runs.folder import save
from onnx_graphs import run as run_graph
from packed_networks import network
from paths import ROOT

GRAPHS = (["onnx"], ["onnx", "--onnx-int8"], ["qonnx"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved network, and its packed file."""
    torch.manual_seed(3)
    out = tmp_path_factory.mktemp("formats")
    classes = [f"c{i}" for i in range(10)]
    model = network("efficientnet-micro", 32)
    save(model, out / "saved", image_size=32, classes=classes, mean=[0.5] * 3, std=[0.25] * 3)
    assert main(["export", str(out / "saved"), "--out", str(out / "packed")]) == 0
    return out


def export(capsys, *words):
    capsys.readouterr()
    code = main(["export", *map(str, words)])
    found = capsys.readouterr()
    return code, found.out, found.err


@pytest.mark.parametrize("words", GRAPHS, ids=" ".join)
def test_a_graph_of_a_run_is_that_of_its_packed_file(folder, tmp_path, capsys, words):
    for source in ("saved", "packed", "saved"):
        code, out, _ = export(
            capsys, folder / source, "--out", tmp_path / source, "--format", *words
        )
        assert code == 0 and f"written: {tmp_path / source / 'model.onnx'}" in out
        assert [path.name for path in (tmp_path / source).iterdir()] == ["model.onnx"]
    contents = [(tmp_path / source / "model.onnx").read_bytes() for source in ("saved", "packed")]
    assert contents[0] == contents[1]
    model = onnx.load_from_string(contents[0])
    told = {p.key: p.value for p in model.metadata_props}
    assert told["arch"] == "efficientnet-micro" and json.loads(told["std"]) == [0.25] * 3
    assert json.loads(told["classes"])[9] == "c9"
    plain = json.loads(export(capsys, folder / "packed", "--inspect", "--json")[1])
    assert told["packed_sha256"] == plain["sha256"]


def test_what_is_written_computes_the_networks_logits(folder, tmp_path, capsys, rng):
    model = micronet.load(folder / "saved").model
    images = torch.randn(3, 3, 32, 32, generator=rng)
    with torch.no_grad():
        wanted = model(images)
    path = micronet.export(model, tmp_path / "a", image_size=32, format="onnx", onnx_int8=True)
    found = run_graph(path.read_bytes(), images, as_written=True)
    assert np.median(abs(found - wanted.numpy()).max(1)) <= 2.0**-16 * float(wanted.abs().max())
    assert export(capsys, folder / "saved", "--out", tmp_path / "b", "--format", "torch")[0] == 0
    again = micronet.export(
        model,
        tmp_path / "c",
        image_size=32,
        arch="efficientnet-micro",
        classes=[f"c{i}" for i in range(10)],
        mean=[0.5] * 3,
        std=[0.25] * 3,
        format="torch",
    )
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "b" / name).read_bytes() == again.with_name(name).read_bytes()


def test_wrong_commands_are_one_sentence(folder, tmp_path, capsys):
    packed, saved, out = folder / "packed", folder / "saved", tmp_path / "a"
    for words, message in (
        ([saved, "--format", "onnx"], "give one of --out DIR, --inspect and --verify"),
        ([packed, "--inspect", "--format", "onnx"], "--format goes with --out"),
        ([packed, "--verify", "--onnx-int8"], "--onnx-int8 goes with --out"),
        ([saved, "--out", out, "--onnx-int8"], "types of 8 bits alone are for the format 'onnx'"),
        ([saved, "--out", out, "--format", "qonnx", "--onnx-int8"], "for the format 'onnx', not"),
        ([packed, "--out", out, "--format", "torch"], "is a packed network"),
    ):
        code, _, err = export(capsys, *words)
        assert code == 2 and message in err and err.count("\n") == 1, (words, err)
    assert not out.exists()
    with pytest.raises(micronet.UserError, match="there is no format 'onx'; did you mean 'onnx'"):
        micronet.export(network("resnet20", 32), out, image_size=32, format="onx")


def test_files_of_other_kinds_are_not_overwritten(folder, tmp_path, capsys):
    saved = folder / "saved"
    for format, name in (("onnx", "model.onnx"), ("torch", "config.json"), ("torch", None)):
        out = tmp_path / f"{format} {name}"
        out.mkdir()
        if name is None:
            (out / "model.safetensors").write_bytes(b"weights")
        else:
            (out / name).write_text("{}")
        code, _, err = export(capsys, saved, "--out", out, "--format", format)
        assert code == 2 and "is of something else: export elsewhere" in err
        assert len(list(out.iterdir())) == 1
    for format in ("packed", "torch"):
        code, _, err = export(capsys, saved, "--out", saved, "--format", format)
        assert code == 2 and "is of something else" in err
    export(capsys, saved, "--out", tmp_path / "torch", "--format", "torch")
    code, _, err = export(capsys, saved, "--out", tmp_path / "torch")
    assert code == 2 and "is of something else" in err


def test_a_damaged_file_becomes_no_graph(folder, tmp_path, capsys):
    (tmp_path / "packed").mkdir()
    content = bytearray((folder / "packed" / "model.safetensors").read_bytes())
    content[-5] ^= 16
    (tmp_path / "packed" / "model.safetensors").write_bytes(content)
    words = tmp_path / "packed", "--out", tmp_path / "out", "--format", "onnx"
    code, _, err = export(capsys, *words)
    assert code == 2 and "SHA-256" in err and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_only_the_formats_of_graphs_need_onnx(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    for format in ("onnx", "qonnx"):
        words = folder / "saved", "--out", tmp_path / "a", "--format", format
        code, _, err = export(capsys, *words)
        assert code == 2 and err.count("\n") == 1
        assert f"the format '{format}' needs a package: pip install 'micronet[onnx]'" in err
    assert not (tmp_path / "a").exists()
    code = """
import sys
sys.modules["onnx"] = None
from micronet.__main__ import main
source, out = sys.argv[1:]
for format in ("packed", "torch"):
    assert main(["export", source, "--out", f"{out}/{format}", "--format", format]) == 0
"""
    words = [sys.executable, "-c", code, str(folder / "saved"), str(tmp_path)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
