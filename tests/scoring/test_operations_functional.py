"""Layers that no module is, weights that are computed, and what the walk refuses in a sentence."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

import micronet.score as score
from micronet.cli import summary
from micronet.quantization.quantize import LayerBits
from micronet.scoring.operations import operation_walk
from micronet.scoring.operations.records import Conv, LayerNorm, Linear, Pool, Residual, Softmax
from micronet.utils.errors import UserError
from spelled import With, mean, net, price, weights


def test_a_layer_that_no_module_is_is_named_by_its_weights():
    model = net(lambda m, x: F.conv2d(x, m.w, m.b, padding=1), w=weights(4, 8, 3, 3), b=weights(4))
    counted = score.score_model(model, 8, bits={}, sparsities={})
    assert counted.ops[-1] == Conv("w", 8, 4, 1, (3, 3), 64, True, by_layer=False)
    assert [row.name for row in counted.rows()] == ["conv", "w", ""]
    assert counted.weights == 3 * 8 * 9 + 8 * 4 * 9
    assert counted.layers["w"].bits.is_float
    assert operation_walk.multiply_adds(model, 8) == {"conv": 64 * 3 * 8 * 9, "w": 64 * 8 * 4 * 9}


def test_weights_in_a_buffer_are_stored():
    blur = torch.ones(8, 1, 3, 3)
    fixed = net(lambda m, x: F.conv2d(x, m.w, groups=8), w=blur)
    learned = net(lambda m, x: F.conv2d(x, m.w, groups=8), w=nn.Parameter(blur))
    assert price(fixed) == price(learned)


def test_tensors_beside_the_parameters_are_taken_along():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.mean, self.std = torch.ones(3, 1, 1), torch.ones(3, 1, 1)

        def forward(self, x):
            return self.conv((x - self.mean) / self.std)

    assert len(operation_walk.walk(Plain(), 4)) == 3


def test_two_linear_maps_in_one_layer_are_both_counted():
    class Adapted(nn.Linear):
        def __init__(self):
            super().__init__(8, 5)
            self.down, self.up = weights(2, 8), weights(5, 2)

        def forward(self, x):
            return super().forward(x) + x @ self.down.T @ self.up.T

    model = net(lambda m, x: m.fc(mean(x)), fc=Adapted())
    assert operation_walk.walk(model, 8)[2:] == [
        Linear("fc", 8, 5, 1, True),
        Linear("fc.down", 8, 2, 1, False, by_layer=False),
        Linear("fc.up", 2, 5, 1, False, by_layer=False),
        Residual("fc", 5),
    ]
    plain = price(net(lambda m, x: m.fc(mean(x)), fc=nn.Linear(8, 5)))
    assert price(model)[1] - plain[1] == 2 * 8 + 5 * 2


def test_weights_that_are_computed_belong_to_their_layer():
    class Standardized(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, weight / weight.std(), self.bias, self.stride, self.padding)

    computed = net(lambda m, x: m.second(x), second=Standardized(8, 4, 3))
    assert price(computed) == price(net(lambda m, x: m.second(x), second=nn.Conv2d(8, 4, 3)))


@pytest.mark.parametrize(
    "compute",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.spectral_norm,
        lambda layer: prune.identity(layer, "weight"),
    ],
)
def test_torchs_own_computed_weights_belong_to_their_layer(compute):
    computed = net(lambda m, x: m.second(x), second=compute(nn.Conv2d(8, 4, 3)))
    assert price(computed) == price(net(lambda m, x: m.second(x), second=nn.Conv2d(8, 4, 3)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused():
    with pytest.raises(ValueError, match="module '1' is compiled by TorchScript"):
        operation_walk.walk(nn.Sequential(nn.ReLU(), torch.jit.trace(nn.ReLU(), torch.ones(1))), 8)


def test_one_layer_under_two_names_is_stored_once_and_run_twice():
    shared = nn.Conv2d(8, 8, 1)
    model = net(lambda m, x: m.again(m.second(x)), second=shared, again=shared)
    once = net(lambda m, x: m.second(x), second=nn.Conv2d(8, 8, 1))
    assert [op.name for op in operation_walk.walk(model, 8)] == ["conv", "second", "second"]
    assert price(model)[0] == price(once)[0]
    assert operation_walk.multiply_adds(model, 8)["second"] == 2 * 64 * 64


def test_every_image_of_patches_and_frames_counts():
    patches = net(lambda m, x: m.second(x.reshape(-1, 8, 4, 4)), second=nn.Conv2d(8, 8, 1))
    whole = net(lambda m, x: m.second(x), second=nn.Conv2d(8, 8, 1))
    assert price(patches) == price(whole)


def test_softmax_by_hand():
    ops = operation_walk.walk(net(lambda m, x: F.log_softmax(mean(x), dim=1)), 8)
    assert ops[-2:] == [Pool("", "average", 512, 8, 512), Softmax("", 8, 1, True)]
    plain, soft, log = (
        price(net(body))[3]
        for body in (
            lambda m, x: x,
            lambda m, x: x.softmax(1),
            lambda m, x: x.log_softmax(1),
        )
    )
    # In each of 64 pixels: 8 exponentials, 7 additions, 8 quotients; or one logarithm, 8
    # subtractions in place of the quotients.
    assert soft - plain == 64 * (8 + 7 + 8)
    assert log - plain == 64 * (8 + 7 + 1 + 8)


def test_layer_norm_as_a_function_is_one_of_its_module():
    ops = operation_walk.walk(net(lambda m, x: F.layer_norm(x, (8,))), 8)
    assert ops[-1] == LayerNorm("", 512, 64, False)


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: x.mean(),
        lambda m, x: x.mean(0),
        lambda m, x: x.mean(dim=0, keepdim=True).expand_as(x),
        lambda m, x: x + x.mean((0, 2, 3), keepdim=True),
        lambda m, x: F.relu(x[0]),
        lambda m, x: F.relu(x[:-1]),
        lambda m, x: F.softmax(x, 0),
    ],
)
def test_work_that_mixes_images_is_refused(body):
    with pytest.raises(ValueError, match=r"module '' calls \w+, which mixes the images of a batch"):
        operation_walk.walk(net(body), 8)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (lambda m, x: x[torch.arange(251).flip(0)], "__getitem__"),
        (lambda m, x: x.flip(0), "flip"),
        (lambda m, x: strided(x), "__setitem__"),
        (lambda m, x: F.batch_norm(x, None, None, training=True), "batch_norm"),
        (lambda m, x: x.cos(), "cos"),
        (lambda m, x: torch.bmm(m.many.expand(251, 8, 8).contiguous(), x.flatten(2)), "bmm"),
    ],
)
def test_what_cannot_be_priced_is_refused(body, name):
    with pytest.raises(ValueError, match=rf"module '' calls {name}, which has no rule"):
        operation_walk.walk(net(body, many=weights(1, 8, 8)), 8)


def strided(x):
    out = torch.empty_like(x)
    out[:, ::2], out[:, 1::2] = x[:, :4], x[:, 4:]
    return out


def test_weights_from_nowhere_are_refused():
    constant = net(lambda m, x: F.conv2d(x, torch.ones(4, 8, 1, 1, device=x.device)))
    with pytest.raises(ValueError, match=r"calls conv2d, which has weights that are no parameter"):
        operation_walk.walk(constant, 8)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (lambda x: x.shape[7], "IndexError: tuple index out of range"),
        (lambda x: x.nothing, "AttributeError: .* no attribute 'nothing'"),
        (lambda x: {}["a"], "KeyError: 'a'"),
        (lambda x: x.amax((1, 2, 3))[0].item(), "item"),
        (lambda x: F.relu(y=x), "TypeError: .*'y'"),
    ],
)
def test_whatever_a_network_raises_is_one_sentence(error, text):
    with pytest.raises(ValueError, match=f"does not take an image of 3x8x8: .*{text}"):
        operation_walk.walk(net(lambda m, x: error(x)), 8)


def test_weights_that_a_function_takes_past_their_quantized_layer_are_refused():
    model = net(lambda m, x: F.conv2d(m.second(x), m.second.weight), second=nn.Conv2d(8, 8, 1))
    assert price(model)[0] == price(net(lambda m, x: m.second(x), second=nn.Conv2d(8, 8, 1)))[0]
    bits = {"second": LayerBits(4, 4)}
    with pytest.raises(UserError, match=r"layer 'second' is quantized, but a function also takes"):
        score.score_model(model, 8, bits=bits, sparsities={})


def test_a_network_of_functions_alone_is_counted():
    model = With(
        lambda m, x: F.conv2d(x, m.w, m.b).mean((2, 3)), w=weights(5, 3, 3, 3), b=weights(5)
    )
    layers = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert price(model) == price(layers)
    assert summary.multiply_adds(model, 8) == {"w": 36 * 5 * 27}
    text = summary.layer_table(model, model, 8)
    assert "5x3x3x3" in text and "function" in text and text.splitlines()[-1].split()[-1] == "4,860"
    assert score.score_model(model, 8, sparsities={}).score > 0


def test_a_network_without_weights_has_a_score_and_no_summary():
    counted = score.score_model(nn.Sequential(nn.ReLU()), 8)
    assert (counted.storage, counted.operations_dense, counted.sparsity) == (0, 3 * 64, 0)
    with pytest.raises(UserError, match="Sequential has no convolution and no linear layer"):
        summary.multiply_adds(nn.Sequential(nn.ReLU()), 8)


FORMS = ([], ["--json"], ["--csv"], ["--markdown"], ["--layers"], ["--entries"], ["--proof"])
OF_SCRIPTS = [["--rules", name, "--as-published"] for name in score.RULES if name != "micronet"]


@pytest.mark.parametrize("form", [*FORMS, *OF_SCRIPTS], ids=" ".join)
def test_a_score_of_nothing_stored_is_written_in_every_form(form, tmp_path, monkeypatch, capsys):
    """The share of nothing in nothing is no number."""
    (tmp_path / "nothing_stored.py").write_text(
        "from torch import nn\n"
        "def net(num_classes): return nn.Sequential(nn.AvgPool2d(5), nn.Flatten())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    network = ["--arch", "nothing_stored:net", "--num-classes", "3", "--image-size", "5"]
    picture = tmp_path / "picture.svg"
    assert score.main([*network, *form, "--waterfall", str(picture)]) == 0
    assert capsys.readouterr().out and picture.exists()


@pytest.mark.parametrize("rules", score.RULES)
def test_every_rule_set_counts_functions_and_softmaxes(rules):
    body = lambda m, x: F.log_softmax(F.conv2d(x, m.w).mean((2, 3)), 1)  # noqa: E731
    counted = score.score_model(
        net(body, w=weights(4, 8, 3, 3)), 8, bits={}, sparsities={}, rules=score.RULES[rules]
    )
    (row,) = (row for row in counted.rows() if row.name == "w")
    assert row.operations > 0 and sum(r.storage for r in counted.rows()) == counted.storage


def test_summary_of_a_network_that_does_not_run_is_one_sentence():
    with pytest.raises(UserError, match="has no summary: it does not take an image of 3x8x8"):
        summary.multiply_adds(net(lambda m, x: x.nothing), 8)


def test_products_of_layers_are_counted_in_networks_that_have_no_score():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.ConvTranspose2d(3, 8, 2, stride=2)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.fc = nn.Linear(8, 5)

        def forward(self, x):
            x = self.conv(x).flatten(2).mT
            return self.fc(self.attention(x, x, x)[0])

    found = summary.multiply_adds(Attention(), 4)
    # 16 pixels become 64 places; the projection of three is no layer of its own.
    assert found["conv"] == 16 * 3 * 8 * 4
    assert found["attention.out_proj"] == 64 * 64 and found["fc"] == 64 * 40
    assert found["attention.in_proj_weight"] == 64 * 8 * 24
