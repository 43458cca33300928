"""The committed account of EfficientNet-B1 is what the code counts."""

import re
from fractions import Fraction

import pytest

from benchmarks.pipeline import score_b1
from paths import ROOT

RESULT = ROOT / "benchmarks" / "results" / "score_b1.md"


@pytest.fixture(scope="module")
def text():
    return score_b1.document()


def test_the_committed_document_is_what_its_command_writes(text, tmp_path, capsys):
    assert RESULT.read_text() == text
    assert "python -m benchmarks.pipeline.score_b1 benchmarks/results/score_b1.md" in text
    assert score_b1.main([str(tmp_path / "again.md")]) == 0
    assert (tmp_path / "again.md").read_text() == text
    assert score_b1.main([]) == 2
    assert capsys.readouterr().err == "error: give the one file to write\n"


def test_totals_are_those_that_were_counted_by_others(text):
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    scores = {row[0]: Fraction(row[3]) for row in rows if len(row) == 5 and "." in row[3]}
    # Counted independently, by hand and in double precision, as 0.4212, 0.632 and 0.37717.
    assert round(scores["as meant, accumulator 32"], 4) == Fraction("0.4212")
    assert round(scores["no input quantized"], 3) == Fraction("0.632")
    assert round(scores["as meant, rule set `leaderboard`"], 5) == Fraction("0.37717")


@pytest.mark.slow
def test_layers_add_up(text):
    layers = re.findall(r"^\| (_\S+) \| (\S+) \| (\S+) \| ([+-]\S+) \|", text, re.MULTILINE)
    assert len(layers) == 116
    total = re.search(r"^\| sum \| (\S+) \| (\S+) \| (\S+) \|  \|", text, re.MULTILINE)
    for column in (1, 2, 3):
        added = sum(Fraction(layer[column]) for layer in layers)
        # Each of 116 numbers is rounded at the sixth place.
        assert abs(added - Fraction(total[column])) <= Fraction(116, 2 * 10**6)
