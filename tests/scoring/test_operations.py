"""The walk: records of small networks by hand, and published counts of known ones."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from micronet.models import architectures
from micronet.quantization import quantize
from micronet.scoring.operations import operation_walk
from micronet.scoring.operations.records import (
    Activation,
    BatchNorm,
    Conv,
    Dropout,
    LayerNorm,
    Linear,
    Permutation,
    Pool,
    Residual,
    Scale,
)


def meta(arch, classes=1000):
    with torch.device("meta"):
        return architectures.create_model(arch, classes)


def macs(ops):
    """Multiply-accumulates of the layers with weights."""
    return sum(op.weights * op.positions for op in ops if isinstance(op, (Conv, Linear)))


def of(kind, ops):
    return [op for op in ops if isinstance(op, kind)]


class Gated(nn.Module):
    """A convolution, its squeeze-excite gate and a residual addition."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(6, 6, (3, 1), padding=(1, 0), groups=3)
        self.squeeze = nn.Conv2d(6, 2, 1)
        self.excite = nn.Conv2d(2, 6, 1, bias=False)

    def forward(self, x):
        y = self.conv(x)
        gate = F.adaptive_avg_pool2d(y, 1)
        gate = self.excite(F.silu(self.squeeze(gate)))
        return torch.sigmoid(gate) * y + x


def test_records_of_a_small_network_in_execution_order():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False),  # 8x8 -> 4x4
        nn.BatchNorm2d(6),
        nn.ReLU6(),
        Gated(),
        nn.MaxPool2d(2),  # 4x4 -> 2x2
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(24, 5),
    )
    assert operation_walk.walk(net, 8) == [
        Conv("0", 3, 6, 1, (3, 3), 16, False),
        BatchNorm("1", 96, 6, folds_into="0"),
        Activation("2", "relu6", 96),
        Conv("3.conv", 6, 6, 3, (3, 1), 16, True),
        Pool("3", "average", 96, 6, 96),
        Conv("3.squeeze", 6, 2, 1, (1, 1), 1, True),
        Activation("3", "swish", 2),
        Conv("3.excite", 2, 6, 1, (1, 1), 1, False),
        Activation("3", "sigmoid", 6),
        Scale("3", 96),
        Residual("3", 96),
        Pool("4", "maximum", 96, 24, 24 * 4),
        Dropout("6", 24),
        Linear("7", 24, 5, 1, True),
    ]
    assert Conv("", 6, 6, 3, (3, 1), 16, True).weights == 6 * 2 * 3
    assert Linear("", 24, 5, 1, True).weights == 120


def test_a_module_used_twice_is_recorded_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 3, 1), nn.ReLU()

        def forward(self, x):
            return self.act(self.conv(self.act(self.conv(x))))

    assert [op.name for op in operation_walk.walk(Twice(), 4)] == ["conv", "act", "conv", "act"]


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    model[1].eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    operation_walk.walk(model, 4)
    assert [module.training for module in model] == [True, False, True]
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


# Torchvision's own counts, in 10^9 multiply-accumulates to three places, stand beside its weights.
@pytest.mark.parametrize(
    "arch",
    [
        "resnet18",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "efficientnet_b0",
        "shufflenet_v2_x1_0",
        "squeezenet1_1",
        "densenet121",
        "regnet_y_400mf",
        "inception_v3",
    ],
)
def test_published_multiply_accumulates(arch):
    published = torchvision.models.get_model_weights(arch).DEFAULT
    ops = operation_walk.walk(meta(arch), architectures.default_image_size(arch))
    assert round(macs(ops) / 1e9, 3) == published.meta["_ops"]


def test_cifar_resnet_by_hand():
    ops = operation_walk.walk(meta("resnet20", 10), 32)
    # 3x3 kernels: the stem, then six layers at 32x32, 16x16 and 8x8; a stage's first one widens.
    stem = 9 * 3 * 16 * 32**2
    stages = 9 * 16 * 16 * 6 * 32**2
    stages += 9 * (16 * 32 + 32 * 32 * 5) * 16**2
    stages += 9 * (32 * 64 + 64 * 64 * 5) * 8**2
    assert macs(ops) == stem + stages + 64 * 10
    # Nine blocks of two activations, after one for the stem; shortcuts have no layers.
    assert len(of(Residual, ops)) == 9
    assert len(of(Activation, ops)) == 19
    assert len(of(BatchNorm, ops)) == len(of(Conv, ops)) == 19
    assert of(Pool, ops) == [Pool("avgpool", "average", 64 * 8 * 8, 64, 64 * 8 * 8)]


