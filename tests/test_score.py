"""Rule set seed: small networks by hand, the published 2019 figures, and the command line."""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn

from micronet import checkpoint, models, prune, quantize, score, score_text
from micronet.config import load_schedule
from micronet.errors import UserError
from micronet.opcount import Activation, BatchNorm, Conv, Linear, Pool, Residual, Scale
from micronet.quantize import LayerBits
from micronet.rules import Cost, Precision, seed
from micronet.subject import precision_of

ROOT = Path(__file__).parents[1]
PRUNE = ROOT / "schedules" / "efficientnet_b1_prune.yaml"
QAT = ROOT / "schedules" / "efficientnet_b1_qat.yaml"
PLAN = ["--arch", "efficientnet-b1", "--schedule", str(PRUNE)]


def golden(name):
    path = ROOT.parent / "shared" / "goldens" / name
    if not path.exists():
        pytest.skip(f"../shared/goldens/{name} is missing")
    return json.loads(path.read_text())


def published():
    sets = golden("scoring.json")["rule_sets"]
    return next(rules for rules in sets if rules["name"] == "seed")


def cli(capsys, *argv):
    code = score.main([str(argument) for argument in argv])
    out, err = capsys.readouterr()
    return code, out, err


def small_net():
    """A stem, a depthwise layer with a bias and a classifier; 4x4 images."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )


PLANNED = {"3": 0.5, "7": 0.25}


def test_storage_and_operations_of_a_small_network_by_hand():
    result = score.score_model(small_net(), 4, sparsities=PLANNED)
    # Non-zero weights: 108 of the stem, 36 - int(.5 * 36) = 18, and 20 - int(.25 * 20) = 15.
    assert dict(result.subject.nonzeros) == {"0": 108, "3": 18, "7": 15}
    assert result.sparsity == 1 - Fraction(108 + 18 + 15, 108 + 36 + 20)
    # 16-bit words. The stem is float; 4 bits are a quarter of a word, the classifier's are 2.4/16;
    # biases are float, BatchNorm's other entries 4-bit: weight, mean, variance, and one counter.
    stem, norm, depthwise, classifier = 108, 3 + Fraction(1, 4), Fraction(18, 4), Fraction(9, 4)
    assert result.storage == stem + norm + 4 + depthwise + 4 + classifier + 5
    assert result.storage_dense == 108 + (3 * 4 + 1) + 4 + 36 + 4 + 20 + 5
    # At 16 positions. Behind the float stem BatchNorm and ReLU are float (64 elements each); the
    # depthwise layer is billed 18 * 16 / 4 groups at a quarter, its bias in full; then a ReLU of
    # 64 elements, a pooling of 64, and the classifier with its bias.
    depthwise = Fraction(18 * 16, 4) / 4 + 16 * 4
    classifier = 15 * Fraction(12, 5) / 16 + 5
    expected = [108 * 16, 64, 64, depthwise, 16, 16, classifier]
    assert [cost.used for cost in result.executed] == expected
    expected = [108 * 16, 64, 64, 36 * 16 // 4 + 64, 64, 64, 25]
    assert [cost.dense for cost in result.executed] == expected
    assert result.operations == sum(cost.used for cost in result.executed)
    by_hand = result.storage / 6_900_000 + result.operations / 1_170_000_000
    assert result.score == by_hand


def test_recorded_bits_replace_the_assumed_ones():
    bits = {"0": LayerBits(8, 8), "3": LayerBits(4, 2), "7": LayerBits(2.4, None)}
    result = score.score_model(small_net(), 4, bits=bits, sparsities=PLANNED)
    # Element-wise work and BatchNorm follow the widest activation, 8 bits, half a word.
    norm = Fraction(13, 2)
    stored = Fraction(108, 2) + norm + 4 + Fraction(18, 4) + 4 + Fraction(9, 4) + 5
    assert result.storage == stored
    depthwise = Fraction(18 * 16, 4) / 4 + 16 * 4
    classifier = 15 * Fraction(12, 5) / 16 + 5
    assert result.operations == 54 * 16 + 32 + 32 + depthwise + 32 + 32 + classifier


def test_float_networks_are_billed_whole_words():
    result = score.score_model(small_net(), 4, bits={}, sparsities={})
    assert (result.storage, result.operations) == (result.storage_dense, result.operations_dense)


def test_quirks_of_efficientnet_blocks():
    ops = [
        Conv("_blocks.3._project_conv", 8, 4, 1, (1, 1), 4, False),
        BatchNorm("_blocks.3._bn2", 16),
        Residual("_blocks.3", 16),
        Activation("_blocks.4", "sigmoid", 6),
        Scale("_blocks.4", 96),
        Activation("other", "sigmoid", 6),
        Pool("other", 96, 6),
        Residual("other", 6),
        Linear("head", 6, 2, 3, False),
    ]
    precision = Precision(
        {"_blocks.3._project_conv": Fraction(4), "head": Fraction(16)}, Fraction(4)
    )
    costs = seed.operations(ops, {"_blocks.3._project_conv": 20, "head": 7}, precision)
    # The addition in a block is its extra activation, the gate's sigmoid its product.
    assert [(cost.name, cost.kind, cost.dense, cost.used) for cost in costs] == [
        ("_blocks.3._project_conv", "convolution", 32 * 4, 20),
        ("_blocks.3._bn2", "normalisation", 16, 4),
        ("_blocks.3._bn2 (block output)", "activation", 16, 4),
        ("_blocks.4", "activation", 96, 24),
        ("other", "activation", 6, Fraction(3, 2)),
        ("other", "pooling", 96, 24),
        ("other", "activation", 6, Fraction(3, 2)),
        ("head", "linear", 12 * 3, 7 * 3),
    ]


def test_published_sum_adds_blocks_before_the_network():
    def costs(*named):
        return [Cost(name, "", Fraction(value), Fraction(value)) for name, value in named]

    # float32 holds every integer up to 2^24 and only even ones above: 1 + 1 survives as 2.
    big = 2**24
    one_by_one = costs(("stem", big), ("a", 1), ("b", 1))
    assert seed.published_operations(one_by_one) == big
    in_a_block = costs(("stem", big), ("_blocks.0.a", 1), ("_blocks.0.b", 1))
    assert seed.published_operations(in_a_block) == big + 2
    two_blocks = costs(("stem", big), ("_blocks.0.a", 1), ("_blocks.1.b", 1), ("head", 0))
    assert seed.published_operations(two_blocks) == big


def test_efficientnet_b1_plan_reproduces_the_published_entry(capsys):
    expected = published()
    code, out, _ = cli(capsys, *PLAN, "--rules", "seed")
    assert code == 0
    lines = dict(line.split(None, 1) for line in out.splitlines() if line)
    figures, exact = expected["published"], expected["exact"]
    assert lines["storage"] == (
        f"{figures['storage']} (exact {exact['storage_params']}), "
        f"dense {figures['storage_dense']}, ratio 0.0985"
    )
    dense = figures["math_ops_dense"]
    assert lines["ops"] == f"{exact['math_ops']}, dense {dense}, ratio 0.1425"
    assert lines["score"] == figures["score"]
    nonzero = golden("scoring.json")["nonzero_weights"]
    assert lines["weights"].startswith(f"{nonzero} of 7716976 are not zero")
    _, out, _ = cli(capsys, *PLAN, "--as-published")
    assert f"ops      {figures['math_ops']}, dense {dense}, ratio 0.1425" in out


def test_json_of_the_plan_is_exact(capsys):
    _, out, _ = cli(capsys, *PLAN, "--json", "--as-published", "--layers")
    record, exact = json.loads(out), published()["exact"]
    assert record["storage"] == exact["storage_params"]
    assert record["operations"] == exact["math_ops"]
    assert record["operations_published"] == published()["published"]["math_ops"]
    total = Fraction(record["storage"]) / 6_900_000 + Fraction(record["operations"]) / 1_170_000_000
    assert Fraction(record["score_exact"]) == total
    for part, whole in (("operations_list", "operations"), ("storage_entries", "storage")):
        assert sum(Fraction(cost["used"]) for cost in record[part]) == Fraction(record[whole])
        kinds = record[f"{whole}_by_kind"].values()
        assert sum(Fraction(kind["dense"]) for kind in kinds) == Fraction(record[f"{whole}_dense"])


def test_actual_zeros_score_as_the_plan_that_they_follow():
    sparsities = golden("efficientnet_b1_sparsity.json")
    model = models.create_model("efficientnet-b1", 1000)
    for name, layer in models.layers(model).items():
        weight = layer.weight.detach().view(-1).fill_(1.0)
        weight[: int(sparsities[f"{name}.weight"] * weight.numel())] = 0.0
    result = score.score_model(model, 224)
    assert result.storage == Fraction(published()["exact"]["storage_params"])
    assert result.operations == Fraction(published()["exact"]["math_ops"])


def test_prune_schedule_is_the_published_one():
    with torch.device("meta"):
        model = models.create_model("efficientnet-b1", 1000)
    schedule = load_schedule(PRUNE)
    final = prune.final_sparsities(model, schedule.prune, str(PRUNE))
    expected = golden("efficientnet_b1_sparsity.json")
    assert len(expected) == 116
    assert {f"{name}.weight": sparsity for name, sparsity in final.items()} == expected
    assert {group.initial_sparsity for group in schedule.prune.groups} == {0.05}
    p, t = schedule.prune, schedule.train
    assert (p.start_epoch, p.end_epoch, p.frequency) == (0, 20, 2)
    assert (t.epochs, t.lr, t.momentum, t.weight_decay, t.batch_size) == (40, 0.01, 0.9, 0, 256)
    assert (t.lr_schedule, t.gamma, t.lr_start_epoch) == ("exponential", 0.9, 20)


def test_qat_schedule_is_the_published_one_with_quantised_activations():
    with torch.device("meta"):
        model = models.create_model("efficientnet-b1", 1000)
    schedule = load_schedule(QAT)
    bits = quantize.plan(model, schedule.quantize, str(QAT))
    assert bits.pop("_conv_stem").is_float
    classifier = bits.pop("_fc")
    assert (classifier.weight_levels, classifier.activation_levels) == (5, None)
    assert len(bits) == 114 and set(bits.values()) == {LayerBits(4, 4, 0.99)}
    t, d = schedule.train, schedule.distill
    assert (t.lr, t.lr_schedule, t.gamma, t.lr_start_epoch) == (1e-4, "exponential", 0.9, 0)
    assert (d.temperature, d.student_weight) == (2, 0.3)


def test_planned_bits_of_the_published_recipe_are_the_assumed_ones():
    rules = score.RULES["seed"]
    assumed = score.from_plan("efficientnet-b1", str(PRUNE), rules, None, 1000).precision
    planned = score.from_plan("efficientnet-b1", str(QAT), rules, None, 1000).precision
    assert planned == assumed
    assert planned.weights["_fc"] == Fraction(12, 5)


@pytest.mark.parametrize(
    ("arch", "size"), [("efficientnet-b1", 224), ("efficientnet-micro", 32), ("resnet20", 32)]
)
def test_default_image_size_of_a_plan(capsys, arch, size):
    _, out, _ = cli(capsys, "--arch", arch, "--num-classes", 10)
    assert f"{arch} at {size}x{size}, plan without a schedule" in out


def test_permuting_channels_changes_nothing(rng):
    for trial in range(5):
        model = random_net(rng, trial)
        before = score.score_model(model, 5)
        for layer in models.layers(model).values():
            weight = layer.weight.detach()
            weight.copy_(weight[torch.randperm(len(weight), generator=rng)])
        after = score.score_model(model, 5)
        assert (after.score, after.storage) == (before.score, before.storage)


def test_adding_a_zero_never_raises_the_score(rng):
    for trial in range(5):
        model = random_net(rng, trial)
        for layer in models.layers(model).values():
            before = score.score_model(model, 5)
            weight = layer.weight.detach().view(-1)
            weight[torch.randint(len(weight), (), generator=rng)] = 0.0
            after = score.score_model(model, 5)
            changed = before.nonzeros - after.nonzeros
            assert changed in (0, 1)
            assert after.score <= before.score
            assert (after.score < before.score) == (changed == 1)


def random_net(rng, trial):
    width = 2 + 2 * trial
    model = nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(width, width, 2, groups=2),
        nn.Flatten(),
        nn.Linear(width, 3),
    )
    for parameter in model.parameters():
        random = torch.randn(parameter.shape, generator=rng)
        parameter.detach().copy_(random * (torch.rand(parameter.shape, generator=rng) < 0.7))
    return model


def test_bits_are_parsed_as_decimals():
    precision = precision_of({"a": LayerBits(2.4, None), "b": LayerBits(None, 3)}, 16)
    assert precision == Precision({"a": Fraction(12, 5), "b": Fraction(16)}, Fraction(3))
    assert Fraction(2.4) != Fraction(12, 5)


@pytest.mark.parametrize(
    ("value", "shown", "kept", "whole"),
    [
        (Fraction(7), "7", "7", 7),
        (Fraction(15, 2), "7.5", "7.5", 8),
        (Fraction(1, 80), "0.0125", "0.0125", 0),
        (Fraction(4, 3), "1.333333", "4/3", 1),
        (Fraction(773463750000001, 10**9), "773463.750000001", "773463.750000001", 773464),
    ],
)
def test_numbers_as_text(value, shown, kept, whole):
    assert score_text.decimal(value) == shown
    assert score_text.exact(value) == kept
    assert score_text.rounded(value) == whole


def test_claims_must_hold():
    model = small_net()
    with pytest.raises(UserError, match="layer '3' is recorded as 4-bit weights and 4-bit inputs"):
        score.score_model(model, 4, bits={"3": LayerBits(4, 4)})
    quantize.convert_(model, {"3": LayerBits(4, 4)})
    assert score.score_model(model, 4, bits={"3": LayerBits(4, 4)}).storage > 0
    with pytest.raises(UserError, match="is recorded as float weights and float inputs, but is 4"):
        score.score_model(model, 4, bits={})
    with pytest.raises(UserError, match="'fc' is no layer"):
        score.score_model(model, 4, sparsities={"fc": 0.5})


def test_quantisers_cost_no_storage():
    model = small_net()
    before = score.score_model(model, 4)
    quantize.convert_(model, {name: LayerBits(4, 4) for name in models.layers(model)})
    assert len(model.state_dict()) > len(before.stored)
    after = score.score_model(model, 4)
    assert [cost.name for cost in after.stored] == [cost.name for cost in before.stored]
    assert after.storage == before.storage


def write_run(path, bits, **changes):
    """Write a checkpoint of a small residual network with 100 zeros in one layer."""
    model = models.create_model("resnet20", 10)
    layers = models.layers(model)
    for layer in layers.values():
        layer.weight.detach().fill_(1.0)
    layers["layer1.0.conv1"].weight.detach().view(-1)[:100] = 0.0
    quantize.convert_(model, bits)
    for module in model.modules():
        if isinstance(module, quantize.ActivationQuantizer):
            module.step.fill_(1)
    meta = {
        "arch": "resnet20",
        "num_classes": 10,
        "channels": 3,
        "image_size": 32,
        "bits": quantize.bits_to_dict(bits),
    }
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    checkpoint.save(path, tensors, meta | changes)


def test_runs_are_scored_as_they_are(capsys, tmp_path):
    # 270896 entries in the float network: 269722 parameters, 19 BatchNorms of 688 channels with
    # two running statistics each, and their 19 counters.
    dense = 269722 + 2 * (7 * 16 + 6 * 32 + 6 * 64) - 0 + 19
    write_run(tmp_path / "best.safetensors", {})
    code, out, _ = cli(capsys, tmp_path, "--json")
    record = json.loads(out)
    assert code == 0 and record["image_size"] == 32
    assert record["storage_dense"] == str(dense)
    assert record["storage"] == str(dense - 100)
    # At 4 bits the same layer has 2304 - 100 weights of a quarter of a word; its input's bits
    # are billed to BatchNorms and to all element-wise work.
    write_run(tmp_path / "best.safetensors", {"layer1.0.conv1": LayerBits(4, 8)})
    _, out, _ = cli(capsys, tmp_path / "best.safetensors", "--json")
    norms = 3 * 688 + 19
    expected = dense - 2304 + Fraction(2204, 4) - Fraction(norms, 2)
    assert Fraction(json.loads(out)["storage"]) == expected


def test_a_run_can_be_billed_as_the_2019_script_would(capsys, tmp_path):
    write_run(tmp_path / "best.safetensors", {})
    _, out, _ = cli(capsys, tmp_path, "--assume-bits", "--json")
    with torch.device("meta"):
        model = models.create_model("resnet20", 10)
    sparsities = {"layer1.0.conv1": 100.5 / 2304}
    plan = score.score_model(model, 32, sparsities=sparsities)
    assert json.loads(out)["score_exact"] == str(plan.score)
    assert json.loads(out)["bits"] == "taken for granted by the rule set"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give a run or checkpoint, or a plan by --arch"),
        (["run", "--arch", "resnet20"], "and not both"),
        (["run", "--num-classes", "10"], "--num-classes 10 belongs to a plan"),
        (["run", "--schedule", "x.yaml"], "--schedule x.yaml belongs to a plan"),
        (["no/such/run"], "there is no run or checkpoint 'no/such/run'"),
        ([str(PRUNE)], "is cut short or damaged"),
        ([*PLAN, "--rules", "sead"], "there is no rule set 'sead'; did you mean 'seed'?"),
        (["--arch", "resnet-20"], "there is no architecture 'resnet-20'; did you mean 'resnet20'?"),
        (["--arch", "resnet20", "--schedule", "x.yaml"], "cannot read schedule 'x.yaml'"),
        (["--arch", "resnet20", "--schedule", str(PRUNE)], "prune.groups[0].layers names"),
        (["--arch", "resnet20", "--image-size", "0"], "0 is not at least 1"),
        (["--arch", "resnet20", "--assume-bits"], "--assume-bits belongs to a run"),
        (["--arch", "vit_b_16"], "vit_b_16 cannot be counted: module"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(capsys, argv, message):
    code, out, err = cli(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err


@pytest.mark.parametrize("size", [None, "32"])
def test_a_checkpoint_without_an_image_size_is_refused(capsys, tmp_path, size):
    write_run(tmp_path / "a.safetensors", {}, image_size=size)
    code, _, err = cli(capsys, tmp_path / "a.safetensors")
    assert code == 2 and "does not say its image size" in err


def test_the_module_is_a_command():
    command = [sys.executable, "-m", "micronet.score", "--arch", "resnet20", "--num-classes", "10"]
    done = subprocess.run([*command, "--layers"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stderr == ""
    assert "layer3.2.conv2.weight" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("score    0.")
