"""What reads an ordinary tensor as it reads one that waits: its extremes."""

import pytest
import torch

import micronet_kernels as kernels
from samples import DTYPES


def bits(x):
    return x.view(torch.int32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_extremes_are_those_of_torch_and_move_a_range_as_the_images_do(rng, dtype, layout):
    for number in range(12):
        shape = torch.randint(1, 9, (4,), generator=rng).tolist()
        x = 10 * torch.randn(*shape, generator=rng)
        x = (x, x.relu(), -x.relu(), 0 * x)[number % 4].to(dtype).contiguous(memory_format=layout)
        if number > 9:
            x[0, 0, 0, 0] = (float("nan"), float("inf"))[number % 2]
        found = kernels.extremes(x)
        wanted = torch.stack(torch.aminmax(x)).float()
        torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)
        one, two = ([torch.zeros(2), torch.zeros(2), torch.zeros(1).long()] for _ in range(2))
        for _ in range(2):
            kernels.update_range_(x, *one, 0.9)
            kernels.move_range_(found, *two, 0.9)
        assert all(torch.equal(bits(a), bits(b)) for a, b in zip(one[:2], two[:2], strict=True))


@pytest.mark.parametrize("kind", ["gaps", "integers", "double"])
def test_extremes_of_gaps_and_of_other_types(rng, kind):
    values = 9 * torch.randn(4, 6, generator=rng)
    x = {"gaps": values[:, ::2], "integers": values.int(), "double": values.double()}[kind]
    found = kernels.extremes(x)
    assert found.dtype == torch.float32
    assert found.tolist() == [float(x.min().float()), float(x.max().float())]


def test_extremes_follow_no_gradient_and_keep_nothing(rng):
    x = torch.randn(3, 2, generator=rng, requires_grad=True)
    assert not kernels.extremes(x).requires_grad