def test_efficientnet_b1_at_224():
    ops = operation_walk.walk(meta("efficientnet-b1"), 224)
    # Counted independently of this program: 569.65 M in all, 51.50 M of them depthwise.
    assert round(macs(ops) / 1e6, 2) == 569.65
    assert round(macs(op for op in ops if getattr(op, "groups", 1) > 1) / 1e6, 2) == 51.50
    # 23 blocks: a gate in each, a skip wherever stride and channels allow (all but 7 stage heads).
    assert len(of(Scale, ops)) == 23
    assert len(of(Residual, ops)) == 16
    # Two activations a block and one in its gate's squeeze, one gate; the first two blocks do
    # not expand; stem and head add one each.
    swishes = [op for op in of(Activation, ops) if op.function == "swish"]
    assert len(swishes) == 3 * 23 - 2 + 2
    assert len(of(BatchNorm, ops)) == 3 * 23 - 2 + 2
    assert ops[0] == Conv("_conv_stem", 3, 32, 1, (3, 3), 112 * 112, False)
    assert ops[-3:] == [
        Pool("_avg_pooling", "average", 1280 * 7 * 7, 1280, 1280 * 7 * 7),
        Dropout("_dropout", 1280),
        Linear("_fc", 1280, 1000, 1, True),
    ]


@pytest.mark.parametrize("size", [32, 33, 225, 240])
def test_same_padding_rounds_sizes_up(size):
    ops = operation_walk.walk(meta("efficientnet-b0"), size)
    for _ in range(5):
        size = -(-size // 2)
    assert of(Conv, ops)[-1] == Conv("_conv_head", 320, 1280, 1, (1, 1), size * size, False)


def test_quantized_layers_are_the_same_operations():
    model = architectures.create_model("efficientnet-micro", 10)
    before = operation_walk.walk(model, 32)
    bits = {name: quantize.LayerBits(4, 4) for name in architectures.layers(model)}
    quantize.convert_(model, bits)
    assert operation_walk.walk(model, 32) == before


class Normalized(nn.Module):
    """One convolution and its BatchNorm; ``use`` says what becomes of the convolution's output."""

    def __init__(self, use):
        super().__init__()
        self.conv, self.norm, self.use = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), use

    def forward(self, x):
        return self.use(self, self.conv(x))


@pytest.mark.parametrize(
    ("use", "folds_into"),
    [
        (lambda m, y: m.norm(y), "conv"),
        (lambda m, y: m.norm(y).relu() + y.shape[0], "conv"),
        (lambda m, y: m.norm(y.relu()), None),  # not next to it
        (lambda m, y: m.norm(y) + y, None),  # another reader needs the plain output
        (lambda m, y: m.norm(m.conv(y)), None),  # the layer runs twice
        (lambda m, y: m.norm(torch.cat([y])), None),
    ],
)
def test_a_normalization_folds_into_the_layer_whose_only_reader_it_is(use, folds_into):
    (norm,) = of(BatchNorm, operation_walk.walk(Normalized(use), 4))
    assert norm == BatchNorm("norm", 48, 3, folds_into)


def test_densenet_folds_only_what_follows_a_convolution():
    ops = operation_walk.walk(meta("densenet121"), 224)
    norms = of(BatchNorm, ops)
    # 121 layers: 120 convolutions. The stem's norm0 and the norm2 of 58 dense layers read one
    # convolution each; their norm1, three transitions and norm5 read concatenations.
    assert len([n for n in norms if n.folds_into]) == 1 + 58
    assert len([n for n in norms if not n.folds_into]) == 58 + 3 + 1


@pytest.mark.parametrize(
    ("pool", "function", "output", "reads"),
    [
        (nn.AdaptiveAvgPool2d(1), "average", 2, 2 * 5 * 5),
        # Five pixels in three windows: [0, 2), [1, 4), [3, 5); 2 + 3 + 2 = 7 a side.
        (nn.AdaptiveAvgPool2d(3), "average", 2 * 9, 2 * 7 * 7),
        (nn.AvgPool2d(2), "average", 2 * 4, 2 * 4 * 4),
        (nn.MaxPool2d(3, stride=2, padding=1), "maximum", 2 * 9, 2 * 9 * 9),
        (nn.MaxPool2d((3, 1), stride=1), "maximum", 2 * 15, 2 * 15 * 3),
    ],
)
def test_pooling_windows_by_hand(pool, function, output, reads):
    expected = [Pool("", function, 2 * 25, output, reads)]
    (op,) = operation_walk.walk(nn.Sequential(pool), 5, 2)
    assert op == Pool("0", function, 2 * 25, output, reads)
    calls = {
        nn.AvgPool2d: lambda m, x: F.avg_pool2d(x, 2),
        nn.MaxPool2d: lambda m, x: F.max_pool2d(x, m.kernel_size, m.stride, m.padding),
        nn.AdaptiveAvgPool2d: lambda m, x: F.adaptive_avg_pool2d(x, m.output_size),
    }

    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Identity()

        def forward(self, x):
            return calls[type(pool)](pool, x)

    assert operation_walk.walk(Functional(), 5, 2) == expected


