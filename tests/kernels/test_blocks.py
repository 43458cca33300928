"""Blocks on codes: the specification's bits on every instruction set, and what a step keeps."""

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import micronet_kernels as kernels
from block_networks import Gated, chain, converted, images
from micronet.models import architectures
from micronet.quantization import quantize
from micronet.quantization.quantize import LayerBits
from micronet_kernels.operands import Coding
from samples import DTYPES

OP = torch.ops.micronet
NONE = torch.empty(0)
AFFINE, LEARNED = kernels.Scheme.AFFINE, kernels.Scheme.LEARNED
# What values are rounded by: nothing, their range, or a learned step, with its zero point.
NOTHING = Coding(NONE, 2, AFFINE)
RANGE = Coding(torch.tensor([-0.25, 1.9]), 16, AFFINE)
BYTES = Coding(torch.tensor([-0.25, 1.9]), 200, AFFINE)
STEP = Coding(torch.tensor([0.1, -2.0]), 9, LEARNED)
SIZES = [(2, 16, 5, 7), (3, 7, 3, 5), (1, 600, 2, 3), (2, 32, 1, 1), (16, 33, 20, 17)]
TYPES = [torch.int16, torch.int32, torch.float32]
FUNCTIONS = range(4)


# Each two of a size, a type and a function meet once at least.
BLOCKS = [(SIZES[(i + f) % 3], t, f) for i, t in enumerate(TYPES) for f in FUNCTIONS]


@pytest.fixture(params=BLOCKS, ids=str)
def block(request, rng):
    """Accumulators with their affine map and function."""
    size, dtype, function = request.param
    c = size[1]
    m, b = 0.01 * torch.rand(c, generator=rng), torch.randn(c, generator=rng)
    return images(rng, size, dtype, 500.0), m, b, function


def test_reading_is_the_same_everywhere(on_all, rng, threads, block):
    acc = block[0]
    for gate in (NONE, torch.randn(acc.shape[:2], generator=rng)):
        on_all(lambda gate=gate: OP.block_extremes(*block, gate))
        on_all(lambda gate=gate: OP.block_values(*block, gate))
        for coding in (RANGE, BYTES, STEP):
            on_all(lambda gate=gate, coding=coding: OP.block_codes(*block, gate, *coding))
    on_all(lambda: OP.block_means(*block))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_the_same_everywhere(on_all, rng, threads, block, dtype):
    acc = block[0]
    grad = images(rng, acc.shape, dtype)
    k = torch.randn(3, acc.shape[1], generator=rng)
    gate, extra = (torch.randn(acc.shape[:2], generator=rng) for _ in (0, 1))
    for by in (NOTHING, RANGE, STEP):
        for more in (NONE, extra):
            on_all(lambda by=by, x=more: OP.block_gradient(grad, *block, *by, x, k, dtype))
        on_all(lambda by=by: OP.block_gate_gradient(grad, *block, gate, *by))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gradient_that_is_kept_is_the_one_that_is_made_twice(on_all, rng, threads, block, dtype):
    acc = block[0]
    grad, extra = images(rng, acc.shape, dtype), torch.randn(acc.shape[:2], generator=rng)
    k, before = torch.randn(3, acc.shape[1], generator=rng), grad.clone()

    def kept(by, more):
        operands = grad, *block, *by, more
        sums, dz = OP.block_gradient_kept(*operands)
        assert torch.equal(sums, OP.block_gradient_sums(*operands))
        through = dz.clone(memory_format=torch.channels_last)
        OP.norm_gradient_(through, acc, k)
        assert torch.equal(through, OP.block_gradient(*operands, k, torch.float32))
        return torch.cat([dz, through])

    for by in (NOTHING, RANGE, STEP):
        for more in (NONE, extra):
            on_all(lambda by=by, more=more: kept(by, more))
    # Where nothing is between the two, what is written to is no alias of what came.
    assert torch.equal(grad, before)


def test_what_a_kept_gradient_refuses(rng):
    acc, k = images(rng, (2, 3, 4, 5), torch.int16, 9.0), torch.ones(3, 3)
    for dz, wrong in (
        (torch.ones(2, 3, 4, 5), "dz has strides"),
        (images(rng, (2, 3, 4, 4)), "dz has shape"),
    ):
        with pytest.raises(ValueError, match=wrong):
            OP.norm_gradient_(dz, acc, k)
    with pytest.raises(TypeError, match=r"dz is torch\.float16"):
        OP.norm_gradient_(images(rng, acc.shape, torch.float16), acc, k)
    with pytest.raises(ValueError, match="k has shape"):
        OP.norm_gradient_(images(rng, acc.shape), acc, torch.ones(3, 4))


