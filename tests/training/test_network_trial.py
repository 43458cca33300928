"""Networks and data that do not fit: one sentence before anything is trained or written.

And those that do fit, but not as everybody's: views, linear layers alone, wrappers, batches of one.
"""

import json
import random
import sys

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from image_folders import make_folder
from micronet import report, score
from micronet.models import custom
from micronet.models.failures import failures_of, logits_of, reason
from micronet.models.unchanged import unchanged
from micronet.pruning import prune
from micronet.quantization import quantize
from micronet.quantization.precision import LayerBits
from micronet.runs import checkpoint, directory
from micronet.train import main
from micronet.training import evaluation, network_trial, optimizer
from micronet.training.network_trial import Trial
from micronet.utils.errors import UserError

SOURCE = """
import sys

import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self, classes, channels=3, out=lambda net, y: y, inside=lambda net, x: x):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(channels, 8, 3, padding=1, stride=2), nn.Linear(8, classes)
        self.out, self.inside, self.calls = out, inside, 0

    def forward(self, x):
        self.calls += 1
        x = self.inside(self, F.relu(self.conv(x)))
        return self.out(self, self.fc(x.mean((2, 3))))


def fail(error):
    raise error


def out(change):
    return lambda num_classes: Net(num_classes, out=change)


def inside(change):
    return lambda num_classes: Net(num_classes, inside=change)


def unused(num_classes):
    net = Net(num_classes)
    net.head = nn.Linear(8, 3)
    return net


def not_finite(num_classes):
    net = Net(num_classes)
    nn.init.constant_(net.fc.bias, float("nan"))
    return net


class View(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.fc = nn.Linear(8 * 8 * 8, num_classes)

    def forward(self, x):
        assert x.is_contiguous(), "images are not contiguous"
        x = F.relu(self.conv(x))
        return self.fc(x.view(x.size(0), -1))


class Squeezed(Net):
    def forward(self, x):
        x = F.adaptive_avg_pool2d(F.relu(self.conv(x)), 1).squeeze()
        return self.fc(x)


def squeezed(num_classes):
    return Squeezed(num_classes)


def mlp(num_classes):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(),
        nn.Linear(32, num_classes),
    )


def convolutions(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
    )


def compiled(num_classes):
    return torch.compile(convolutions(num_classes))


def compiled_in_place(num_classes):
    net = convolutions(num_classes)
    net.compile()
    return net


def compiled_part(num_classes):
    net = convolutions(num_classes)
    net[0] = torch.compile(net[0])
    return net


def compiled_method(num_classes):
    net = convolutions(num_classes)
    net.forward = torch.compile(net.forward)
    return net


def decorated(num_classes):
    class Decorated(nn.Sequential):
        forward = torch.compile(nn.Sequential.forward)

    return Decorated(*convolutions(num_classes))


def parallel(num_classes):
    return torch.compile(nn.DataParallel(convolutions(num_classes)))


def normalized_at_one_pixel(num_classes):
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Flatten(),
        nn.Linear(8, num_classes),
    )


def third_batch(num_classes):
    calls = []

    def count(net, x):
        calls.append(len(x))
        # Passes over whole batches: a trial's are of two images.
        return fail(KeyError("third")) if calls.count(400) == 3 else x

    return Net(num_classes, inside=count)


def depths(num_classes):
    rates = [rate.item() for rate in torch.linspace(0, 0.1, 3)]
    return nn.Sequential(nn.Dropout(rates[1]), *convolutions(num_classes))


def group_norm(num_classes):
    return nn.Sequential(nn.GroupNorm(1, 3), *convolutions(num_classes))


def group_norm_of_a_pixel(num_classes):
    return nn.Sequential(nn.AvgPool2d(16), nn.GroupNorm(1, 3), *convolutions(num_classes))


class Stateful(Net):
    def __init__(self, num_classes, state):
        super().__init__(num_classes)
        self.state = state

    def get_extra_state(self):
        return self.state()

    def set_extra_state(self, state):
        pass


def with_buffer(buffer):
    def make(num_classes):
        net = Net(num_classes)
        net.register_buffer("kept", buffer(net))
        return net

    return make


the_only_one = Net(10)
NETS = {
    "one_channel": lambda num_classes: Net(num_classes, channels=1),
    "too_few": lambda num_classes: Net(2),
    "too_many": lambda num_classes: Net(1000),
    "no_parameters": lambda num_classes: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "frozen": lambda num_classes: Net(num_classes).requires_grad_(False),
    "auxiliary": out(lambda net, y: (y, y) if net.training else y),
    "auxiliary_in_evaluation": out(lambda net, y: y if net.training else [y]),
    "dictionary": out(lambda net, y: {"logits": y}),
    "nothing": out(lambda net, y: None),
    "scalar": out(lambda net, y: y.sum()),
    "whole_numbers": out(lambda net, y: y.argmax(1)),
    "complex_numbers": out(lambda net, y: y.to(torch.complex64)),
    "one_row": out(lambda net, y: y[:1]),
    "maps": out(lambda net, y: y[..., None, None]),
    "detached": out(lambda net, y: y.detach()),
    "constant": out(lambda net, y: torch.zeros_like(y)),
    "type_error": inside(lambda net, x: x + "x"),
    "attribute_error": inside(lambda net, x: net.missing(x)),
    "key_error": inside(lambda net, x: {}["k"]),
    "assertion_error": inside(lambda net, x: fail(AssertionError())),
    "two_lines": inside(lambda net, x: fail(RuntimeError("one\\ntwo"))),
    "leaves": inside(lambda net, x: sys.exit(0)),
    "recursion": inside(lambda net, x: net(x[:, :3])),
    "in_place": inside(lambda net, x: x.sigmoid().mul_(x).sigmoid_() * x.sigmoid_()),
    "lazy": lambda num_classes: nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes)),
    "script": lambda num_classes: torch.jit.script(mlp(num_classes)),
    "leaving_at_once": lambda num_classes: sys.exit(0),
    "extra_state": lambda num_classes: Stateful(num_classes, lambda: {"calls": 3}),
    "broken_state": lambda num_classes: Stateful(num_classes, lambda: fail(OSError("x"))),
    "sparse": with_buffer(lambda net: torch.eye(3).to_sparse()),
    "double_complex": with_buffer(lambda net: torch.zeros(3, dtype=torch.complex128)),
    "part_of_another": with_buffer(lambda net: net.fc.weight.detach()[:3]),
}
globals().update(NETS)
"""
SMALL = ["--image-size", "16", "--batch-size", "500", "--threads", "1", "--epochs", "1"]
QUANTIZE = {"quantize": {"weights": {"bits": 4}, "activations": {"bits": 4}}}
WRAPPED = "compiled compiled_in_place compiled_part compiled_method decorated parallel".split()
HALF = {"prune": {"method": "one-shot", "groups": [{"layers": ["*"], "final_sparsity": 0.5}]}}


