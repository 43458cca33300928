"""One thing at once: pruning, quantizing, a recipe as text."""

import pytest
import torch

import micronet
from compressed import BOTH, PRUNE, epoch_of, recipe, small
from micronet.utils.errors import UserError


def test_pruning_at_once_holds_while_training(batches):
    model = small()
    compression = micronet.prune_(model, 0.7, layers=("first*", "second*"))
    optimizer = torch.optim.AdamW(compression.parameter_groups(), lr=0.01)
    epoch_of(model, compression, optimizer, batches, 1)
    shares = {n: z.zeros / z.total for n, z in compression.report().zeros.items()}
    assert set(shares) == {"first.0", "second.0"}
    assert all(share == pytest.approx(0.7, abs=0.005) for share in shares.values())
    with pytest.raises(UserError, match=r"prune\.groups\[0\]\.layers"):
        micronet.prune_(small(), 0.5, layers=("third",))
    with pytest.raises(UserError, match="sparsity"):
        micronet.prune_(small(), 1.5)


def test_quantizing_at_once_leaves_what_is_named_in_float():
    model = small()
    report = micronet.quantize_(model, 2.4, 8, floats=("first*",)).report()
    found = {row.layer: (row.weight_levels, row.input_levels) for row in report.layers}
    assert found == {"first.0": (None, None), "second.0": (5, 256), "fc": (5, 256)}
    assert "first.0" in str(report) and "second.0" in report.as_csv()
    assert micronet.quantize_(small(), None, 4).report().layers[0].weight_levels is None


def test_a_recipe_goes_to_text_and_back(tmp_path):
    made = recipe(prune=PRUNE, quantize=BOTH, train={"optimizer": "adamw", "betas": [0.8, 0.9]})
    (tmp_path / "r.yaml").write_text(made.to_yaml())
    loaded = micronet.Recipe.load(tmp_path / "r.yaml")
    assert loaded.to_dict() == made.to_dict() and loaded.train == made.train
    built = micronet.Recipe(
        prune=micronet.PruneSection((micronet.PruneGroup(("*",), final_sparsity=0.5),), end_epoch=3)
    )
    assert built.prune == made.prune
    with pytest.raises(UserError, match=r"prune.end_epoch"):
        micronet.compress(small(), micronet.Recipe(prune=micronet.PruneSection(built.prune.groups)))
    with pytest.raises(UserError, match=r"<recipe>: unknown key 'prun'; did you mean 'prune'"):
        recipe(prun={})
