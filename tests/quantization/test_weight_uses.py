"""Weights that a network uses around their layers would stay in float: refused, or led back."""

import sys

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

import micronet
from micronet.models import architectures, custom
from micronet.quantization import quantize
from micronet.quantization.quantize import LayerBits
from micronet.quantization.weight_uses import check_uses
from micronet.train import main
from micronet.utils.errors import UserError

SOURCE = """
import torch.nn.functional as F
from torch import nn


class Dilated(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, num_classes)

    def forward(self, x):
        x = F.relu(self.conv(x))
        return self.fc(F.conv2d(x, self.conv.weight, padding=2, dilation=2).mean((2, 3)))
"""


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(192, 12)

    def forward(self, x):
        return F.linear(F.relu(self.encode(x.flatten(1))), self.encode.weight.t())


class NeverCalled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return F.conv2d(weight=self.conv.weight, input=x).mean((2, 3))


class OnlyItsShape(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        assert self.conv.weight.dtype == x.dtype
        return self.conv(F.pad(x, [self.conv.weight.shape[-1] // 2] * 4)).mean((2, 3))


class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(5, 4, 3)

    def forward(self, x):
        return self.conv(x)


class Tokens(nn.Module):
    """A transformer of image rows, written with torch's own layer."""

    def __init__(self, stack):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2) if stack else layer
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        return self.fc(self.body(x.mean(1)).mean(1))


@pytest.mark.parametrize(
    "make, layer, function",
    [(Decoder, "encode", "t"), (NeverCalled, "conv", "conv2d")],
)
def test_a_use_around_the_layer_is_refused(make, layer, function):
    model = make()
    with pytest.raises(UserError, match=rf"layer '{layer}' .* calls {function} with its weight"):
        check_uses(model, [layer], lambda: model(torch.zeros(1, 3, 8, 8)))
    assert model.training and not model.get_submodule(layer)._forward_hooks
    # Where the weight stays in float anyway there is nothing to refuse.
    check_uses(model, [], lambda: model(torch.zeros(1, 3, 8, 8)))


@pytest.mark.parametrize(
    "make",
    [
        OnlyItsShape,
        Fails,
        lambda: architectures.create_model("resnet20", 10),
        lambda: architectures.create_model("efficientnet-micro", 10),
        lambda: architectures.create_model("shufflenet_v2_x0_5", 10),
    ],
)
def test_other_networks_are_not(make):
    model = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_uses(model, architectures.layers(model), lambda: model(torch.zeros(1, 3, 32, 32)))
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_qat_refuses_before_it_writes(tmp_path, monkeypatch, capsys):
    (tmp_path / "dilated_nets.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(custom, "_allowed", set())
    monkeypatch.delitem(sys.modules, "dilated_nets", raising=False)
    small = ["--image-size", "16", "--batch-size", "250", "--threads", "1", "--epochs", "1"]
    spec, fit, out = "dilated_nets:Dilated", str(tmp_path / "fit"), tmp_path / "qat"
    assert main(["fit", "--arch", spec, *small, "--out", fit]) == 0
    recipe = tmp_path / "q.yaml"
    quantized = {"weights": {"bits": 4}, "activations": {"bits": 4}}
    recipe.write_text(yaml.safe_dump({"quantize": quantized}))
    command = ["qat", "--from", fit, "--schedule", str(recipe), "--own", spec, *small[2:]]
    assert main([*command, "--out", str(out)]) == 2
    assert "layer 'conv' cannot be quantized" in capsys.readouterr().err and not out.exists()
    quantized["overrides"] = [{"layers": ["conv"], "weights": None, "activations": None}]
    recipe.write_text(yaml.safe_dump({"quantize": quantized}))
    assert main([*command, "--out", str(out)]) == 0


@pytest.mark.parametrize("stack", [False, True])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_a_transformer_evaluates_what_it_trained(stack):
    model = Tokens(stack)
    bits = {n: LayerBits(2, 2) for n in architectures.layers(model) if "out_proj" not in n}
    quantize.convert_(model, bits)
    x = torch.randn(4, 3, 6, 16)
    model(x)
    model.eval()
    with torch.no_grad():
        evaluated = model(x)
    with torch.enable_grad():
        slow = model(x)
    torch.testing.assert_close(evaluated, slow.detach())
    linear = model.get_submodule("body.layers.0.linear1" if stack else "body.linear1")
    with torch.no_grad():
        linear.input_quantizer.range.copy_(torch.tensor([-1e-3, 1e-3]))
        assert not torch.equal(model(x), evaluated)


@pytest.mark.parametrize("step", ["range", "image"])
def test_a_first_call_that_fails_says_why_and_the_next_one_is_watched_no_more(step):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    first = {"layers": ["0"], "weights": {"bits": 8}, "activations": {"step": "image"}}
    quantize = {"weights": {"bits": 4}, "activations": {"bits": 4}}
    recipe = {"quantize": quantize | ({"overrides": [first]} if step == "image" else {})}
    compression = micronet.compress(
        model, micronet.Recipe.from_dict(recipe), mean=[0.5] * 3, std=[0.25] * 3
    )
    compression.begin_epoch(0)
    model.train()
    for _ in range(2):
        with pytest.raises(ValueError, match="is smaller than the kernel"):
            model(torch.randn(2, 3, 4, 4))
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 4, 4, 4)
    hooks = [*model._forward_hooks.values(), *model._forward_pre_hooks.values()]
    assert not [hook for hook in hooks if "Watch" in repr(hook) or "FirstCall" in repr(hook)]