@pytest.fixture
def nets(tmp_path, monkeypatch, request):
    """The name of a module with the networks above, importable in this test alone."""
    name = f"nets_of_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(custom, "_allowed", set())
    yield name
    sys.modules.pop(name, None)


def written(tmp_path, recipe):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


def refused(program, arguments, capsys):
    """Return the sentence in which a command refuses."""
    capsys.readouterr()
    assert program([str(argument) for argument in arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1, message
    assert "Traceback" not in message
    return message


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


@pytest.mark.parametrize("flag", ["--channels-last", "--no-channels-last"])
def test_a_network_that_views_gets_contiguous_images_everywhere(flag, nets, tmp_path, capsys):
    """It raises on any other image, in training, validation, evaluation and sensitivity."""
    spec, out = f"{nets}:View", str(tmp_path / "run")
    assert main(["fit", "--arch", spec, *SMALL, flag, "--model-ema", "0.9", "--out", out]) == 0
    noted = f"{spec} gets contiguous images, as with --no-channels-last" in capsys.readouterr().out
    assert noted == (flag == "--channels-last")
    assert (
        json.loads((tmp_path / "run/config.json").read_text())["recipe"]["train"]["channels_last"]
        is False
    )
    assert directory.load(out).channels_last is False
    assert main(["fit", "--out", out, "--resume", "--own", spec]) == 0
    assert main(["eval", out, "--own", spec]) == 0
    scan = ["sensitivity", out, "--own", spec, "--levels", "0.5", "--out", str(tmp_path / "scan")]
    assert main(scan) == 0
    assert "note" not in capsys.readouterr().out
    # What a checkpoint cannot say is found out.
    weights = ["--arch", spec, "--weights", f"{out}/best.safetensors", "--image-size", "16"]
    assert main(["eval", *weights]) == 0
    assert report.main([out, "--own", spec]) == 0


@pytest.mark.parametrize("net", ["group_norm", "group_norm_of_a_pixel"])
def test_a_network_whose_gradient_would_end_the_process(net, nets, tmp_path, capsys):
    """The GroupNorm of torch 2.11 does so where it reads the images, channels last."""
    out = str(tmp_path / "run")
    assert main(["fit", "--arch", f"{nets}:{net}", *SMALL, "--out", out]) == 0
    said = capsys.readouterr().out
    assert "gets contiguous images" in said and "GroupNorm has no gradient" in said
    model = directory.load(out).model
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_flag_holds_for_every_image_of_a_run(nets, tmp_path, monkeypatch):
    seen = []
    forward = nn.Conv2d.forward

    def watched(self, x):
        seen.append(x.is_contiguous())
        return forward(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", watched)
    common = ["--arch", f"{nets}:convolutions", *SMALL]
    assert main(["fit", *common, "--no-channels-last", "--out", str(tmp_path / "a")]) == 0
    assert all(seen)
    assert main(["eval", str(tmp_path / "a"), "--own", f"{nets}:convolutions"]) == 0
    assert all(seen)
    seen.clear()
    assert main(["fit", *common, "--out", str(tmp_path / "b")]) == 0
    assert not any(seen)


def test_a_last_image_alone_is_evaluated_and_trained(nets, tmp_path, capsys):
    """``squeeze`` takes its batch axis away, and the layer after it gives back a vector."""
    folder = make_folder(tmp_path / "data", 16, count=5)
    spec, out = f"{nets}:squeezed", str(tmp_path / "run")
    options = ["--data", str(folder), "--image-size", "16", "--epochs", "1", "--threads", "1"]
    start = ["fit", "--arch", spec, *options]
    assert main([*start, "--batch-size", "11", "--out", out]) == 0
    assert main(["eval", out, "--own", spec, "--batch-size", "11", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["total"] == 12
    record = directory.RunDirectory(tmp_path / "run").metrics()[-1]
    assert found["top1"] == record["validation_top1"]
    assert main([*start, "--batch-size", "1", "--out", str(tmp_path / "one")]) == 0


def test_a_batch_of_one_where_the_last_of_a_split_batch_is(nets, tmp_path, capsys):
    """Ten images in four parts of three: the last is alone."""
    folder = make_folder(tmp_path / "data", 16, count=5)
    spec = f"{nets}:normalized_at_one_pixel"
    command = ["fit", "--arch", spec, "--data", folder, "--image-size", "16", "--epochs", "1"]
    command += ["--batch-size", "16", "--accumulate", "4", "--out", tmp_path / "run"]
    message = refused(main, command, capsys)
    assert "more than 1 value per channel" in message and "two images" in message
    command[command.index("--accumulate") + 1] = "2"
    assert main([str(word) for word in command]) == 0


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
    recipe = {"quantize": {**QUANTIZE["quantize"], "start_epoch": 1}, "train": {"epochs": 2}}
    qat = ["qat", "--from", out, "--own", spec, *SMALL, "--epochs", "2"]
    qat += ["--schedule", written(tmp_path, recipe), "--out", tmp_path / "qat"]
    assert "ConvTranspose2d" in refused(main, qat, capsys)
    assert not (tmp_path / "qat").exists()


def test_linear_layers_alone(nets, tmp_path, capsys):
    spec = f"{nets}:mlp"
    fit, pruned, qat = (str(tmp_path / name) for name in ("fit", "prune", "qat"))
    small = ["--image-size", "8", "--batch-size", "250", "--threads", "1", "--epochs", "1"]
    assert main(["fit", "--arch", spec, *small, "--out", fit]) == 0
    own = ["--own", spec]
    common = ["--from", fit, *own, *small]
    assert main(["prune", *common, "--schedule", written(tmp_path, HALF), "--out", pruned]) == 0
    assert "sparsity 50.0 %" in capsys.readouterr().out
    assert directory.RunDirectory(tmp_path / "prune").metrics()[-1]["sparsity"] == 0.5
    common[1] = pruned
    assert main(["qat", *common, "--schedule", written(tmp_path, QUANTIZE), "--out", qat]) == 0
    # Rounding makes zeros; what pruning made is what is kept in the weights.
    assert directory.RunDirectory(tmp_path / "qat").metrics()[-1]["sparsity"] == 0.5
    for out in (fit, pruned, qat):
        assert main(["eval", out, *own]) == 0
        assert main(["summary", out, *own]) == 0
        assert score.main([out, *own]) == 0
        assert report.main([out, *own]) == 0
        assert main(["sensitivity", out, *own, "--levels", "0.5", "--out", f"{out}/scan"]) == 0
    capsys.readouterr()
    assert main(["summary", pruned, *own]) == 0
    assert "14,656  50.00 %         14,656" in capsys.readouterr().out
    assert score.main([pruned, *own]) == 0
    assert "11040" in capsys.readouterr().out
    plan = ["--arch", spec, "--num-classes", "10", "--image-size", "8"]
    for rules in ("micronet", "seed", "ist-final"):
        assert score.main([*plan, "--rules", rules]) == 0
    assert score.main([*plan, "--schedule", written(tmp_path, HALF | QUANTIZE)]) == 0


def test_the_log_counts_convolutions_and_what_is_pruned():
    model = nn.Sequential(nn.Conv2d(1, 1, 2), nn.Linear(2, 2), nn.Linear(2, 4))
    with torch.no_grad():
        for layer, zeros in zip(model, (1, 2, 8), strict=True):
            layer.weight.fill_(1.0).view(-1)[:zeros] = 0
    assert prune.shown_sparsity(model) == 1 / 4
    assert prune.shown_sparsity(model, ["1"]) == 3 / 8
    assert prune.shown_sparsity(model[1:]) == 0
    assert prune.shown_sparsity(model[1:], ["1", "2"]) == 10 / 12


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "net",
    ["compiled", "compiled_in_place", "compiled_part", "compiled_method", "decorated", "parallel"],
)
def test_wrappers_come_off(net, nets, tmp_path):
    """The layers keep their own names, and are those that train and that are quantized."""
    spec = f"{nets}:{net}"
    fit, pruned, qat = (str(tmp_path / name) for name in ("fit", "prune", "qat"))
    assert main(["fit", "--arch", spec, *SMALL, "--out", fit]) == 0
    names = {key for key in checkpoint.load(f"{fit}/last.safetensors").tensors}
    assert {"model/0.weight", "model/5.weight"} <= names
    assert not [name for name in names if "orig_mod" in name or "module." in name]
    common = ["--own", spec, *SMALL]
    recipe = written(tmp_path, HALF)
    assert main(["prune", "--from", fit, *common, "--schedule", recipe, "--out", pruned]) == 0
    recipe = written(tmp_path, QUANTIZE)
    assert main(["qat", "--from", pruned, *common, "--schedule", recipe, "--out", qat]) == 0
    model = directory.load(qat).model
    assert isinstance(model, nn.Sequential) and type(model[0]).__name__ == "QuantizedConv2d"


def test_a_constructor_that_computes_is_scored_too(nets, capsys):
    """On the meta device it cannot."""
    common = ["--arch", f"{nets}:depths", "--num-classes", "10", "--image-size", "16"]
    assert score.main(common) == 0
    assert main(["summary", *common]) == 0


def test_one_network_cannot_be_two(nets, monkeypatch):
    (spec,) = monkeypatch.setattr(custom, "_allowed", {f"{nets}:single"}) or [f"{nets}:single"]
    module = custom.importlib.import_module(nets)
    module.single = lambda num_classes: module.the_only_one
    custom.build(spec, 10)
    with pytest.raises(UserError, match="the same network twice"):
        custom.build(spec, 10)


class Restless(nn.Module):
    """Changes all that a forward pass can: buffers, attributes, containers, random states."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.fc = nn.Linear(4, 5)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("cache", None)
        self.calls, self.seen = 0, [1]

    def forward(self, x):
        self.calls += 1
        self.seen.append(x.shape)
        self.count = self.count + 1
        self.cache = x.sum()
        self.new = random.random() + np.random.rand()
        return self.fc(self.body(x).mean((2, 3)) + torch.rand(4))


def test_a_trial_leaves_no_trace():
    model = Restless()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    gradients = [parameter.grad for parameter in model.parameters()]
    modules, attributes = list(model.modules()), set(vars(model))
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    bits = {name: LayerBits(4, 4) for name in ("body.0", "fc")}
    trial = Trial("net", (3, 8, 8), 5, (1, 2), (2,), bits=bits)
    assert network_trial.check(model, trial, channels_last=True)
    assert all(a is b for a, b in zip(modules, model.modules(), strict=True))
    assert set(vars(model)) == attributes and (model.calls, model.seen) == (0, [1])
    assert model.cache is None and model.training
    assert not model._forward_pre_hooks and not model._forward_hooks
    for key, value in model.state_dict().items():
        assert torch.equal(value, kept[key]), key
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
    assert all((g == 1).all() for g in gradients)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2][1])


@pytest.mark.parametrize("step", ["range", "learned"])
def test_a_quantized_network_is_left_as_it_was(step):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    bits = LayerBits(4, 4, weight_step=step, activation_step=step)
    quantize.convert_(model, {"0": bits, "3": bits})
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trial = Trial("net", (3, 8, 8), 5, (2,), (2,), bits={"0": bits, "3": bits})
    assert network_trial.check(model, trial, channels_last=True)
    for key, value in model.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[key].nan_to_num()), key
    assert quantize.uninitialized(model) == ["0.input_quantizer", "3.input_quantizer"]


def test_a_network_is_put_back_after_an_error_too():
    model = Restless()
    with pytest.raises(KeyError), unchanged(model):
        model(torch.rand(2, 3, 8, 8))
        model.body = nn.Identity()
        raise KeyError
    assert len(model.body) == 3 and model.calls == 0 and model.count == 0


def test_training_is_the_same_with_and_without_a_trial(tmp_path, monkeypatch):
    recipe = HALF | QUANTIZE | {"train": {"epochs": 1, "batch_size": 500, "lr": 0.01}}
    recipe["prune"]["groups"][0]["layers"] = ["re:.*conv.*"]
    start = ["fit", "--arch", "efficientnet-micro", *SMALL, "--out", str(tmp_path / "fit")]
    assert main(start) == 0
    qat = ["qat", "--from", str(tmp_path / "fit"), "--schedule", written(tmp_path, recipe), *SMALL]
    assert main([*qat, "--out", str(tmp_path / "a")]) == 0
    monkeypatch.setattr(network_trial, "_try_evaluation", lambda *_: None)
    monkeypatch.setattr(network_trial, "_try_quantized", lambda *_: None)
    monkeypatch.setattr(
        network_trial, "_try_training", lambda model, *_: {*map(id, model.parameters())}
    )
    assert main([*qat, "--out", str(tmp_path / "b")]) == 0
    a, b = (checkpoint.load(tmp_path / f"{run}/last.safetensors").tensors for run in "ab")
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


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


@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (2, 1, 4, 4), (1, 3, 4, 1), (2, 3, 4, 5)])
def test_images_lie_in_an_order_by_their_strides(shape):
    for order in (torch.channels_last, torch.contiguous_format):
        wanted = torch.empty(shape, memory_format=order).stride()
        for now in (torch.channels_last, torch.contiguous_format):
            images = torch.empty(shape, memory_format=now).copy_(torch.rand(shape))
            ordered = optimizer.in_order(images, order)
            assert torch.equal(ordered, images) and ordered.stride() == wanted


def test_what_is_logits():
    one = torch.rand(7)
    assert logits_of(one, 1, "net", 7).shape == (1, 7)
    assert logits_of(one.bfloat16()[None], 1, "net").shape == (1, 7)
    for output in (one, one[None].expand(3, 7), one[None, None], one[None].bool()):
        with pytest.raises(UserError, match="net returned a tensor of"):
            logits_of(output, 2, "net")


def test_reasons_are_one_line():
    class Mute(Exception):
        def __str__(self):
            raise ValueError

    assert reason(Mute()) == "Mute"
    assert reason(KeyError("a\n b")) == "KeyError: 'a\\n b'"
    assert reason(RuntimeError("a\n\n b")) == "RuntimeError: a b"
    assert len(reason(RuntimeError("x" * 5000))) < 400
    with pytest.raises(UserError, match="it broke: ValueError: x!"), failures_of("it broke", "!"):
        raise ValueError("x")
    with pytest.raises(KeyboardInterrupt), failures_of("it broke"):
        raise KeyboardInterrupt
    with pytest.raises(UserError, match=r"^as it is$"), failures_of("it broke"):
        raise UserError("as it is")
