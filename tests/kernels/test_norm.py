"""Normalization between two passes: the same bits everywhere, torch's own numbers, and refusals."""

import pytest
import torch
import torch.nn.functional as F

import norm_cases
from block_networks import images

OP = torch.ops.micronet


def _copies(arguments):
    return [a.clone() if isinstance(a, torch.Tensor) else a for a in arguments]


def test_folding_is_the_same_everywhere(on_all, rng):
    for case in norm_cases.folds(rng, torch.float32, None):

        def fold(case=case):
            given = _copies(case)
            running = [t for t in given[5:7] if t is not None]
            return *OP.norm_fold_(*given), *running

        on_all(fold)


def test_the_way_back_is_the_same_everywhere(on_all, rng):
    for case in norm_cases.gradient_maps(rng, torch.float32, None):
        on_all(lambda case=case: OP.norm_gradient_map(*case))


def _normalized(rng, size, count):
    """Accumulators, what the operator makes of their sums, and torch's in float64."""
    acc = images(rng, size, torch.int16, 500.0)
    c = size[1]
    dequant, weight = torch.rand(2, c, generator=rng).add(0.01)
    bias, mean = torch.randn(2, c, generator=rng)
    variance = torch.rand(c, generator=rng)
    running = [mean.clone(), variance.clone()]
    arguments = (OP.channel_moments(acc), count, dequant, weight, bias, *running, 0.1, 1e-5)
    found = OP.norm_fold_(*arguments)
    wide = [t.double() for t in (mean, variance, weight, bias)]
    values = acc.double() * dequant.double()[:, None, None]
    return acc, found, running, values, wide


@pytest.mark.parametrize("size", [(2, 16, 5, 7), (1, 1, 1, 2), (3, 600, 1, 1)], ids=str)
def test_normalizes_as_torch_does_in_float64(backend, rng, size):
    count = size[0] * size[2] * size[3]
    acc, (mean, variance, scale, shift), running, values, wide = _normalized(rng, size, count)
    expected = F.batch_norm(values, *wide, training=True, momentum=0.1, eps=1e-5)
    var, average = torch.var_mean(values, (0, 2, 3), correction=0)
    torch.testing.assert_close(mean, average, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(variance, var, rtol=1e-7, atol=1e-7)
    found = acc.double() * scale.double()[:, None, None] + shift.double()[:, None, None]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    for ours, theirs in zip(running, wide[:2], strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_the_gradient_is_that_of_torch_in_float64(backend, rng, training):
    size, c = (2, 6, 5, 7), 6
    _, _, _, values, (mean, variance, weight, bias) = _normalized(rng, size, 70)
    dz = torch.randn(size, generator=rng, dtype=torch.float64)
    operands = [t.requires_grad_() for t in (values, weight, bias)]
    running = mean, variance
    z = F.batch_norm(values, *running, weight, bias, training=training, momentum=0.0, eps=1e-5)
    expected = torch.autograd.grad(z, operands, dz)
    y = values.detach()
    if training:
        variance, mean = torch.var_mean(y, (0, 2, 3), correction=0)
    sums = torch.stack([dz.sum((0, 2, 3)), (dz * y).sum((0, 2, 3))])
    count = 70 if training else None
    given = (sums, mean, variance, count, torch.ones(c), weight.detach().float(), 1e-5)
    k, grad_weight, grad_bias = OP.norm_gradient_map(*given)
    k = k.double()[:, :, None, None]
    found = (dz * k[0] + (y * k[1] + k[2]), grad_weight.double(), grad_bias.double())
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_running_statistics_are_marked_as_written(backend, rng):
    case = next(norm_cases.folds(rng, torch.float32, [6]))
    before = [case[i]._version for i in (5, 6)]
    OP.norm_fold_(*case)
    assert all(case[i]._version > old for i, old in zip((5, 6), before, strict=True))


REFUSED = {
    "sums is torch.float32": (0, torch.ones(2, 6)),
    r"sums has shape \[3, 6\]": (0, torch.ones(3, 6, dtype=torch.float64)),
    "sums has strides": (0, torch.ones(6, 2, dtype=torch.float64).t()),
    "count is 0": (1, 0),
    r"dequant_scale has shape \[5\]": (2, torch.ones(5)),
    "weight is torch.float16": (3, torch.ones(6, dtype=torch.float16)),
    "bias is on meta": (4, torch.ones(6, device="meta")),
    "running_mean has strides": (5, torch.ones(12)[::2]),
    r"running_var has shape \[6, 1\]": (6, torch.ones(6, 1)),
    "eps is 0.0": (8, 0.0),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_refuses(backend, rng, sentence):
    case = list(next(norm_cases.folds(rng, torch.float32, [6])))
    at, wrong = REFUSED[sentence]
    case[at] = wrong
    with pytest.raises((TypeError, ValueError), match=sentence):
        OP.norm_fold_(*case)
