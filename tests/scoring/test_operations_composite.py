"""Operators of many steps, and functions of one: by hand, and priced as their spelled-out forms."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import micronet.score as score
from micronet.scoring.operations import operation_walk
from micronet.scoring.operations.records import (
    Activation,
    LayerNorm,
    MatrixProduct,
    Pool,
    Residual,
    Scale,
    Softmax,
)
from spelled import mean, net, price, weights

# 8 channels of 8x8 pixels come out of the first convolution.
NUMEL = 512


def walked(body, **members):
    """The operations behind the first convolution."""
    return operation_walk.walk(net(body, **members), 8)[1:]


def tokens(x):
    """Two heads of 64 tokens of 4 channels."""
    return x.flatten(2).transpose(1, 2).reshape(-1, 64, 2, 4).transpose(1, 2)


ATTENTION = [
    Scale("", NUMEL),
    MatrixProduct("", 4, 2 * 64 * 64),
    Softmax("", 2 * 64 * 64, 2 * 64, False),
    MatrixProduct("", 64, NUMEL),
]


def spelled_attention(x, mask=None):
    q = k = v = tokens(x)
    scores = q * 0.5 @ k.transpose(-2, -1)
    return (scores if mask is None else scores + mask).softmax(-1) @ v


def test_attention_by_hand():
    assert walked(lambda m, x: F.scaled_dot_product_attention(*[tokens(x)] * 3)) == ATTENTION
    assert walked(lambda m, x: spelled_attention(x)) == ATTENTION
    merged = lambda m, x: spelled_attention(x).transpose(1, 2).reshape(-1, 64, 8)  # noqa: E731
    assert walked(merged) == ATTENTION
    # 512 to scale; of each score 4 products and 3 additions, of each value 64 and 63.
    plain = price(net(lambda m, x: x))[3]
    products = NUMEL + 8192 * (4 + 3) + NUMEL * (64 + 63)
    softmax = 8192 * 3 - 128
    assert price(net(lambda m, x: spelled_attention(x)))[3] - plain == products + softmax


@pytest.mark.parametrize(
    "options",
    [
        {"attn_mask": torch.zeros(64, 64)},
        {"attn_mask": torch.ones(64, 64) > 0},
        {"is_causal": True},
    ],
)
def test_a_mask_is_added(options):
    masked = walked(lambda m, x: F.scaled_dot_product_attention(*[tokens(x)] * 3, **options))
    assert masked == [*ATTENTION[:2], Residual("", 8192), *ATTENTION[2:]]


def test_a_factor_of_one_is_none():
    body = lambda m, x: F.scaled_dot_product_attention(*[tokens(x)] * 3, scale=1.0)  # noqa: E731
    assert walked(body) == ATTENTION[1:]


VARIANCE = [
    Pool("", "average", NUMEL, 64, NUMEL),
    Residual("", NUMEL),
    Activation("", "square", NUMEL),
    Pool("", "average", NUMEL, 64, NUMEL),
]
LENGTH = [
    Activation("", "square", NUMEL),
    Pool("", "sum", NUMEL, 64, NUMEL),
    Activation("", "sqrt", 64),
]


@pytest.mark.parametrize(
    ("body", "ops"),
    [
        (lambda m, x: F.mish(x), [Activation("", "mish", NUMEL)]),
        (lambda m, x: F.softplus(x), [Activation("", "softplus", NUMEL)]),
        (lambda m, x: F.leaky_relu(x, 0.2), [Activation("", "leaky_relu", NUMEL)]),
        (lambda m, x: F.prelu(x, m.w), [Activation("", "prelu", NUMEL)]),
        (lambda m, x: F.elu(x), [Activation("", "elu", NUMEL)]),
        (lambda m, x: F.elu(x, 0.5), [Activation("", "selu", NUMEL)]),
        (lambda m, x: F.selu(x), [Activation("", "selu", NUMEL)]),
        (lambda m, x: x.tanh(), [Activation("", "tanh", NUMEL)]),
        (lambda m, x: x.square(), [Activation("", "square", NUMEL)]),
        (lambda m, x: x**3, [Activation("", "square", NUMEL), Scale("", NUMEL)]),
        (lambda m, x: torch.maximum(x, m.w[:1]), [Activation("", "maximum", NUMEL)]),
        (lambda m, x: x.var(1), VARIANCE),
        (lambda m, x: torch.var_mean(x, 1)[0], VARIANCE),
        (lambda m, x: x.std(1), [*VARIANCE, Activation("", "sqrt", 64)]),
        (lambda m, x: x.norm(dim=1), LENGTH),
        (lambda m, x: x.sum(1), [Pool("", "sum", NUMEL, 64, NUMEL)]),
        (lambda m, x: F.group_norm(x, 2), [LayerNorm("", NUMEL, 2, False)]),
        (lambda m, x: F.group_norm(x, 4, m.w, m.w), [LayerNorm("", NUMEL, 4, True)]),
        (lambda m, x: F.glu(x, 1), [Activation("", "sigmoid", 256), Scale("", 256)]),
        (lambda m, x: torch.addcmul(x, x, m.w[0]), [Scale("", NUMEL), Residual("", NUMEL)]),
        (lambda m, x: F.interpolate(x, scale_factor=2), []),
        (lambda m, x: F.interpolate(x, scale_factor=2, mode="nearest-exact"), []),
        (
            lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"),
            [Scale("", 4 * 2048), Residual("", 3 * 2048)],
        ),
        (
            lambda m, x: F.interpolate(x, size=4, mode="bicubic", antialias=True),
            [Scale("", 16 * 128), Residual("", 15 * 128)],
        ),
        (lambda m, x: F.pad(x, (1, 1, 1, 1), "reflect"), []),
        (lambda m, x: F.pixel_unshuffle(x, 2), []),
        (lambda m, x: x.unfold(2, 4, 4), []),
        (
            lambda m, x: F.fold(F.unfold(x, 3, padding=1), (8, 8), 3, padding=1),
            [Pool("", "sum", 9 * NUMEL, NUMEL, 9 * NUMEL)],
        ),
    ],
)
def test_records_by_hand(body, ops):
    members = {"w": weights(8)} if "w" in body.__code__.co_names else {}
    assert walked(body, **members) == ops


def test_root_mean_square_normalization_is_what_it_is_spelled_out():
    built_in = walked(lambda m, x: F.rms_norm(x, (8,), m.w), w=weights(8))

    def spelled(m, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * m.w

    assert built_in == walked(spelled, w=weights(8))


@pytest.mark.parametrize(
    ("function", "each"),
    [
        (F.mish, 5),  # exp, 1 +, log, tanh, product
        (F.softplus, 3),
        (F.leaky_relu, 2),
        (F.elu, 3),
        (F.selu, 5),
        (torch.tanh, 1),
        (torch.log1p, 2),
        (torch.square, 1),
    ],
)
def test_functions_are_billed_step_by_step(function, each):
    plain = price(net(lambda m, x: x))[3]
    assert price(net(lambda m, x: function(x)))[3] - plain == NUMEL * each


@pytest.mark.parametrize("rules", score.RULES)
def test_every_rule_set_bills_them(rules):
    body = lambda m, x: F.mish(spelled_attention(x)).sum(-1).sqrt()  # noqa: E731
    counted = score.score_model(net(body), 8, bits={}, sparsities={}, rules=score.RULES[rules])
    plain = score.score_model(
        net(lambda m, x: x), 8, bits={}, sparsities={}, rules=score.RULES[rules]
    )
    assert counted.operations > plain.operations and counted.storage == plain.storage


def test_slopes_of_a_prelu_are_stored():
    one, plain = (price(net(lambda m, x: m.act(x), act=act))[0] for act in (nn.PReLU(8), nn.ReLU()))
    assert one - plain == 8 * 16 / 32


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: mean(x) @ mean(x).T,
        lambda m, x: torch.bmm(x.mean(3).transpose(0, 1), x.mean(3).permute(1, 2, 0)),
        lambda m, x: F.scaled_dot_product_attention(*[mean(x)[None]] * 3),
    ],
)
def test_products_that_mix_images_are_refused(body):
    with pytest.raises(ValueError, match=r"has no rule|mixes the images"):
        operation_walk.walk(net(body), 8)
