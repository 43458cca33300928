"""What a pipeline prints, and that a demo removes nothing but a demo."""

import pytest

from micronet import demo
from micronet.cli import pipeline
from micronet.quantization.quantize import LayerBits
from micronet.recipe.reader import load_recipe
from micronet.train import main
from micronet.utils.errors import UserError

OPTIONS = ["--epochs", "1", "--image-size", "8", "--batch-size", "500", "--threads", "1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "fit"
    assert main(["fit", "--arch", "resnet20", "--out", str(out), *OPTIONS]) == 0
    return out


def test_describe_counts_the_test_set(run):
    result = pipeline.result_of(run)
    assert result.stage == "fit" and result.epochs == 1 and result.bits == "float"
    assert 0 <= result.accuracy.correct <= result.accuracy.total
    assert result.sparsity == 0 and result.minutes > 0
    # What quantizes nothing counts in 16 bits.
    assert result.score.rules.name == "micronet"
    assert 2 * result.score.storage == result.score.storage_dense


def test_table_has_one_aligned_row_a_stage(run):
    result = pipeline.result_of(run)
    lines = pipeline.table([result, result]).splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert lines[0].startswith("| stage") and lines[2] == lines[3]
    assert f"{result.accuracy.correct:,} of {result.accuracy.total:,}" in lines[2]


@pytest.mark.parametrize(
    "bits,text",
    [
        ([LayerBits(None, None)], "float"),
        ([LayerBits(4, 4), LayerBits(2.4, None), LayerBits(4, 4)], "4/4"),
        ([LayerBits(2.4, None)], "2.4/float"),
        ([], "float"),
    ],
)
def test_commonest_precision(bits, text):
    assert pipeline.bits_text(bits) == text


def test_stage_that_fails_stops_the_pipeline(tmp_path, capsys):
    with pytest.raises(UserError, match="'fit' did not finish"):
        pipeline.run_stage(["fit", "--arch", "resnet21", "--out", tmp_path / "x"])
    assert "resnet21" in capsys.readouterr().err


def test_demo_refuses_a_folder_that_is_not_its_own(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert demo.main(["--out", str(tmp_path)]) == 2
    assert "thesis.txt" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_demo_recipes_are_there():
    sections = {"fit": "train", "prune": "prune", "qat": "quantize"}
    for stage, section in sections.items():
        assert getattr(load_recipe(f"demo_{stage}"), section) is not None