@pytest.mark.parametrize("gated", [False, True])
def test_gradients_to_a_step_and_its_offset(backend, rng, threads, block, gated):
    """Within the error of a sum of float32: each unit adds at most 128 terms to a place."""
    acc = block[0]
    grad = images(rng, acc.shape)
    gate = torch.rand(acc.shape[:2], generator=rng) if gated else NONE
    gate[:1] = 1.0  # one image has values beyond the last level, of a sigmoid too
    sums = OP.block_step_sums(grad, *block, gate, *STEP)
    values = OP.block_values(*block, gate)
    # The specification's own rounding of the same values; their products in float64.
    (step, zero), n = STEP.range, STEP.levels - 1
    t = (1 / step) * values
    whole = torch.round(t - zero).clamp(0, n) + zero
    inside = (t > zero) & (t < zero + n)
    terms = grad.double() * torch.where(inside, whole - t, whole)
    beyond = torch.where(inside, 0.0, grad).double()
    for found, expected in zip(sums, (terms, beyond), strict=True):
        bound = 130 * 2.0**-24 * expected.abs().sum((0, 2, 3))
        assert ((found - expected.sum((0, 2, 3))).abs() <= bound).all()
    assert inside.any() and not inside.all()
    assert torch.equal(sums, OP.block_step_sums(grad, *block, gate, *STEP))


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_narrow_gradients_are_rounded_once(backend, rng, block, dtype):
    """Those of float32, of the same numbers, rounded afterwards."""
    acc = block[0]
    grad = images(rng, acc.shape, dtype)
    k, gate = torch.randn(3, acc.shape[1], generator=rng), torch.randn(acc.shape[:2], generator=rng)
    narrow = OP.block_gradient(grad, *block, *RANGE, gate, k, dtype)
    wide = OP.block_gradient(grad.float(), *block, *RANGE, gate, k, torch.float32)
    assert torch.equal(narrow, wide.to(dtype))
    others = {
        OP.block_gradient_sums: (*RANGE, gate),
        OP.block_gate_gradient: (gate, *RANGE),
        OP.block_step_sums: (gate, *STEP),
    }
    for op, rest in others.items():
        found, expected = (op(g, *block, *rest) for g in (grad, grad.float()))
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sums_by_channel(backend, rng, threads, size):
    acc = images(rng, size, torch.int16, 5000.0)
    wide = acc.double()
    expected = torch.stack([wide.sum((0, 2, 3)), (wide * wide).sum((0, 2, 3))])
    assert torch.equal(OP.channel_moments(acc), expected)
    grad, m, b = images(rng, size), torch.ones(size[1]), torch.zeros(size[1])
    sums = OP.block_gradient_sums(grad, images(rng, size), m, b, 0, *NOTHING, NONE)
    assert torch.allclose(sums[0], grad.double().sum((0, 2, 3)), rtol=1e-5, atol=1e-4)


def test_what_is_not_finite_shows(on_all):
    acc = torch.ones(1, 2, 3, 3).contiguous(memory_format=torch.channels_last)
    acc[0, 1, 2, 2] = torch.nan
    given = (acc, torch.ones(2), torch.zeros(2), 2)
    assert on_all(lambda: OP.block_extremes(*given, NONE)).isnan().all()
    codes = on_all(lambda: OP.block_codes(*given, NONE, *RANGE))
    assert kernels.unpack_codes(codes, 18, 16)[-1] == 0
    acc[0, 1, 2, 2] = torch.inf
    assert on_all(lambda: OP.block_extremes(*given, NONE))[1] == torch.inf


def test_swish_within_two_ulp_of_exp(on_all, rng):
    """Sigmoid at -x is 1 / (1 + e^x): far out it is e^-x, of which exp is to be within 2 ulp."""
    x = 20 * torch.randn(1, 64, 16, 16, generator=rng) - 40
    x = x.contiguous(memory_format=torch.channels_last)
    one, zero = torch.ones(64), torch.zeros(64)
    y = on_all(lambda: OP.block_values(x, one, zero, 3, NONE))
    expected = torch.sigmoid(x.double())
    seen = expected > 2.0**-126
    ulp = 2.0 ** (torch.floor(torch.log2(expected)) - 23)
    assert (((y.double() - expected).abs() / ulp)[seen] <= 3).all()


