"""Weights that a layer computes before it multiplies: refused by name, or left as they are."""

import sys

import pytest
import torch
import torch.nn.functional as F
import yaml
from efficientnet_pytorch.utils import Conv2dDynamicSamePadding, Conv2dStaticSamePadding
from torch import nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm
from torch.nn.utils import prune as torch_prune

import micronet.score as score
from micronet.models import architectures, custom
from micronet.pruning import prune
from micronet.quantization import conversion, quantize
from micronet.quantization.plain_weights import check_weight, computed
from micronet.recipe import schema
from micronet.runs import directory
from micronet.scoring.network.layer_facts import LayerBits
from micronet.train import main
from micronet.training import sensitivity
from micronet.utils.errors import UserError


class Standardized(nn.Conv2d):
    def forward(self, x):
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, w, self.bias)


class StandardizedInside(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight / weight.norm(), bias)


class Masked(nn.Conv2d):
    def forward(self, x):
        self.weight.data.mul_(0.5)
        return super().forward(x)


class Binary(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight.sign(), self.bias)


class Product(nn.Linear):
    def forward(self, x):
        return x @ self.weight.t() + self.bias


class Unknown(nn.Conv2d):
    def forward(self, x):
        if float(x.sum()) > 0:
            return super().forward(x)
        return super().forward(-x)


class Property(nn.Linear):
    """Its weight is the product of two factors."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        del self._parameters["weight"]
        self.down, self.up = (
            nn.Parameter(torch.randn(2, inputs)),
            nn.Parameter(torch.ones(outputs, 2)),
        )

    @property
    def weight(self):
        return self.up @ self.down


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


def conv():
    return nn.Conv2d(3, 8, 3, padding=1)


def old_weight_norm():
    layer = conv()
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(layer)


def with_a_method_of_its_own():
    layer = conv()
    layer.forward = lambda x: F.conv2d(x, layer.weight.abs())
    return layer


def parametrized():
    layer = conv()
    parametrize.register_parametrization(layer, "weight", Halved())
    return layer


COMPUTED = {
    "weight_norm, a hook": old_weight_norm,
    "spectral_norm, a hook": lambda: spectral_norm(conv()),
    "weight_norm": lambda: parametrizations.weight_norm(conv()),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 4)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(4, 4)),
    "own parametrization": parametrized,
    "torch's pruning": lambda: torch_prune.l1_unstructured(conv(), "weight", 0.5),
    "standardized": lambda: Standardized(3, 8, 3),
    "standardized further in": lambda: StandardizedInside(3, 8, 3),
    "changed in place": lambda: Masked(3, 8, 3),
    "binary": lambda: Binary(4, 4),
    "transposed": lambda: Product(4, 4),
    "not followed": lambda: Unknown(3, 8, 3),
    "a property": lambda: Property(4, 4),
    "a method of its own": with_a_method_of_its_own,
}


class Padded(nn.Conv2d):
    """As SAME padding is usually written."""

    def forward(self, x):
        x = F.pad(x, (0, self.weight.shape[-1] - 1, 0, 2))
        return F.conv2d(x, self.weight, self.bias, self.stride)


class Scaled(nn.Linear):
    def forward(self, x):
        assert self.weight.dtype == x.dtype and self.weight.dim() == 2
        return super().forward(x) * 2


PLAIN = {
    "conv1d": lambda: nn.Conv1d(3, 8, 3),
    "conv2d": conv,
    "transposed": lambda: nn.ConvTranspose2d(3, 8, 2, stride=2),
    "linear": lambda: nn.Linear(4, 4),
    "of attention": lambda: nn.MultiheadAttention(8, 2).out_proj,
    "dynamic padding": lambda: Conv2dDynamicSamePadding(3, 8, 3),
    "static padding": lambda: Conv2dStaticSamePadding(3, 8, 3, image_size=16),
    "padded": lambda: Padded(3, 8, 3, dilation=1),
    "scaled": lambda: Scaled(4, 4),
    "bias computed": lambda: parametrizations.weight_norm(conv(), "bias"),
}


@pytest.mark.parametrize("kind", COMPUTED)
def test_a_computed_weight_is_found(kind):
    layer = COMPUTED[kind]()
    assert computed(layer)
    with pytest.raises(UserError, match=r"^layer 'a\.b' \(\w+\) cannot be pruned: its .*weight"):
        check_weight("a.b", layer, "pruned")


@pytest.mark.parametrize("kind", PLAIN)
def test_a_parameter_that_is_multiplied_is_none(kind):
    layer = PLAIN[kind]()
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    assert computed(layer) is None
    assert all(torch.equal(before[name], t) for name, t in layer.state_dict().items())


def test_the_layers_of_a_conversion_are_no_computed_ones():
    model = nn.Sequential(conv(), nn.Flatten(), nn.Linear(4, 4), nn.Conv2d(3, 3, 1))
    quantize.convert_(model, {"0": LayerBits(4, 4), "2": LayerBits(4, None)})
    assert [computed(layer) for layer in architectures.layers(model).values()] == [None] * 3


@pytest.mark.parametrize("kind", COMPUTED)
def test_pruning_quantizing_and_scoring_refuse_by_name(kind):
    model = nn.Sequential(COMPUTED[kind](), nn.Linear(4, 4))
    s = schema.PruneSection((schema.PruneGroup(("*",), final_sparsity=0.5),), method="one-shot")
    precision = schema.WeightPrecision(4), schema.ActivationPrecision(4)
    named = schema.QuantizeSection(*precision, (schema.QuantizeOverride(("0",)),))
    for verb, act in {
        "pruned": lambda: prune.layer_groups(model, s, "x.yaml"),
        "quantized": lambda: quantize.plan(model, named, "x.yaml"),
        "scored": lambda: score.score_model(model, 16, bits={}),
    }.items():
        with pytest.raises(UserError, match=rf"layer '0' \(\w+\) cannot be {verb}: its "):
            act()
    # What only the defaults reach stays in float, and its report says why.
    reached = quantize.plan(model, schema.QuantizeSection(*precision))
    assert reached["0"].is_float and not reached["1"].is_float
    row = conversion.report(model, reached)[0]
    assert row.arithmetic == "float" and row.reason == computed(model[0])
    assert quantize.bits_from_dict(quantize.bits_to_dict(reached)) == reached
    # What is left alone is not refused.
    rest = schema.PruneSection((schema.PruneGroup(("1",), final_sparsity=0.5),), method="one-shot")
    assert list(prune.layer_groups(model, rest)) == ["1"]
    override = schema.QuantizeOverride(("0",), None, None)
    plan = quantize.plan(model, schema.QuantizeSection(*precision, (override,)))
    before, kept = model[0], dict(vars(model[0]))
    quantize.convert_(model, plan)
    assert model[0] is before and vars(model[0]).keys() == kept.keys()


def test_a_scan_refuses_what_it_cannot_prune():
    model = nn.Sequential(COMPUTED["weight_norm"](), nn.Linear(4, 4))
    with pytest.raises(UserError, match=r"layer '0' .* cannot be pruned.*leave it out of --layers"):
        sensitivity.scan(model, list, ["*"], "element", [0.5])


def test_a_computed_bias_stays_in_float_and_is_no_snapshot():
    model = nn.Sequential(PLAIN["bias computed"](), nn.Conv2d(8, 8, 1))
    with pytest.raises(UserError, match=r"layer '0' .* cannot be quantized"):
        quantize.convert_(model, dict.fromkeys("01", LayerBits(4, 4)))
    quantize.convert_(model, {"1": LayerBits(4, 4)})
    x = torch.randn(2, 3, 6, 6)
    before = model[0](x).detach()
    with torch.no_grad():
        model[0].parametrizations.bias.original0.mul_(2)
    assert not torch.equal(model[0](x), before)


SOURCE = """
import warnings
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, weight_norm


