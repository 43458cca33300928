"""Networks that do not fit: one sentence before anything is trained or written."""

import sys

import pytest
import torch
from torch import nn

import micronet.score as score
from micronet.models import custom
from micronet.runs import checkpoint
from micronet.train import main
from micronet.training import evaluation
from micronet.utils.errors import UserError
from trial_networks import QUANTIZE, SMALL, SOURCE, refused, written

REFUSED = {
    "one_channel": ["does not take an image of 3x16x16", "in module 'conv'", "8, 1, 3, 3"],
    "too_few": ["returned a tensor of 2x2 (float32) for 2 images", "2x10"],
    "too_many": ["returned a tensor of 2x1000", "2x10"],
    "no_parameters": ["has no parameters"],
    "frozen": ["every parameter", "is frozen"],
    "auxiliary": ["returned a tuple of 2"],
    "auxiliary_in_evaluation": ["returned a list of 1"],
    "dictionary": ["returned a dict of 'logits'"],
    "nothing": ["returned None"],
    "scalar": ["returned a scalar (float32)"],
    "whole_numbers": ["returned a tensor of 2 (int64)"],
    "complex_numbers": ["returned a tensor of 2x10 (complex64)"],
    "one_row": ["returned a tensor of 1x10"],
    "maps": ["returned a tensor of 2x10x1x1"],
    "detached": ["no parameter", "has any effect"],
    "constant": ["no parameter", "has any effect"],
    "not_finite": ["'fc.bias'", "not finite"],
    "type_error": ["does not take an image", "TypeError"],
    "attribute_error": ["AttributeError: 'Net' object has no attribute 'missing'"],
    "key_error": ["KeyError: 'k'"],
    "assertion_error": ["AssertionError"],
    "two_lines": ["RuntimeError: one two"],
    "leaves": ["SystemExit: 0"],
    "recursion": ["RecursionError"],
    "in_place": ["has no gradient", "inplace operation"],
    "lazy": ["'1', a LazyLinear", "must be given"],
    "script": ["TorchScript"],
    "leaving_at_once": ["failed", "SystemExit"],
    "extra_state": ["'_extra_state' (dict)", "tensors alone"],
    "broken_state": ["cannot be kept in a checkpoint", "OSError: x"],
    "sparse": ["cannot be kept in a checkpoint"],
    "double_complex": ["cannot be kept in a checkpoint", "complex128"],
    "part_of_another": ["cannot be kept in a checkpoint", "share memory"],
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("net", REFUSED)
def test_refused_before_anything_is_written(net, nets, tmp_path, capsys):
    out = tmp_path / "run"
    message = refused(main, ["fit", "--arch", f"{nets}:{net}", *SMALL, "--out", out], capsys)
    for part in [f"{nets}:{net}", *REFUSED[net]]:
        assert part in message, (part, message)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arch", "options", "parts"),
    [
        ("alexnet", ["--batch-size", "8"], ["3x32x32", "'features.12'"]),
        ("inception_v3", ["--batch-size", "8"], ["3x32x32", "'Mixed_6a"]),
        ("mobilenet_v3_small", ["--batch-size", "1"], ["two images it does train on"]),
        ("mobilenet_v3_small", ["--batch-size", "4", "--accumulate", "4"], ["--accumulate"]),
    ],
)
def test_networks_with_a_name_are_tried_too(arch, options, parts, tmp_path, capsys):
    command = ["fit", "--arch", arch, "--epochs", "1", *options, "--out", tmp_path / "run"]
    message = refused(main, command, capsys)
    for part in [arch, *parts]:
        assert part in message, (part, message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arch", ["one_channel", "type_error", "leaves", "leaving_at_once"])
def test_what_needs_no_training_answers_in_one_sentence_too(arch, nets, capsys):
    common = ["--arch", f"{nets}:{arch}", "--num-classes", "10", "--image-size", "16"]
    for program, command in ((score.main, common), (main, ["summary", *common])):
        assert f"{nets}:{arch}" in refused(program, command, capsys)


@pytest.mark.parametrize("code", ["raise KeyError('x')", "import sys; sys.exit(3)", "def net(:"])
def test_a_module_that_does_not_import(code, tmp_path, monkeypatch, capsys):
    name = f"broken_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    command = ["fit", "--arch", f"{name}:net", *SMALL, "--out", tmp_path / "run"]
    assert f"cannot import '{name}'" in refused(main, command, capsys)


def test_a_failure_in_a_later_step_names_it(nets, tmp_path, capsys):
    """What was saved until then stays."""
    out, spec = tmp_path / "run", f"{nets}:third_batch"
    command = ["fit", "--arch", spec, *SMALL, "--checkpoint-every", "1", "--out", out]
    command[command.index("500")] = "400"
    message = refused(main, command, capsys)
    assert "fit epoch 1, step 3" in message and "KeyError: 'third'" in message
    assert str(out / "last.safetensors") in message
    assert checkpoint.load(out / "last.safetensors").meta["progress"]["step"] == 2


@pytest.mark.parametrize("change", ["y[:, :1]", "(y, y)", "y.argmax(1)", "y[:1]"])
def test_an_output_that_changes_later_names_the_step(change, nets, tmp_path, capsys):
    with (tmp_path / f"{nets}.py").open("a") as file:
        file.write(f"\n\nchanging = out(lambda net, y: {change} if len(y) > 2 else y)\n")
    command = ["fit", "--arch", f"{nets}:changing", *SMALL, "--out", tmp_path / "run"]
    assert "fit epoch 1, step 1" in refused(main, command, capsys)
    with (tmp_path / f"{nets}.py").open("a") as file:
        file.write("\n\nchanging = out(lambda net, y: y if net.training or len(y) < 3 else 1)\n")
    sys.modules.pop(nets)
    command[-1] = tmp_path / "validated"
    message = refused(main, command, capsys)
    assert "fit epoch 1, validation: Net returned an int" in message


def test_an_unused_layer_is_noted_and_refused_where_it_would_be_quantized(nets, tmp_path, capsys):
    spec, out, recipe = f"{nets}:unused", str(tmp_path / "fit"), written(tmp_path, QUANTIZE)
    assert main(["fit", "--arch", spec, *SMALL, "--out", out]) == 0
    assert f"note: no gradient reaches 'head' of {spec}" in capsys.readouterr().out
    qat = ["qat", "--from", out, "--own", spec, *SMALL, "--schedule", recipe]
    message = refused(main, [*qat, "--out", tmp_path / "qat"], capsys)
    assert "recipe.yaml:1" in message and "layer 'head'" in message and "never called" in message
    assert not (tmp_path / "qat").exists()
    aside = {"layers": ["head"], "weights": None, "activations": None}
    written(tmp_path, {"quantize": {**QUANTIZE["quantize"], "overrides": [aside]}})
    assert main([*qat, "--out", str(tmp_path / "qat")]) == 0


def test_a_layer_that_cannot_be_quantized_is_refused_before_it_is_trained(nets, tmp_path, capsys):
    """Also where it would be quantized in a later epoch only."""
    out = str(tmp_path / "fit")
    spec = f"{nets}:transposed"
    (tmp_path / f"{nets}.py").write_text(
        SOURCE + "\n\ndef transposed(num_classes):\n"
        "    return nn.Sequential(nn.ConvTranspose2d(3, 3, 2), *convolutions(num_classes))\n"
    )
    assert main(["fit", "--arch", spec, *SMALL, "--out", out]) == 0
    # What only the defaults reach stays in float.
    named = [{"layers": ["0"], "weights": {"bits": 4}}]
    quantize = {**QUANTIZE["quantize"], "start_epoch": 1, "overrides": named}
    recipe = {"quantize": quantize, "train": {"epochs": 2}}
    qat = ["qat", "--from", out, "--own", spec, *SMALL, "--epochs", "2"]
    qat += ["--schedule", written(tmp_path, recipe), "--out", tmp_path / "qat"]
    assert "ConvTranspose2d" in refused(main, qat, capsys)
    assert not (tmp_path / "qat").exists()


def test_one_network_cannot_be_two(nets, monkeypatch):
    (spec,) = monkeypatch.setattr(custom, "_allowed", {f"{nets}:single"}) or [f"{nets}:single"]
    module = custom.importlib.import_module(nets)
    module.single = lambda num_classes: module.the_only_one
    custom.build(spec, 10)
    with pytest.raises(UserError, match="the same network twice"):
        custom.build(spec, 10)


def test_a_validation_loss_that_is_not_finite_stops_the_run(nets, tmp_path, monkeypatch, capsys):
    accuracy = evaluation.Accuracy(0, 0, 4, 0, float("nan"))
    monkeypatch.setattr("micronet.training.loop.evaluate", lambda *_, **__: accuracy)
    command = ["fit", "--arch", f"{nets}:mlp", *SMALL, "--out", tmp_path / "run"]
    command[command.index("16")] = "8"
    message = refused(main, command, capsys)
    assert "validation loss is nan after fit epoch 1" in message
    assert not (tmp_path / "run/best.safetensors").exists()


def test_an_evaluation_with_too_few_outputs_says_so():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    with pytest.raises(UserError, match="knows 2 classes, but the data has more"):
        evaluation.evaluate(model, [(torch.rand(4, 3, 1, 1), torch.arange(4))])
