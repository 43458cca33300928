"""The scorer: published figures, hand-computed networks, and answers to bad input."""

import json
import random
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn

from micronet import models, opcount, prune, runs, score
from micronet.config import load_schedule
from micronet.errors import UserError
from micronet.rules import Precision, seed
from micronet.score import decimal, main, rounded
from micronet.train import main as train

ROOT = Path(__file__).parents[1]
GOLDENS = ROOT.parent / "shared" / "goldens"
SCHEDULE = str(ROOT / "schedules" / "efficientnet_b1_prune.yaml")
PLAN = ["--arch", "efficientnet-b1", "--schedule", SCHEDULE, "--rules", "seed"]


def golden(name):
    path = GOLDENS / name
    if not path.exists():
        pytest.skip(f"../shared/goldens/{name} is missing")
    return json.loads(path.read_text())


def test_b1_recipe_gives_every_tensor_its_published_sparsity():
    expected = golden("efficientnet_b1_sparsity.json")
    with torch.device("meta"):
        model = models.create_model("efficientnet-b1", 1000)
    ours = prune.final_sparsities(model, load_schedule(SCHEDULE).prune, SCHEDULE)
    assert {f"{name}.weight": value for name, value in ours.items()} == expected
    assert len(expected) == 116


def test_b1_plan_gives_the_published_and_the_exact_figures(capsys):
    rules = {r["name"]: r for r in golden("scoring.json")["rule_sets"]}["seed"]
    assert main([*PLAN, "--json", "--as-published"]) == 0
    found = json.loads(capsys.readouterr().out)
    exact, published = rules["exact"], rules["published"]
    assert found["storage"] == exact["storage_params"]
    assert found["storage_dense"] == exact["storage_dense_params"]
    assert found["operations"] == exact["math_ops"]
    assert found["operations_dense"] == exact["math_ops_dense"]
    assert str(found["operations_published"]) == published["math_ops"]
    assert str(rounded(Fraction(found["storage"]))) == published["storage"]
    assert f"{found['score']:.6f}" == published["score"]


def test_b1_plan_as_text(capsys):
    rules = {r["name"]: r for r in golden("scoring.json")["rule_sets"]}["seed"]
    assert main(PLAN) == 0
    text = capsys.readouterr().out
    for value in (*rules["exact"].values(), rules["published"]["score"], "0.0985", "0.1425"):
        assert value in text
    assert main([*PLAN, "--as-published"]) == 0
    assert rules["published"]["math_ops"] in capsys.readouterr().out