def test_shuffles_and_layer_norms():
    ops = operation_walk.walk(meta("shufflenet_v2_x0_5"), 224)
    # Stages of 4, 8 and 4 units shuffle their outputs: 48, 96 and 192 channels at 28, 14 and 7.
    shuffles = of(Permutation, ops)
    assert [(s.channels, s.numel) for s in shuffles] == (
        [(48, 48 * 28 * 28)] * 4 + [(96, 96 * 14 * 14)] * 8 + [(192, 192 * 7 * 7)] * 4
    )
    assert of(Permutation, operation_walk.walk(nn.ChannelShuffle(3), 4, 6)) == [
        Permutation("", 6, 96)
    ]
    ops = operation_walk.walk(meta("convnext_tiny"), 224)
    # 96 channels at 56 x 56 are normalized pixel by pixel behind the stem.
    assert of(LayerNorm, ops)[0] == LayerNorm("features.0.1", 96 * 56 * 56, 56 * 56, True)


def test_dense_multiply_accumulates_are_those_of_torchs_counter():
    from torch.utils.flop_counter import FlopCounterMode

    for arch, size in (("efficientnet-b0", 224), ("resnet18", 65), ("resnet20", 32)):
        model = meta(arch).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 3, size, size, device="meta"))
        # It counts two operations a product.
        assert 2 * macs(operation_walk.walk(model, size)) == counter.get_total_flops()


class Own(nn.Module):
    def __init__(self, function, used=True):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.function, self.used = function, used
        self.extra = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        x = self.conv(x)
        x = self.extra(x) if self.used else x
        return self.function(self, x)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda m, x: F.conv2d(x, x[:3, :, :1, :1]), "conv2d"),
        (lambda m, x: F.conv_transpose2d(x, m.conv.weight), "conv_transpose2d"),
        (lambda m, x: x.flatten(1) @ x.flatten(1).T, "matmul"),
        (lambda m, x: x.flatten(1)[None] @ x.flatten(1).T[None], "matmul"),
        (lambda m, x: F.softplus(x, beta=2), "softplus"),
        (lambda m, x: x**1.5, "pow"),
        (lambda m, x: torch.linalg.vector_norm(x, 3, dim=1), "linalg_vector_norm"),
        (lambda m, x: x.cosh(), "cosh"),
        (lambda m, x: torch.max(x, 1), "max"),
        (lambda m, x: torch.add(x, x, alpha=2), "add"),
        (lambda m, x: torch.div(x, 2, rounding_mode="floor"), "div"),
        (lambda m, x: x[x[:, 0].argmax()], "argmax"),
    ],
)
def test_functions_without_a_rule_are_errors(function, name):
    net = nn.Sequential(nn.ReLU(), Own(function))
    with pytest.raises(ValueError, match=rf"module '1' calls \w*{name}\w*, which has no rule"):
        operation_walk.walk(net, 4)


@pytest.mark.parametrize(
    "module", [nn.LogSigmoid(), nn.ConvTranspose2d(3, 3, 1), nn.InstanceNorm2d(3)]
)
def test_modules_without_a_rule_are_errors(module):
    kind = type(module).__name__
    with pytest.raises(ValueError, match=rf"module '1.0' \({kind}\) has no rule"):
        operation_walk.walk(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(module)), 4)


def test_weights_that_nothing_uses_are_errors():
    with pytest.raises(ValueError, match=r"module 'extra' has 'extra.weight', which no operation"):
        operation_walk.walk(Own(lambda m, x: x, used=False), 4)


def test_an_image_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="does not take an image of 3x8x8"):
        operation_walk.walk(meta("alexnet"), 8)
    with pytest.raises(ValueError, match="does not take an image of 1x32x32"):
        operation_walk.walk(meta("resnet20", 10), 32, 1)
