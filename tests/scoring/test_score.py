"""The scorer: the published 2019 figures and recipes, runs, and the command line."""

import json
import subprocess
import sys
from fractions import Fraction

import pytest
import torch

import micronet.score as score
from micronet.models import architectures
from micronet.pruning import prune
from micronet.quantization import quantize
from micronet.quantization.quantize import LayerBits
from micronet.recipe.reader import load_recipe
from micronet.runs import checkpoint
from micronet.scoring.network.plan_files import plan_of
from micronet.utils.number_format import decimal, exact, fixed, rounded
from paths import DATA, ROOT

PRUNE = ROOT / "schedules" / "efficientnet_b1_prune.yaml"
QAT = ROOT / "schedules" / "efficientnet_b1_qat.yaml"
PLAN = ["--arch", "efficientnet-b1", "--schedule", str(PRUNE)]


@pytest.fixture
def scoring():
    """The published figures of the entry and of its rule sets."""
    return json.loads((DATA / "scoring.json").read_text())


@pytest.fixture
def published(scoring):
    return next(rules for rules in scoring["rule_sets"] if rules["name"] == "seed")


@pytest.fixture
def published_sparsities():
    return json.loads((DATA / "efficientnet_b1_sparsity.json").read_text())


def cli(capsys, *argv):
    code = score.main([str(argument) for argument in argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_efficientnet_b1_plan_reproduces_the_published_entry(capsys, scoring, published):
    code, out, _ = cli(capsys, *PLAN, "--rules", "seed")
    assert code == 0
    lines = dict(line.split(None, 1) for line in out.splitlines() if line)
    figures, exact = published["published"], published["exact"]
    assert lines["storage"] == (
        f"{figures['storage']} (exact {exact['storage_params']}), "
        f"dense {figures['storage_dense']}, ratio 0.0985"
    )
    dense = figures["math_ops_dense"]
    assert lines["ops"] == f"{exact['math_ops']}, dense {dense}, ratio 0.1425"
    assert lines["score"] == figures["score"]
    nonzero = scoring["nonzero_weights"]
    assert lines["weights"].startswith(f"{nonzero} of 7716976 are not zero")
    _, out, _ = cli(capsys, *PLAN, "--rules", "seed", "--as-published")
    for key, text in figures.items():
        assert f"  {key} {text}\n" in out + "\n"


def test_json_of_the_plan_is_exact(capsys, published):
    _, out, _ = cli(capsys, *PLAN, "--rules", "seed", "--json", "--as-published", "--entries")
    record, exact = json.loads(out), published["exact"]
    assert record["storage"] == exact["storage_params"]
    assert record["operations"] == exact["math_ops"]
    assert record["published"]["math_ops"] == published["published"]["math_ops"]
    total = Fraction(record["storage"]) / 6_900_000 + Fraction(record["operations"]) / 1_170_000_000
    assert Fraction(record["score_exact"]) == total
    for part, whole in (("operations_list", "operations"), ("storage_entries", "storage")):
        assert sum(Fraction(cost["used"]) for cost in record[part]) == Fraction(record[whole])
        kinds = record[f"{whole}_by_kind"].values()
        assert sum(Fraction(kind["dense"]) for kind in kinds) == Fraction(record[f"{whole}_dense"])


def test_actual_zeros_score_as_the_plan_that_they_follow(published, published_sparsities):
    model = architectures.create_model("efficientnet-b1", 1000)
    for name, layer in architectures.layers(model).items():
        weight = layer.weight.detach().view(-1).fill_(1.0)
        weight[: int(published_sparsities[f"{name}.weight"] * weight.numel())] = 0.0
    result = score.score_model(model, 224, rules=score.RULES["seed"])
    assert result.storage == Fraction(published["exact"]["storage_params"])
    assert result.operations == Fraction(published["exact"]["math_ops"])


def test_prune_schedule_is_the_published_one(published_sparsities):
    with torch.device("meta"):
        model = architectures.create_model("efficientnet-b1", 1000)
    schedule = load_recipe(PRUNE)
    final = prune.final_sparsities(model, schedule.prune, str(PRUNE))
    assert len(published_sparsities) == 116
    assert {f"{name}.weight": sparsity for name, sparsity in final.items()} == published_sparsities
    assert {group.initial_sparsity for group in schedule.prune.groups} == {0.05}
    p, t = schedule.prune, schedule.train
    assert (p.start_epoch, p.end_epoch, p.frequency) == (0, 20, 2)
    assert (t.epochs, t.lr, t.momentum, t.weight_decay, t.batch_size) == (40, 0.01, 0.9, 0, 256)
    assert (t.lr_schedule, t.gamma, t.lr_start_epoch) == ("exponential", 0.9, 20)


def test_qat_schedule_is_the_published_one_with_quantized_activations():
    with torch.device("meta"):
        model = architectures.create_model("efficientnet-b1", 1000)
    schedule = load_recipe(QAT)
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
    assumed, planned = (
        score.from_plan(plan_of("efficientnet-b1", [str(path)]), rules) for path in (PRUNE, QAT)
    )
    bits = {
        name: (f.bits.weight_bits, f.bits.activation_bits) for name, f in planned.layers.items()
    }
    assert bits["_fc"] == (2.4, None)
    assert bits == {
        name: (f.bits.weight_bits, f.bits.activation_bits) for name, f in assumed.layers.items()
    }


@pytest.mark.parametrize(
    ("rules", "arch", "size"),
    [
        ("seed", "efficientnet-b1", 224),
        ("leaderboard", "efficientnet-b1", 224),
        ("micronet", "efficientnet-b1", 240),
        ("seed", "efficientnet-micro", 32),
        ("micronet", "resnet20", 32),
    ],
)
def test_default_image_size_of_a_plan(capsys, rules, arch, size):
    _, out, _ = cli(capsys, "--arch", arch, "--num-classes", 10, "--rules", rules)
    assert f"{arch} at {size}x{size}, plan without a schedule" in out


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
    assert decimal(value) == shown
    assert exact(value) == kept
    assert rounded(value) == whole


def test_fixed_places_round_half_up():
    assert fixed(Fraction(1, 8), 2) == "0.13"
    assert fixed(Fraction(-1, 3), 2) == "-0.33"
    assert fixed(Fraction(-1, 1000), 2) == "0.00"
    assert fixed(Fraction(25, 2), 0) == "13"


def write_run(path, bits, **changes):
    """Write a checkpoint of a small residual network with 100 zeros in one layer."""
    model = architectures.create_model("resnet20", 10)
    layers = architectures.layers(model)
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
    # The paper's 269722 parameters; and of 19 BatchNorms, of 688 channels together, two running
    # statistics a channel and one counter each.
    dense = 269722 + 2 * (7 * 16 + 6 * 32 + 6 * 64) + 19
    write_run(tmp_path / "best.safetensors", {})
    code, out, _ = cli(capsys, tmp_path, "--rules", "seed", "--json")
    record = json.loads(out)
    assert code == 0 and record["image_size"] == 32
    assert record["storage_dense"] == str(dense)
    assert record["storage"] == str(dense - 100)
    # At 4 bits the same layer has 2304 - 100 weights of a quarter of a word; its input's bits
    # are billed to BatchNorms and to all element-wise work.
    write_run(tmp_path / "best.safetensors", {"layer1.0.conv1": LayerBits(4, 8)})
    _, out, _ = cli(capsys, tmp_path / "best.safetensors", "--rules", "seed", "--json")
    norms = 3 * 688 + 19
    expected = dense - 2304 + Fraction(2204, 4) - Fraction(norms, 2)
    assert Fraction(json.loads(out)["storage"]) == expected


def test_a_run_can_be_billed_as_the_2019_script_would(capsys, tmp_path):
    write_run(tmp_path / "best.safetensors", {})
    _, out, _ = cli(capsys, tmp_path, "--rules", "seed", "--assume-bits", "--json")
    with torch.device("meta"):
        model = architectures.create_model("resnet20", 10)
    sparsities = {"layer1.0.conv1": 100.5 / 2304}
    plan = score.score_model(model, 32, sparsities=sparsities, rules=score.RULES["seed"])
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
        ([*PLAN, "--rules", "sead"], "there is no rule set 'sead'; did you mean 'seed'?"),
        (["--arch", "resnet-20"], "there is no architecture 'resnet-20'; did you mean 'resnet20'?"),
        (["--arch", "resnet20", "--schedule", "x.yaml"], "cannot read schedule 'x.yaml'"),
        (["--arch", "resnet20", "--schedule", str(PRUNE)], "prune.groups[0].layers: "),
        (["--arch", "resnet20", "--image-size", "0"], "0 is not at least 1"),
        (["--arch", "resnet20", "--assume-bits"], "--assume-bits belongs to a run"),
        (["--arch", "vit_b_16"], "vit_b_16 cannot be counted: module"),
        (["run", "run2"], "2 networks are given: add --compare"),
        ([*PLAN, "--as-published"], "rule set 'micronet' has no program whose figures"),
        ([*PLAN, "--rules", "seed", "--accumulator", "tree"], "'seed' bills additions at widths"),
        ([*PLAN, "--accumulator", "16"], "invalid choice: '16'"),
        ([*PLAN, "--track", "cifar-100"], "there is no track 'cifar-100'; did you mean 'cifar100'"),
        ([*PLAN, "--compare"], "--compare needs two or more"),
        ([*PLAN, "--json", "--csv"], "not allowed with argument"),
        (["run", "--assume-bits"], "rule set 'micronet' takes no bits for granted"),
        (["run", "--weights", "x.pth"], "--weights x.pth goes with --arch or a plan"),
        (["no.yaml"], "cannot read plan 'no.yaml'"),
        ([str(QAT)], "has no key 'arch'; a schedule goes with --arch"),
        ([*PLAN, "--schedule", str(PRUNE)], "have a section 'prune'"),
        (["--arch", "no.such.module:f", "--image-size", "4"], "cannot import 'no.such.module'"),
        (["--arch", "math:f", "--image-size", "4"], "module 'math' has no function 'f'"),
        (["--arch", "math:gcd", "--image-size", "4"], "'math:gcd' returned int, which is no torch"),
        (["--arch", "math:sqrt", "--image-size", "4"], "'math:sqrt' failed: TypeError: "),
        (["--arch", "torch.nn:Identity"], "torch.nn:Identity has no image size of its own"),
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


@pytest.mark.slow
def test_the_module_is_a_command():
    command = [sys.executable, "-m", "micronet.score", "--arch", "resnet20", "--num-classes", "10"]
    done = subprocess.run([*command, "--layers"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stderr == ""
    assert "layer3.2.conv2" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("score    0.")