class Small(nn.Module):
    """Stem, depthwise with squeeze-excite and skip, classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        self.squeeze = nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        x = torch.relu(self.bn(self.stem(x)))
        y = self.depthwise(x)
        y = y * torch.sigmoid(self.squeeze(nn.functional.adaptive_avg_pool2d(y, 1)))
        return self.fc((x + y).mean((2, 3)))


NONZEROS = {"stem": 30, "depthwise": 20, "squeeze": 7, "fc": 25}
BITS = Precision(
    {"stem": Fraction(16), "depthwise": Fraction(4), "squeeze": Fraction(4), "fc": Fraction(12, 5)},
    Fraction(4),
)


def test_operations_of_a_small_network_by_hand():
    """On 5x5 pixels, A = 25; the unit is a 16-bit operation.

    stem       30*25                    = 750    dense 36*25         = 900
    bn, relu   4*25 each, float         = 200                          200
    depthwise  20*25/4 * 4/16           = 31.25  dense 36*25/4       = 225  (divided by groups)
    pool       4*25 * 4/16              = 25                           100
    squeeze    7 * 4/16 + bias 4        = 5.75   dense 16 + 4        = 20
    gate       on the map: 100 * 4/16   = 25                           100
    residual   100 * 4/16               = 25                           100
    mean       100 * 4/16               = 25                           100
    fc         25 * 2.4/16 + 10         = 13.75  dense 40 + 10       = 50
    """
    ops = opcount.walk(Small().to("meta"), 5, channels=1)
    costs = list(seed.operations(ops, NONZEROS, BITS))
    used = [750, 100, 100, "31.25", 25, "5.75", 25, 25, 25, "13.75"]
    assert [c.used for c in costs] == [Fraction(u) for u in used]
    assert [c.dense for c in costs] == [900, 100, 100, 225, 100, 20, 100, 100, 100, 50]


def test_storage_of_a_small_network_by_hand():
    """In 16-bit words: weights by their bits, biases whole, other BatchNorm entries at 4 bits."""
    costs = {c.name: c for c in seed.storage(Small(), NONZEROS, BITS)}
    expected = {
        "stem.weight": (30, 36),
        "bn.weight": (1, 4),
        "bn.bias": (4, 4),
        "bn.running_mean": (1, 4),
        "bn.running_var": (1, 4),
        "bn.num_batches_tracked": (Fraction(1, 4), 1),
        "depthwise.weight": (5, 36),
        "squeeze.weight": (Fraction(7, 4), 16),
        "squeeze.bias": (4, 4),
        "fc.weight": (Fraction(15, 4), 40),
        "fc.bias": (10, 10),
    }
    assert {n: (c.used, c.dense) for n, c in costs.items()} == expected


def test_a_zero_never_raises_the_score_and_order_does_not_matter():
    ops = opcount.walk(Small().to("meta"), 5, channels=1)

    def total(nonzeros, walked):
        stored = sum(c.used for c in seed.storage(Small(), nonzeros, BITS))
        return stored, sum(c.used for c in seed.operations(walked, nonzeros, BITS))

    before = total(NONZEROS, ops)
    for name in NONZEROS:
        fewer = {**NONZEROS, name: NONZEROS[name] - 1}
        assert all(a < b for a, b in zip(total(fewer, ops), before, strict=True))
    shuffled = dict(random.sample(list(NONZEROS.items()), len(NONZEROS)))
    assert total(shuffled, ops) == before


def test_plan_with_bits_bills_them(tmp_path, capsys):
    """resnet20's one classifier: 640 weights of 8 levels' bits, not the assumed 2.4."""
    path = tmp_path / "q.yaml"
    path.write_text("quantize: {weights: {bits: 3}, activations: {bits: 8}}")
    result = score.score_subject(score.from_plan("resnet20", str(path), seed, None, 10))
    stored = {c.name: c.used for c in result.stored}
    assert stored["fc.weight"] == Fraction(640 * 3, 16)
    assert stored["conv1.weight"] == Fraction(432 * 3, 16)
    assert stored["bn1.running_var"] == 8
    assert result.subject.image_size == 32


def test_run_is_billed_by_its_actual_zeros_and_bits(tmp_path, capsys):
    out = str(tmp_path / "fit")
    options = ["--epochs", "1", "--image-size", "16", "--batch-size", "500", "--threads", "1"]
    assert train(["fit", "--arch", "resnet20", "--out", out, *options]) == 0
    qat = "quantize: {weights: {bits: 4}, activations: {bits: 4}}\n"
    qat += "prune: {end_epoch: 1, groups: [{layers: [fc], final_sparsity: 0.5}]}"
    (tmp_path / "q.yaml").write_text(qat)
    quantised = str(tmp_path / "qat")
    start = ["qat", "--from", out, "--schedule", str(tmp_path / "q.yaml"), "--out", quantised]
    assert train([*start, *options]) == 0
    capsys.readouterr()
    assert main([out, "--json"]) == 0
    dense = json.loads(capsys.readouterr().out)
    assert dense["image_size"] == 16
    # Float: nothing but the BatchNorm division by 4 of the dense total's other entries is saved,
    # and with no quantised activation not even that.
    assert dense["storage"] == dense["storage_dense"]
    assert dense["operations"] == dense["operations_dense"]
    result = score.score_subject(score.from_run(quantised, seed))
    stored = {c.name: c.used for c in result.stored}
    assert stored["fc.weight"] == Fraction(320 * 4, 16)
    layer = models.layers(runs.load(quantised).model)["layer1.0.conv1"]
    assert stored["layer1.0.conv1.weight"] == Fraction(int((layer.weight != 0).sum()) * 4, 16)


def test_layers_table_adds_up(capsys):
    assert main(["--arch", "resnet20", "--num-classes", "10", "--layers"]) == 0
    text = capsys.readouterr().out
    assert "layer3.2.conv2" in text and "bn1.running_mean" in text


@pytest.mark.parametrize(
    "value,text",
    [("773463.75", "773463.75"), ("3", "3"), ("1/3", "0.333333"), ("1/8", "0.125"), ("0", "0")],
)
def test_decimal(value, text):
    assert decimal(Fraction(value)) == text


@pytest.mark.parametrize(
    "value,whole", [("1/2", 1), ("3/2", 2), ("0.49", 0), ("773463.75", 773464)]
)
def test_rounds_half_up(value, whole):
    assert rounded(Fraction(value)) == whole


BAD = {
    "nothing": ([], "--arch"),
    "both": (["run", "--arch", "resnet20"], "not both"),
    "rules": (["--arch", "resnet20", "--rules", "sead"], "did you mean 'seed'"),
    "arch": (["--arch", "efficientnet-b11"], "did you mean 'efficientnet-b1'"),
    "schedule": (["--arch", "resnet20", "--schedule", "no.yaml"], "no.yaml"),
    "other network": (["--arch", "resnet20", "--schedule", SCHEDULE], "efficientnet_b1_prune.yaml"),
    "run": (["no-such-run"], "no-such-run"),
    "not a checkpoint": ([SCHEDULE], "cut short or damaged"),
    "size of a run": (["run", "--image-size", "32"], "belong to a plan"),
    "uncountable": (["--arch", "vit_b_16"], "vit_b_16 cannot be counted"),
    "option": (["--rulez", "x"], "--rulez"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_exit_code_2(name, capsys):
    arguments, part = BAD[name]
    assert main(arguments) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ") and "\n" not in message and part in message


def test_quantiser_that_never_saw_data_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(score.quantize, "unready", lambda model: ["fc.input_quantizer"])
    out = str(tmp_path / "fit")
    options = ["--epochs", "1", "--image-size", "16", "--batch-size", "500", "--threads", "1"]
    assert train(["fit", "--arch", "resnet20", "--out", out, *options]) == 2
    with pytest.raises(UserError, match=r"fc\.input_quantizer"):
        score.from_run(out, seed)
