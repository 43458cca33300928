"""The benchmark of skipped weights, at tiny sizes: what it prunes, counts, chooses and writes."""

import json

import pytest

from benchmarks.kernels import skipping
from benchmarks.qat.sites import Site

SITE = Site((1, 6, 4, 4), (8, 6, 1, 1), (1, 1), (0, 0, 0, 0), 1)


@pytest.mark.parametrize(
    "structure, sparsity, zeros", [("1x1", 0.5, 24), ("4x1", 0.75, 36), ("16x1", 0.5, 24)]
)
def test_prunes_blocks_of_outputs(structure, sparsity, zeros):
    w = skipping.pruned(SITE, structure, sparsity)[:, :, 0, 0]
    assert (w == 0).sum() == zeros
    together = (w == 0).unflatten(0, (-1, min(int(structure.partition("x")[0]), 8)))
    assert (together.all(1) == together.any(1)).all()


def test_blocks_of_inputs_are_groups_that_are_skipped():
    w = skipping.pruned(SITE, "1x4", 0.5)
    assert skipping.groups_with_weights(w) == 0.5
    assert ((w[:, :4] == 0).all(1) == (w[:, :4] == 0).any(1)).all()


def test_counts_the_groups_that_are_multiplied():
    w = skipping.pruned(SITE, "1x1", 0.0)
    w[1:] = 0  # one output with six weights, of which four and two are a group
    assert skipping.groups_with_weights(w) == 2 / 16


def _row(sparsity, multiplied, skipped, chosen=1.0):
    return skipping.Row("a", "1x1", sparsity, 1.0, multiplied, skipped, chosen, 1.0)


def test_break_even_is_interpolated():
    rows = [_row(0.8, 1.0, 2.0), _row(0.5, 1.0, 4.0), _row(0.9, 3.0, 2.0)]
    assert skipping.break_even(rows) == pytest.approx(0.85)
    assert skipping.break_even([_row(0.5, 1.0, 2.0), _row(0.9, 1.0, 1.5)]) is None
    assert skipping.break_even([_row(0.5, 2.0, 1.0)]) == 0.5
    assert skipping.regret(_row(0.5, 2.0, 4.0, 3.0)) == 1.5


@pytest.mark.slow
def test_the_command_ends_with_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(skipping, "STRUCTURES", ("4x1",))
    monkeypatch.setattr(skipping, "SPARSITIES", (0.0, 0.98))
    assert skipping.main(["--quick", "--threads", "1", "--out", str(tmp_path)]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    summary = json.loads(last.removeprefix("RESULT "))
    record = json.loads((tmp_path / "skipping_cpu.json").read_text())
    assert record["summary"] == summary and all(value > 0 for value in summary.values())
    assert len(record["rows"]) == 20
    sparse = [row for row in record["rows"] if row["sparsity"] > 0]
    assert all(row["groups"] < 0.2 for row in sparse)