# Whole blocks -----------------------------------------------------------------------------------


def test_the_gradient_stops_outside_the_range(backend, rng):
    """The only reader's range is applied by the activation itself; with two readers, by each."""
    layers = dict(chain().named_children())
    model = nn.Sequential(layers["0"], layers["1"], layers["2"], layers["6"].__class__(24, 8, 1))
    quantize.convert_(model, dict.fromkeys(architectures.layers(model), LayerBits(4, 4)))
    x = images(rng, (2, 16, 6, 6))
    model(x)
    reader = model[3].input_quantizer.eval()
    reader.range.copy_(torch.tensor([-10.0, -9.0]))  # widened to hold 0, and no swish is below -0.3
    model(x).sum().backward()
    inside = [p.grad.abs().sum() for p in model[0].parameters()]
    reader.range.copy_(torch.tensor([5.0, 5.1]))
    model.zero_grad()
    model(x).sum().backward()
    assert all(torch.isfinite(value) for value in inside)
    y = F.silu(model[1](model[0](x))) + 0
    assert ((y <= 0) | (y > 5.1)).any() and (model[0].weight.grad != 0).any()


def test_integers_that_are_made_again_change_no_bit(rng):
    x = images(rng, (3, 16, 9, 8))
    model = converted(Gated, x)
    found = []
    for recomputed in kernels.RECOMPUTED:
        model.zero_grad()
        with kernels.recompute_in_backward(recomputed):
            y = model(x) + 0
        y.square().sum().backward()
        found.append([p.grad.clone() for p in model.parameters()])
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def saved_bytes(model, x, recomputed):
    kept = {}

    def keep(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        with kernels.recompute_in_backward(recomputed):
            y = model(x)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert y.requires_grad
    return sum(size for at, size in kept.items() if at not in own)


def test_a_step_keeps_integers_and_codes_and_no_float(rng):
    x = images(rng, (4, 16, 32, 32))
    model = converted(chain, x)
    outputs = x[:, :1].numel() * (24 + 24 + 16)
    inputs = x[:, :1].numel() * (16 + 24 + 24)
    # 16 bits an output that is normalized, 4 an input, one bit for the first input's gradient.
    expected = 2 * outputs + inputs / 2 + x.numel() / 8
    assert saved_bytes(model, x, "none") <= 1.02 * expected + 8192
    depthwise = 2 * x[:, :1].numel() * 24
    assert saved_bytes(model, x, "depthwise") <= 1.02 * (expected - depthwise) + 8192
    assert saved_bytes(model, x, "all") <= 1.02 * (inputs / 2 + x.numel() / 8) + 8192


def test_other_convolutions_than_these_are_refused():
    with pytest.raises(ValueError, match="convolutions is 'grouped', but must be one of"):
        with kernels.recompute_in_backward("grouped"):
            pass


def integers_alive():
    """Integers as convolutions sum them, wherever they are held."""
    gc.collect()
    return [t for t in gc.get_objects() if type(t) is torch.Tensor and t.dtype == torch.int16]


def test_integers_that_are_made_again_are_held_by_nothing(rng):
    """Not by what makes them again either, which no hook on saved tensors sees."""
    x = images(rng, (3, 16, 9, 8))
    model, before = converted(chain, x), len(integers_alive())
    with kernels.recompute_in_backward():
        y = model(x) + 0
    assert len(integers_alive()) == before
    y.sum().backward()
    assert len(integers_alive()) == before


def test_code_that_goes_around_torch_finds_the_values(rng):
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    x = images(rng, (2, 16, 5, 5))
    y = converted(chain, x)(x)
    assert isinstance(y, kernels.LazyTensor)
    assert torch.equal(Double.apply(y.as_subclass(torch.Tensor)), 2 * y)
    with pytest.raises(RuntimeError, match="data pointer"):
        torch.utils.dlpack.to_dlpack(converted(chain, x)(x).detach_())


def test_evaluation_normalizes_by_the_running_statistics(backend, rng):
    x = images(rng, (2, 16, 6, 6))
    model = converted(chain, x).eval()
    with torch.no_grad():
        codes = model[0](x) + 0
        first = model[2](model[1](model[0](x))) + 0
        norm = model[1]
        expected = F.silu(
            F.batch_norm(codes, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
    assert torch.allclose(first, expected, atol=1e-5)
    assert torch.equal(model(x) + 0, model(x) + 0)
