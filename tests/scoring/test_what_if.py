"""Sweeps and searches over a plan: what they vary, what they propose, what they refuse."""

import csv
import io
import itertools
import json
from fractions import Fraction

import pytest

import micronet.score as score
from micronet.scoring.count import score_subject
from micronet.scoring.network.plan_files import load_plan
from micronet.scoring.search.changes import Change, changed
from micronet.scoring.search.search import search
from micronet.scoring.search.sensitivity import load_sensitivity

RULES = score.RULES["micronet"]
PLAN = """\
arch: resnet20
num_classes: 10
quantize:
  weights: {bits: 4}
  activations: {bits: 4}
  overrides: [{layers: [conv1, fc], weights: null, activations: null}]
"""
TABLE = """\
layer,bits,inputs,sparsity,loss
layer1.*,,,0.5,0.1
layer1.*,3,3,0.5,0.4
layer2.*,,,0.5,0.05
layer2.0.conv1,2.4,3,0.8,0.3
layer3.*,3,,0.75,0.02
fc,4,4,,0.01
"""


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return path


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "sensitivity.csv"
    path.write_text(TABLE)
    return path


@pytest.fixture
def base(plan):
    return score_subject(score.from_plan(load_plan(str(plan)), RULES), RULES)


def cli(capsys, *argv):
    code = score.main([str(argument) for argument in argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_sweep_of_bits_by_hand(capsys, plan, base):
    _, out, _ = cli(capsys, plan, "--sweep", "layer1.0.conv1=bits:2..8", "--json")
    rows = json.loads(out)
    assert [row["bits"] for row in rows] == list("2345678")
    for row in rows:
        bits = int(row["bits"])
        # 2304 weights and 16 zero points; products of b bits by 4 at 1024 positions.
        storage = base.storage + Fraction((bits - 4) * (2304 + 16), 32)
        work = base.operations + Fraction((max(bits, 4) - 4) * 2304 * 1024, 32)
        assert (Fraction(row["storage"]), Fraction(row["operations"])) == (storage, work)
        assert Fraction(row["change"]) == Fraction(row["score_exact"]) - base.score
    for form in ("--csv", "--markdown", "--layers"):
        _, out, _ = cli(capsys, plan, "--sweep", "layer1.0.conv1=bits:2..8", form)
        assert "+0.000000" in out or form == "--csv"
    assert "bits of layer1.0.conv1; score as planned" in out


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ("layer*=sparsity:0.5..0.9", ["0.5", "0.6", "0.7", "0.8", "0.9"]),
        ("layer*=sparsity:0.5..0.6/0.05", ["0.5", "0.55", "0.6"]),
        ("fc=inputs:4..5", ["4", "5"]),
        ("fc=bits:2.4..2.4", ["2.4"]),
    ],
)
def test_what_a_sweep_varies(capsys, plan, spec, values):
    _, out, _ = cli(capsys, plan, "--sweep", spec, "--csv")
    rows = list(csv.reader(io.StringIO(out)))
    assert [row[0] for row in rows[1:]] == values


def test_a_sweep_is_the_plan_with_that_value(capsys, tmp_path, plan):
    other = tmp_path / "other.yaml"
    prune = "prune: {end_epoch: 2, groups: [{layers: ['layer2.*'], final_sparsity: 0.7}]}\n"
    other.write_text(PLAN + prune)
    planned = score_subject(score.from_plan(load_plan(str(other)), RULES), RULES)
    _, out, _ = cli(capsys, plan, "--sweep", "layer2.*=sparsity:0.7..0.7", "--json")
    assert json.loads(out)[0]["score_exact"] == str(planned.score)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fc", "is not of the form LAYERS=bits:2..8"),
        ("fc=bit:2..8", "'bit' is none of bits, inputs, sparsity; did you mean 'bits'?"),
        ("fc=bits:8..2", "names no value"),
        ("fc=bits:2..9", "bits 9 is not between 1 and 8"),
        ("fc=sparsity:0.5..1", "sparsity 1 is not in [0, 1)"),
        ("fc=sparsity:0.5..0.6/0", "names no value"),
        ("fcc=bits:2..8", "'fcc' is no layer; did you mean 'fc'?"),
    ],
)
def test_sweeps_that_mean_nothing(capsys, plan, spec, message):
    code, out, err = cli(capsys, plan, "--sweep", spec)
    assert (code, out) == (2, "") and message in err and spec in err


def total_loss(options, choice):
    return sum((option.loss for option in choice.values()), Fraction(0))


def test_a_search_reaches_its_target_and_explains_itself(capsys, plan, table, base, tmp_path):
    written = tmp_path / "proposal.yaml"
    target = base.score * Fraction(7, 10)
    argv = [plan, "--search", table, "--target", f"{float(target):.9f}"]
    code, out, _ = cli(capsys, *argv, "--proposal", written)
    assert code == 0 and "a unit of loss" in out and "greedy by score for loss" in out
    again = cli(capsys, *argv)[1]
    assert again == out
    record = json.loads(cli(capsys, *argv, "--json")[1])
    assert Fraction(record["score_exact"]) <= Fraction(record["target"])
    # The plan that it writes scores the same when it is read back.
    proposed = score_subject(score.from_plan(load_plan(str(written)), RULES), RULES)
    assert str(proposed.score) == record["score_exact"]
    assert cli(capsys, *argv, "--markdown")[1].startswith("| step |")


