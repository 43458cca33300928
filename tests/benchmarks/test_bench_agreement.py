"""The comparison of the engine's logits with torch's, on a few made images of small networks."""

import json
import sys

import pytest
import torch

from benchmarks.engine import agreement, emulated
from micronet.artifact import engine as engines


def run(folder, *networks, count=agreement.PART + 3, more=()):
    arguments = ["--networks", *networks, "--count", str(count), "--results", str(folder)]
    return agreement.main([*arguments, *more])


def test_every_way_has_the_same_bits(tmp_path, capsys):
    before = engines.instruction_set()
    assert run(tmp_path, "resnet20") == 0
    assert engines.instruction_set() == before
    rows = json.loads((tmp_path / "engine_agreement.json").read_text())["rows"]
    seen = {row["way"]: row["images"] for row in rows}
    names = agreement.available()
    assert list(seen) == ["file in torch", *names] and before in names
    whole = agreement.PART + 3
    assert seen == dict.fromkeys(seen, whole)
    assert all(row["values"] == 10 * row["images"] and row["differ"] == 0 for row in rows)
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == f'RESULT {{"images": {whole}, "differ": 0}}'
    assert "made images" in (tmp_path / "engine_agreement.md").read_text()


def test_a_bit_that_differs_is_counted(tmp_path, monkeypatch):
    def one_off(opened, batch):
        found = whole(opened, batch)
        found[1, 3] += 1.0
        return found

    whole = agreement.by_engine
    monkeypatch.setattr(agreement, "by_engine", one_off)
    assert run(tmp_path, "efficientnet-micro", count=5) == 1
    rows = json.loads((tmp_path / "engine_agreement.json").read_text())["rows"]
    assert [row["differ"] for row in rows] == [0, *[1] * (len(rows) - 1)]


def test_results_of_other_networks_are_kept(tmp_path, monkeypatch, capsys):
    file = tmp_path / "engine_agreement.json"
    assert run(tmp_path, "efficientnet-micro", count=2) == 0
    before = json.loads(file.read_text())["rows"]
    monkeypatch.setattr(agreement.machine, "revision", lambda: "later")
    assert run(tmp_path, "resnet20", count=2, more=["--keep"]) == 0
    rows = json.loads(file.read_text())["rows"]
    # In the order of the networks, each row with the revision that it is of.
    assert rows[len(before) :] == before and len(rows) == 2 * len(before)
    assert {row["micronet"] for row in rows[: len(before)]} == {"later"} != {before[0]["micronet"]}
    assert "| resnet20 | 32 | avx2 | 2 | 20 | 0 | later |" in file.with_suffix(".md").read_text()
    capsys.readouterr()
    assert run(tmp_path, "resnet20", count=1, more=["--keep"]) == 2
    assert "is of other images" in capsys.readouterr().err
    monkeypatch.setattr(agreement.machine, "_version", lambda package: "another")
    assert run(tmp_path, "resnet20", count=2, more=["--keep"]) == 2
    assert "is of other torchvision" in capsys.readouterr().err
    assert json.loads(file.read_text())["rows"] == rows
    assert run(tmp_path / "none", "resnet20", count=2, more=["--keep"]) == 2


@pytest.mark.parametrize("count", [1, 5, agreement.PART])
def test_runs_cover_all_images_once(count):
    taken = []

    def engine(threads):
        def call(images):
            taken.append((threads, len(images)))
            return images

        return call

    batch = torch.arange(count, dtype=torch.float32).reshape(count, 1)
    found = agreement.by_engine({1: engine(1), 2: engine(2)}, batch)
    assert torch.equal(found, batch) and sum(size for _, size in taken) == count


# In place of the cross-compiled command: the engine of this machine, one value off where asked.
STAND_IN = """#!{python}
import sys
import numpy as np
import micronet

folder, *files, values, option, name = sys.argv[1:]
assert values == "--values" and option == "--instruction-set" and name in ("neon", "neondot")
images = np.stack([np.fromfile(file, np.float32).reshape(3, 32, 32) for file in files])
logits = micronet.Engine(folder)(images)
logits[:, 0] += {off}
print(*(value.hex() for value in logits.ravel().tolist()), sep="\\n")
"""


@pytest.mark.parametrize("off", [0, 1])
def test_the_engine_of_another_processor_is_compared_on_some_images(tmp_path, monkeypatch, off):
    program = tmp_path / "micronet-run"
    program.write_text(STAND_IN.format(python=sys.executable, off=off))
    program.chmod(0o755)
    monkeypatch.setattr(emulated, "EMULATOR", ())
    count = emulated.IMAGES + 2
    assert run(tmp_path, "resnet20", count=count, more=["--aarch64", str(tmp_path)]) == off
    rows = json.loads((tmp_path / "engine_agreement.json").read_text())["rows"]
    found = {row["way"]: (row["images"], row["differ"]) for row in rows if "emulated" in row["way"]}
    some = emulated.IMAGES, off * emulated.IMAGES
    assert found == {"neon, emulated": some, "neondot, emulated": some}


def test_a_program_that_fails_is_told_with_what_it_said(tmp_path, monkeypatch):
    program = tmp_path / "micronet-run"
    program.write_text("#!/bin/sh\necho no such instruction >&2\nexit 2\n")
    program.chmod(0o755)
    monkeypatch.setattr(emulated, "EMULATOR", ())
    with pytest.raises(RuntimeError, match=r"^no such instruction$"):
        emulated.logits(program, tmp_path, torch.zeros(1, 3, 2, 2), "neon")
