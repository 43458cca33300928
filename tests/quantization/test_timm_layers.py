"""timm's layers: what is quantized as torch's own, what stays in float or is refused by name."""

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.layers import (
    BatchNormAct2d,
    Conv2dSame,
    DropPath,
    EcaModule,
    EffectiveSEModule,
    Linear,
    MixedConv2d,
    ScaledStdConv2d,
    SelectAdaptivePool2d,
    SEModule,
    StdConv2d,
)
from torch import nn

import micronet_kernels as kernels
from micronet.models import architectures
from micronet.pruning import prune
from micronet.quantization import conversion, quantize
from micronet.quantization.layers import QuantizedConv2d, QuantizedLinear
from micronet.quantization.precision import LayerBits
from micronet.quantization.sync_batch_norm import SyncBatchNorm, synchronized
from micronet.recipe import schema
from micronet.utils.errors import UserError

PRECISION = schema.WeightPrecision(4), schema.ActivationPrecision(4)
BITS = LayerBits(4, 4)


def planned(model, *overrides):
    return quantize.plan(model, schema.QuantizeSection(*PRECISION, overrides))


@pytest.mark.parametrize("size", [(7, 7), (8, 9)])
@pytest.mark.parametrize("kernel, stride, dilation", [(3, 2, 1), (5, 1, 2), (2, 3, 1)])
def test_same_padding_is_timms(size, kernel, stride, dilation):
    source = Conv2dSame(3, 8, kernel, stride=stride, dilation=dilation)
    model = nn.Sequential(source)
    x = torch.rand(2, 3, *size)
    expected = F.conv2d(torch.zeros_like(source(x)), torch.eye(8)[:, :, None, None]).shape
    quantize.convert_(model, {"0": LayerBits(4, 4)})
    layer = model[0]
    assert type(layer) is QuantizedConv2d and layer.weight is source.weight
    assert layer(x).shape == expected
    with torch.no_grad():
        layer.eval()
        values = layer.input_quantizer(x)
        source.weight.copy_(layer.quantized_weight())
        torch.testing.assert_close(layer(x), source(values), rtol=0, atol=1e-5)


def test_what_stays_in_float_pads_alike():
    model = nn.Sequential(Conv2dSame(3, 4, 3, stride=2), Conv2dSame(4, 4, 3))
    x = torch.rand(1, 3, 9, 9)
    expected = model[0](x)
    quantize.convert_(model, {"1": BITS})
    assert torch.equal(model[0](x) + 0, expected)


def test_each_convolution_of_a_mixture_is_quantized():
    model = nn.Sequential(MixedConv2d(6, 9, [3, 5, 7], padding="same", stride=2, depthwise=False))
    assert list(architectures.layers(model)) == ["0.0", "0.1", "0.2"]
    shape = model(torch.rand(2, 6, 9, 9)).shape
    quantize.convert_(model, planned(model))
    assert all(isinstance(m, QuantizedConv2d) for m in model[0].values())
    assert model(torch.rand(2, 6, 9, 9)).shape == shape


@pytest.mark.parametrize("act", [nn.ReLU, nn.SiLU])
def test_a_normalization_with_its_activation_waits(act):
    """Between two convolutions of codes no values are computed."""
    first, second = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, 1)
    model = nn.Sequential(first, BatchNormAct2d(8, act_layer=act), second)
    quantize.convert_(model, planned(model))
    found = []
    model[2].register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    model(torch.rand(2, 3, 8, 8))
    assert type(found[0]) is kernels.LazyTensor and found[0].block() is not None


def network():
    return nn.Sequential(
        Conv2dSame(3, 16, 3, stride=2, bias=False),
        BatchNormAct2d(16, act_layer=nn.Hardswish),
        SEModule(16, rd_channels=8, gate_layer=nn.Hardsigmoid),
        MixedConv2d(16, 16, [3, 5], depthwise=True),
        nn.BatchNorm2d(16),
        DropPath(0.5),
        nn.Mish(),
        EffectiveSEModule(16),
        nn.Conv2d(16, 16, 1),
        nn.GELU(),
        SelectAdaptivePool2d(pool_type="avg", flatten=True),
        Linear(16, 10),
    )


def test_a_network_of_them_trains_on_integers_and_evaluates_exactly():
    model = network()
    bits = planned(model)
    rows = conversion.report(model, bits)
    assert len(rows) == 8 and all(row.arithmetic == conversion.INTEGER for row in rows)
    quantize.convert_(model, bits)
    assert isinstance(model[-1], QuantizedLinear)
    x = torch.randn(4, 3, 20, 20)
    model(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(x), torch.cat([model(image[None]) for image in x]))


COMPUTED = {
    "StdConv2d": lambda: StdConv2d(3, 8, 3),
    "ScaledStdConv2d": lambda: ScaledStdConv2d(3, 8, 3),
}


@pytest.mark.parametrize("kind", COMPUTED)
def test_standardized_weights_stay_in_float_or_are_refused_by_name(kind):
    model = nn.Sequential(COMPUTED[kind](), nn.Conv2d(8, 8, 1))
    bits = planned(model)
    row = conversion.report(model, bits)[0]
    assert row.arithmetic == conversion.FLOAT and "parameter 'weight'" in row.reason
    assert not bits["1"].is_float
    quantize.convert_(model, bits)
    assert type(model[0]).__name__ == kind and isinstance(model[1], QuantizedConv2d)
    model = nn.Sequential(COMPUTED[kind](), nn.Conv2d(8, 8, 1))
    with pytest.raises(UserError, match=rf"layer '0' \({kind}\) cannot be quantized: its own"):
        planned(model, schema.QuantizeOverride(("0",), schema.WeightPrecision(8)))
    group = schema.PruneGroup(("0",), final_sparsity=0.5)
    with pytest.raises(UserError, match=rf"layer '0' \({kind}\) cannot be pruned"):
        prune.layer_groups(model, schema.PruneSection((group,), method="one-shot"))


def test_a_convolution_of_channels_stays_in_float():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), EcaModule(8))
    row = conversion.report(model, planned(model))[1]
    assert (row.layer, row.arithmetic) == ("1.conv", conversion.FLOAT)
    assert row.reason == "no quantized layer takes the place of Conv1d"
    named = schema.QuantizeOverride(("1.conv",), schema.WeightPrecision(8))
    with pytest.raises(UserError, match=r"layer '1\.conv' \(Conv1d\) cannot be quantized: set its"):
        planned(model, named)


@pytest.mark.parametrize("training", [True, False])
def test_a_normalization_with_its_activation_is_synchronized_and_computes_the_same(training):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), BatchNormAct2d(8, act_layer=nn.SiLU)).train(training)
    other = synchronized(copy.deepcopy(model))
    assert isinstance(other[1], SyncBatchNorm) and other[1].training == training
    assert [n for n, _ in other.named_modules()] == [n for n, _ in model.named_modules()]
    x = torch.rand(4, 3, 8, 8)
    assert torch.equal(model(x), other(x))
    state = other.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
