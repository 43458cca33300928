"""Extremes of blocks of integers: those at the ends of the integers, where that is exact."""

import pytest
import torch

from block_networks import images

OP = torch.ops.micronet
NONE = torch.empty(0)
INTEGERS = [torch.int16, torch.int32]
IDENTITY, RELU, SWISH, SIGMOID = range(4)
# Several images, parts of an image, odd channels, more channels than a run has elements, and fewer
# pixels than it pays for.
SIZES = [(2, 16, 20, 17), (1, 16, 81, 60), (3, 7, 30, 23), (2, 600, 5, 3), (2, 6, 1, 1)]
LEAST_SWISH_AT = -1.27846454


def gates(rng, size):
    """None; one of either sign, with zeros."""
    gate = torch.randn(size[:2], generator=rng)
    gate[0, ::3] = 0.0
    return NONE, gate


def held_to_the_values(on_all, acc, scale, shift, function, gate=NONE):
    """The same bits everywhere, and those of the values themselves."""
    given = acc, scale, shift, function, gate
    found = on_all(lambda: OP.block_extremes(*given))
    values = OP.block_values(*given)
    expected = torch.stack(torch.aminmax(values)) + 0.0
    assert torch.equal(found.nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0))
    return found


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("function", range(4))
def test_of_normalized_integers(on_all, rng, threads, size, dtype, function):
    c = size[1]
    acc = images(rng, size, dtype, 60.0)
    scale, shift = 0.05 * torch.randn(c, generator=rng), torch.randn(c, generator=rng)
    for gate in gates(rng, size):
        held_to_the_values(on_all, acc, scale, shift, function, gate)
    # Beyond what swish falls to, and all on one side of it.
    for offset in (-4.0, 0.0, 4.0):
        positive = scale.abs().clamp(min=2.0**-9)
        held_to_the_values(on_all, acc, positive, shift + offset, function)
        held_to_the_values(on_all, acc, -positive, shift + offset, function)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("step", [2.0**-9, 2.0**-10, 2.0**-12, 2.0**-16, 0.0])
def test_where_swish_is_least(on_all, rng, dtype, step):
    """Integers that lie around it: as dense as ends suffice for, and too dense for that."""
    size = 2, 16, 24, 23
    for sign in (1.0, -1.0):
        acc = images(rng, size, dtype, 12.0)
        scale = sign * step * (1 + torch.rand(16, generator=rng))
        shift = LEAST_SWISH_AT + step * torch.randn(16, generator=rng)
        least, _ = held_to_the_values(on_all, acc, scale, shift, SWISH)
        assert least <= -0.2784


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("function", range(4))
def test_of_the_largest_integers(on_all, rng, dtype, function):
    ends = torch.iinfo(dtype)
    size = 2, 4, 40, 30
    acc = torch.randint(ends.min, ends.max + 1, size, generator=rng).to(dtype)
    acc[0, :, 0, 0], acc[1, :, 3, 3] = ends.min, ends.max
    acc = acc.contiguous(memory_format=torch.channels_last)
    scale, shift = torch.tensor([0.01, -0.01, 2.0**-9, 1.0]), torch.tensor([0.0, 1e3, -1e6, 1e9])
    held_to_the_values(on_all, acc, scale, shift, function)
    held_to_the_values(on_all, acc, 1e34 * scale, shift, function)


@pytest.mark.parametrize("function", [IDENTITY, RELU, SWISH])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_of_what_is_not_finite(on_all, rng, function, bad):
    size = 2, 4, 40, 30
    acc = images(rng, size, torch.int16, 60.0)
    fine = torch.full((4,), 0.05)
    off = fine.clone()
    off[2] = bad
    gate = torch.ones(2, 4)
    gate[1, 3] = bad
    held_to_the_values(on_all, acc, off, fine, function)
    held_to_the_values(on_all, acc, fine, off, function)
    # A factor without an end makes NaN of the zeros between the ends.
    held_to_the_values(on_all, acc, fine, torch.zeros(4), function, gate)


def test_one_channel_alone_may_be_too_dense(on_all, rng):
    acc = images(rng, (2, 16, 24, 23), torch.int16, 500.0)
    scale = torch.full((16,), 0.01)
    scale[int(torch.randint(16, (), generator=rng))] = 1e-5
    held_to_the_values(on_all, acc, scale, torch.full((16,), LEAST_SWISH_AT), SWISH)
