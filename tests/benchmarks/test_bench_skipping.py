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
    return skipping.Row("a", "expansion", "1x1", sparsity, 1.0, multiplied, skipped, chosen, 1.0)


def test_break_even_is_interpolated():
    rows = [_row(0.8, 1.0, 2.0), _row(0.5, 1.0, 4.0), _row(0.9, 3.0, 2.0)]
    assert skipping.break_even(rows) == pytest.approx(0.85)
    assert skipping.break_even([_row(0.5, 1.0, 2.0), _row(0.9, 1.0, 1.5)]) is None
    assert skipping.break_even([_row(0.5, 2.0, 1.0)]) == 0.5
    assert skipping.regret(_row(0.5, 2.0, 4.0, 3.0)) == 1.5


def test_break_even_is_told_by_kind_of_layer_and_block():
    """Two expansions break even at 0.6 and 0.8, of which one never does in blocks; a projection."""

    def layer(site, kind, structure, even):
        for sparsity in (0.5, 0.7, 0.9):
            skipped = 1.0 if even is not None and sparsity > even else 2.0
            yield skipping.Row(site, kind, structure, sparsity, 1.0, 1.5, skipped, 1.0, 1.0)

    rows = [
        *layer("a", "expansion", "1x1", 0.6),
        *layer("b", "expansion", "1x1", 0.8),
        *layer("c", "projection", "1x1", 0.4),
        *layer("a", "expansion", "1x4", 0.6),
        *layer("b", "expansion", "1x4", None),
        *layer("c", "projection", "1x4", None),
    ]
    assert skipping.middle_break_even(rows, "1x1", "projection") == 0.5
    # Gains of 0.75 and 1.5 on either side: a third of the way between the sparsities.
    between = [0.5 + 0.2 / 3, 0.7 + 0.2 / 3]
    assert skipping.middle_break_even(rows, "1x1", "expansion") == pytest.approx(sum(between) / 2)
    head, _, expansions, projections = skipping.by_kind(rows)
    assert head == "| break-even, median | 1x1 | 1x4 |"
    assert expansions == "| 2 expansions | 67% | 78% |" and projections.endswith("| 50% | never |")


def test_layers_are_told_apart_by_their_outputs():
    assert skipping.kind(SITE) == "expansion"
    narrow = Site((1, 8, 4, 4), (6, 8, 1, 1), (1, 1), (0, 0, 0, 0), 1)
    assert skipping.kind(narrow) == "projection"


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
