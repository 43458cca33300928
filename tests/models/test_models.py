"""Networks by name: shapes, sizes, names of layers, and what is refused."""

import urllib.error

import pytest
import torch
import torch.nn.functional as F
import torchvision
from efficientnet_pytorch.utils import Conv2dDynamicSamePadding
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from micronet.models import architectures
from micronet.models.meta_device import meta_device
from micronet.utils.errors import UserError


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


# Tables of the papers, and of torchvision's documentation, for 1000 classes.
@pytest.mark.parametrize(
    ("arch", "millions"),
    [
        ("efficientnet-b0", 5.288548),
        ("efficientnet-b1", 7.794184),
        ("efficientnet-b2", 9.109994),
        ("resnet18", 11.689512),
        ("mobilenet_v2", 3.504872),
        ("googlenet", 6.624904),
    ],
)
def test_published_parameter_counts(arch, millions):
    with torch.device("meta"):
        model = architectures.create_model(arch, 1000)
    assert parameters(model) == round(millions * 1e6)


# He et al. 2016, table 6: 0.27, 0.46 and 0.85 million.
@pytest.mark.parametrize(("arch", "count"), [("20", 269722), ("32", 464154), ("56", 853018)])
def test_cifar_resnet_parameter_counts(arch, count):
    assert parameters(architectures.create_model("resnet" + arch, 10)) == count


def test_the_cifar_mobilenet_is_of_the_size_it_says():
    model = architectures.create_model("mobilenetv2_cifar", 10).eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() == 2 * 25_498_624
    assert parameters(model) == 479_562
    names = list(architectures.layers(model))
    assert names[:3] == ["conv1", "blocks.0.depthwise", "blocks.0.project"]
    assert names[-2:] == ["head", "fc"]
    depthwise = [m for n, m in architectures.layers(model).items() if n.endswith(".depthwise")]
    assert len(depthwise) == 12 and all(m.groups == m.in_channels for m in depthwise)


def test_a_block_of_the_cifar_mobilenet_adds_its_input_where_the_shapes_are_equal():
    model = architectures.create_model("mobilenetv2_cifar", 10).eval()
    assert [i for i, block in enumerate(model.blocks) if block.adds_input] == [2, 4, 5, 7, 8, 9, 11]
    torch.nn.init.zeros_(model.blocks[2].bn3.weight)
    x = torch.randn(2, 24, 8, 8)
    assert torch.equal(model.blocks[2](x), x)


@pytest.mark.parametrize(
    "arch",
    [
        "efficientnet-b0",
        "efficientnet-b1",
        "efficientnet-micro",
        "resnet20",
        "mobilenetv2_cifar",
        "inception_v3",
        "regnet_y_400mf",
        "squeezenet1_0",
        "vit_b_32",
    ],
)
def test_a_meta_network_holds_no_weights_and_runs_forward(arch):
    with torch.device("meta"):
        model = architectures.create_model(arch, 7).eval()
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    side = architectures.default_image_size(arch) if arch == "inception_v3" else 224
    assert model(torch.empty(2, 3, side, side, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("arch", ["efficientnet-micro", "resnet20", "mobilenetv2_cifar"])
def test_small_networks_train_on_one_channel(arch):
    model = architectures.create_model(arch, 5, channels=1)
    logits = model(torch.randn(4, 1, 32, 32))
    F.cross_entropy(logits, torch.arange(4)).backward()
    assert logits.shape == (4, 5)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_torchvision_networks_take_other_channel_counts():
    with torch.device("meta"):
        model = architectures.create_model("resnet18", 3, channels=1)
    assert model.conv1.weight.shape == (64, 1, 7, 7)
    assert model(torch.empty(1, 1, 64, 64, device="meta")).shape == (1, 3)


def test_efficientnet_pads_same_at_the_size_in_use():
    model = architectures.create_model("efficientnet-b0", 10)
    layers = architectures.layers(model)
    for name, layer in layers.items():
        # Squeeze and excitation works on one pixel and needs no padding.
        if isinstance(layer, torch.nn.Conv2d) and "_se_" not in name:
            assert type(layer) is Conv2dDynamicSamePadding
    # TensorFlow's SAME: a 5x5 kernel of stride 2 on an even side pads 1 before and 2 after.
    layer = layers["_blocks.3._depthwise_conv"]
    x = torch.randn(1, layer.in_channels, 56, 56)
    padded = F.pad(x, (1, 2, 1, 2))
    expected = F.conv2d(padded, layer.weight, stride=2, groups=layer.groups)
    assert torch.equal(layer(x), expected)


def test_micro_is_a_small_efficientnet_with_the_package_s_names():
    model = architectures.create_model("efficientnet-micro", 10)
    assert parameters(model) < 400_000
    names = set(architectures.layers(model))
    block = {"_expand_conv", "_depthwise_conv", "_se_reduce", "_se_expand", "_project_conv"}
    assert {f"_blocks.1.{name}" for name in block} <= names
    assert {"_conv_stem", "_conv_head", "_fc"} <= names
    residual = [b for b in model._blocks if b._block_args.stride == 1 and b.id_skip]
    same = [b for b in residual if b._block_args.input_filters == b._block_args.output_filters]
    assert len(same) == 3
    assert model._dropout.p == 0
    assert model._global_params.drop_connect_rate == 0


def test_cifar_resnet_shortcut_is_the_input_subsampled_and_padded_with_zero_channels():
    model = architectures.create_model("resnet20", 10).eval()
    block = model.layer2[0]
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 16, 8, 8)
    y = block(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_layers_are_named_in_module_order():
    model = architectures.create_model("resnet20", 10)
    names = list(architectures.layers(model))
    assert names[:3] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]
    assert names[-1] == "fc"
    assert len(names) == 20


@pytest.mark.parametrize(
    ("arch", "stem", "classifier"),
    [
        ("efficientnet-b0", "_conv_stem", "_fc"),
        ("resnet20", "conv1", "fc"),
        ("mobilenetv2_cifar", "conv1", "fc"),
        ("mobilenet_v2", "features.0.0", "classifier.1"),
        ("squeezenet1_0", "features.0", "classifier.1"),
    ],
)
def test_first_and_last_layers(arch, stem, classifier):
    with torch.device("meta"):
        model = architectures.create_model(arch, 10)
    assert architectures.stem_name(model) == stem
    assert architectures.classifier_name(model) == classifier


def test_a_network_without_layers_has_no_stem_and_no_classifier():
    with pytest.raises(UserError, match="no convolution"):
        architectures.stem_name(torch.nn.ReLU())
    with pytest.raises(UserError, match="no convolution and no linear"):
        architectures.classifier_name(torch.nn.ReLU())


@pytest.mark.parametrize(
    ("arch", "side"),
    [
        ("efficientnet-b0", 224),
        ("efficientnet-b1", 240),
        ("efficientnet-micro", 32),
        ("resnet20", 32),
        ("mobilenetv2_cifar", 32),
        ("resnet50", 224),
        ("inception_v3", 299),
    ],
)
def test_default_image_sizes(arch, side):
    assert architectures.default_image_size(arch) == side


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"'efficientnet-b9'; did you mean 'efficientnet-b"):
        architectures.create_model("efficientnet-b9", 10)
    with pytest.raises(UserError, match="did you mean 'resnet20'"):
        architectures.default_image_size("resnet_20")
    # Detectors and segmenters are no classifiers.
    assert "fcn_resnet50" not in architectures.architectures()
    with pytest.raises(UserError, match="0 classes"):
        architectures.create_model("resnet20", 0)


