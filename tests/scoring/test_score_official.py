"""Dense EfficientNet-B0 to B3, operation by operation, against the official counter's numbers.

``official_counts.csv`` holds what the formulas of the challenge's counter give for the networks as
their paper defines them (Tan & Le 2019: stages, width and depth multipliers), which were worked out
apart from this program: multiplications and additions at 32 bits, parameters with folded biases.
A layer's line holds its products, additions, biases and activation function.
"""

import csv
from collections import defaultdict

import pytest

import micronet.score as score
from micronet.scoring.network.plan_files import plan_of
from paths import DATA

COUNTS = DATA / "official_counts.csv"
KINDS = {
    "multiplications": "layer",
    "additions": "layer",
    "bias additions": "layer",
    "activations": "layer",
    "poolings": "average",
    "products": "scale",
    "residual additions": "add",
}


def expected(network):
    with COUNTS.open() as file:
        rows = [row for row in csv.DictReader(file) if row["network"] == network]
    sizes = {int(row["image_size"]) for row in rows}
    names = ("multiplications", "additions", "parameters")
    works = {(row["layer"], row["operation"]): [int(row[name]) for name in names] for row in rows}
    return sizes.pop(), works


@pytest.mark.parametrize("network", [f"efficientnet-b{i}" for i in range(4)])
def test_dense_networks_agree_with_the_official_counter(network):
    size, works = expected(network)
    rules = score.RULES["micronet"]
    result = score.score_subject(score.from_plan(plan_of(network), rules), rules)
    assert result.subject.image_size == size
    ours = defaultdict(lambda: [0, 0, 0])
    for cost in result.executed:
        ours[cost.layer, KINDS[cost.kind]][cost.part == "add"] += cost.dense
    for cost in result.stored:
        ours[cost.layer, "layer"][2] += cost.dense
    assert dict(ours) == works


def test_the_order_of_magnitude_is_the_papers():
    # 5.3 M parameters and 0.39 G multiply-accumulates of B0; without BatchNorm's own parameters.
    _, works = expected("efficientnet-b0")
    assert round(sum(w[2] for w in works.values()) / 1e6, 1) == 5.3
    assert 0.39 <= sum(w[0] for w in works.values()) / 1e9 <= 0.42