class Standardized(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


def net(wrap):
    return nn.Sequential(wrap(nn.Conv2d(3, 8, 3, stride=2)), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(8, 10))


def old(num_classes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return net(weight_norm)


def new(num_classes): return net(parametrizations.weight_norm)
def standardized(num_classes): return net(lambda conv: Standardized(3, 8, 3, stride=2))
"""
SMALL = ["--image-size", "16", "--batch-size", "250", "--threads", "1", "--epochs", "1"]


@pytest.mark.parametrize("net", ["old", "new", "standardized"])
def test_commands(net, tmp_path, monkeypatch, capsys):
    (tmp_path / "computed_nets.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(custom, "_allowed", set())
    monkeypatch.delitem(sys.modules, "computed_nets", raising=False)
    spec = f"computed_nets:{net}"
    fit, out = str(tmp_path / "fit"), tmp_path / "out"
    assert main(["fit", "--arch", spec, *SMALL, "--out", fit, "--model-ema", "0.9"]) == 0
    assert main(["eval", "--own", spec, fit]) == 0
    assert main(["summary", "--own", spec, fit]) == 0
    group = {"layers": ["0"], "final_sparsity": 0.5}
    precision = {"weights": {"bits": 4}, "activations": {"bits": 4}}
    for stage, section in {
        "prune": {"prune": {"method": "one-shot", "groups": [group]}},
        "qat": {"quantize": precision | {"overrides": [{"layers": ["*"]} | precision]}},
    }.items():
        recipe = tmp_path / f"{stage}.yaml"
        recipe.write_text(yaml.safe_dump(section))
        common = ["--from", fit, "--schedule", str(recipe), "--own", spec, *SMALL[2:]]
        capsys.readouterr()
        assert main([stage, *common, "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert "layer '0'" in error and error.count("\n") == 1 and not out.exists()
    assert score.main(["--own", spec, fit]) == 2
    assert "layer '0'" in capsys.readouterr().err
    # Where nothing names that layer the rest is quantized, and it goes on computing its weight.
    recipe.write_text(yaml.safe_dump({"quantize": precision}))
    assert main(["qat", *common, "--out", str(out)]) == 0
    assert "  float, its " in capsys.readouterr().out
    assert "float,its " in (out / "layers.csv").read_text()
    assert main(["eval", "--own", spec, str(out)]) == 0
    model = directory.load(str(out)).model
    assert [type(layer).__name__ for layer in architectures.layers(model).values()] == [
        {"old": "Conv2d", "new": "ParametrizedConv2d", "standardized": "Standardized"}[net],
        "QuantizedLinear",
    ]
