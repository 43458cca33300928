"""Recipes of resnet20 that tests of runs have in common."""

import yaml

PRUNE = {
    "end_epoch": 2,
    "groups": [{"layers": ["layer*"], "initial_sparsity": 0.2, "final_sparsity": 0.6}],
}
QUANTIZE = {
    "weights": {"bits": 4},
    "activations": {"bits": 4},
    "overrides": [
        {"layers": ["conv1"], "weights": None, "activations": None},
        {"layers": ["fc"], "weights": {"bits": 2.4}, "activations": None},
    ],
}


def plan(tmp_path, name="recipe.yaml", **sections):
    path = tmp_path / name
    path.write_text(yaml.safe_dump(sections))
    return str(path)