def test_pretrained_weights_that_nobody_publishes():
    with pytest.raises(UserError, match="no published weights for resnet20"):
        architectures.create_model("resnet20", 10, pretrained=True)
    with pytest.raises(UserError, match="need 3 channels, not 1"):
        architectures.create_model("resnet18", 10, channels=1, pretrained=True)


@pytest.mark.parametrize("arch", ["efficientnet-b0", "resnet18"])
def test_no_network_is_one_sentence(arch, monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("name resolution failed")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    with pytest.raises(UserError, match=f"cannot fetch the published weights of {arch}") as caught:
        architectures.create_model(arch, 10, pretrained=True)
    assert "\n" not in str(caught.value)


def test_pretrained_efficientnet_keeps_all_but_another_head(monkeypatch):
    published = {
        name: torch.full_like(value, 2)
        for name, value in architectures.create_model("efficientnet-b0", 1000).state_dict().items()
    }
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *a, **k: dict(published))
    whole = architectures.create_model("efficientnet-b0", 1000, pretrained=True)
    assert torch.equal(whole._fc.weight, published["_fc.weight"])
    other = architectures.create_model("efficientnet-b0", 10, pretrained=True)
    assert torch.equal(other._conv_head.weight, published["_conv_head.weight"])
    assert other._fc.weight.shape == (10, 1280)
    assert not (other._fc.weight == 2).any()


def test_pretrained_torchvision_networks_get_another_head(monkeypatch):
    fresh = torchvision.models.resnet18()
    monkeypatch.setattr("torchvision.models.get_model", lambda *a, **k: fresh)
    model = architectures.create_model("resnet18", 10, pretrained=True)
    assert model.fc.weight.shape == (10, 512)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 10)


@pytest.mark.parametrize("arch", ["resnet20", "googlenet", "efficientnet-micro"])
def test_nothing_is_drawn_for_a_network_without_memory(arch):
    with torch.device("meta"):
        expected = architectures.create_model(arch, 7).state_dict()
    before = torch.get_rng_state()
    with meta_device():
        made = architectures.create_model(arch, 7)
        held = nn.init.kaiming_normal_(torch.zeros(8, 8, device="cpu"))
        held += torch.zeros(8, 8, device="cpu").normal_() * nn.init.normal_(held.clone())
        both = nn.init.normal_(torch.empty(3)), torch.empty(3).normal_(), nn.init.ones_(held.mT)
    assert all(tensor.is_meta for tensor in (*made.state_dict().values(), *both[:2]))
    facts = [
        {name: (t.shape, t.dtype, t.is_meta, t.requires_grad) for name, t in state.items()}
        for state in (made.state_dict(), expected)
    ]
    assert facts[0] == facts[1]
    # What has values is filled as ever.
    assert not torch.equal(before, torch.get_rng_state()) and (held == 1).all()
    torch.set_rng_state(before)
    first, second = torch.empty(8, 8), torch.empty(8, 8)
    with meta_device():
        nn.init.kaiming_normal_(first)
    torch.set_rng_state(before)
    nn.init.kaiming_normal_(second)
    assert torch.equal(first, second)