@pytest.mark.slow
def test_a_search_takes_what_costs_least_first(base, table):
    options = load_sensitivity(str(table), base.subject)
    # For a target just below the plan's score one step is enough: the one of the best rate.
    proposal = search(base, options, base.score - Fraction(1, 10**9))
    ((name, option),) = proposal.chosen.items()

    def rate(layer, row):
        subject = changed(base.subject, {layer: row.change})
        return (base.score - score_subject(subject, RULES).score) / row.loss

    assert rate(name, option) == max(rate(n, row) for n, rows in options.items() for row in rows)
    # The plan itself reaches its own score.
    assert search(base, options, base.score).steps == ()


def test_scores_of_a_search_are_counted_not_added_up(base, table):
    options = load_sensitivity(str(table), base.subject)
    proposal = search(base, options, base.score * Fraction(3, 5))
    changes = {name: option.change for name, option in proposal.chosen.items()}
    counted = score_subject(changed(base.subject, changes), RULES, base.track)
    assert counted.score == proposal.result.score
    assert counted.score <= base.score * Fraction(3, 5)


def test_no_smaller_change_of_one_layer_would_do(base, table):
    """What is left after giving back: no layer alone can go to less loss."""
    options = load_sensitivity(str(table), base.subject)
    target = base.score * Fraction(7, 10)
    proposal = search(base, options, target)
    for name, option in proposal.chosen.items():
        others = {n: o.change for n, o in proposal.chosen.items() if n != name}
        milder = [Change(), *(o.change for o in options[name] if o.loss < option.loss)]
        for change in milder:
            subject = changed(base.subject, others | {name: change})
            assert score_subject(subject, RULES).score > target


@pytest.mark.slow
def test_a_search_is_near_the_best_of_few(base, tmp_path):
    path = tmp_path / "few.json"
    rows = [
        {"layer": "layer1.0.conv1", "sparsity": 0.5, "loss": 0.3},
        {"layer": "layer1.0.conv2", "sparsity": 0.7, "loss": 0.35},
        {"layer": "layer2.1.conv1", "bits": 3, "inputs": 3, "sparsity": 0.25, "loss": 0.1},
        {"layer": "layer3.1.conv1", "sparsity": 0.9, "loss": 0.2},
    ]
    path.write_text(json.dumps(rows))
    options = load_sensitivity(str(path), base.subject)
    everything = {name: row for name, (row,) in options.items()}
    subsets = [set(n) for size in range(5) for n in itertools.combinations(everything, size)]
    scores = [
        score_subject(changed(base.subject, {n: everything[n].change for n in names}), RULES).score
        for names in subsets
    ]
    losses = [sum((everything[n].loss for n in names), Fraction(0)) for names in subsets]
    least = scores[-1]
    for share in (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4), Fraction(1)):
        target = base.score + (least - base.score) * share
        best = min(loss for loss, score in zip(losses, scores, strict=True) if score <= target)
        found = search(base, options, target)
        # Greedy, so not always the best; never worse than the best and one step more.
        assert best <= found.loss <= best + Fraction("0.35")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer,bits,loss\nfc,4,\n", "row 1: column 'loss' is missing"),
        ("layer,bits,loss\nfc,x,1\n", "row 1: bits 'x' is not a number"),
        ("layer,bits,loss\nfc,9,1\n", "row 1: bits 9 is not between 1 and 8"),
        ("layer,bits,loss\nfd,4,1\n", "row 1: 'fd' is no layer; did you mean 'fc'?"),
        ("layer,bits,loss\nfc,,1\n", "row 1 changes nothing"),
        ("layer,bit,loss\nfc,4,1\n", "unknown column 'bit'; did you mean 'bits'?"),
        ("layer,bits,loss\n", "has no rows"),
    ],
)
def test_mistakes_in_a_table(capsys, plan, tmp_path, text, message):
    path = tmp_path / "table.csv"
    path.write_text(text)
    code, out, err = cli(capsys, plan, "--search", path, "--target", "0.1")
    assert (code, out) == (2, "") and message in err and str(path) in err


@pytest.mark.parametrize("text", ["{", "3", "[1]"])
def test_tables_that_are_no_json(capsys, plan, tmp_path, text):
    path = tmp_path / "table.json"
    path.write_text(text)
    assert cli(capsys, plan, "--search", path, "--target", "0.1")[0] == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--search", "x.csv"], "--search FILE and --target SCORE go together"),
        (["--search", "x.csv", "--target", "low"], "--target 'low' is not a number"),
        (["--search", "x.csv", "--target", "0.1"], "cannot read sensitivity table 'x.csv'"),
        (["--proposal", "x.yaml"], "--proposal x.yaml needs --search"),
        (["--sweep", "a", "--search", "x", "--target", "1"], "--sweep and --search are two jobs"),
    ],
)
def test_mistakes_on_the_command_line(capsys, plan, more, message):
    code, out, err = cli(capsys, plan, *more)
    assert (code, out) == (2, "") and message in err


def test_targets_out_of_reach_and_plans_in_float(capsys, plan, table, tmp_path):
    code, _, err = cli(capsys, plan, "--search", table, "--target", "0.0001")
    assert code == 2 and "no choice of the table reaches 0.0001: least is 0.0" in err
    floats = tmp_path / "floats.yaml"
    floats.write_text("arch: resnet20\nnum_classes: 10\n")
    code, _, err = cli(capsys, floats, "--search", table, "--target", "0.01")
    assert code == 2 and "needs a plan that quantizes something" in err
