"""Second derivatives through quantizers: those of what a gradient passes, or refused."""

import pytest
import torch
from torch import nn

import micronet_kernels as kernels
from micronet.quantization.precision import LayerBits
from micronet.quantization.quantize import convert_

ENDS = torch.tensor([-1.0, 1.0])
KEEP = torch.tensor([[True, False, True, True], [True, True, False, True]])
BITS = kernels.pack_bits(KEEP)
INSIDE = torch.ones(2, 4, dtype=torch.bool)

# Each gives the output of one operator for x [2, 4], and where its gradient passes.
OPERATORS = {
    "activations": lambda x: (kernels.fake_quant_per_tensor(x, ENDS, 16), x.abs() <= 1),
    "weights": lambda x: (kernels.fake_quant_per_channel(x, 16), INSIDE),
    "masked weights": lambda x: (kernels.fake_quant_per_channel(x, 16, BITS), KEEP),
    "lists of weights": lambda x: (kernels.fake_quant_weights([x], [16], [BITS])[0], KEEP),
    "lists of dense weights": lambda x: (kernels.fake_quant_weights([x], [16], [None])[0], INSIDE),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", OPERATORS)
def test_the_gradient_has_the_gradient_of_its_mask(backend, rng, name):
    x, a = (torch.randn(2, 4, generator=rng).requires_grad_() for _ in range(2))
    y, passes = OPERATORS[name](x)
    (first,) = torch.autograd.grad((y * a).sum(), x, create_graph=True)
    assert torch.equal(first, torch.where(passes, a, 0.0))
    (second,) = torch.autograd.grad(first.pow(3).sum(), a, create_graph=True)
    assert torch.equal(second, torch.where(passes, 3 * a.square(), 0.0))
    (third,) = torch.autograd.grad(second.sum(), a)
    assert torch.equal(third, torch.where(passes, 6 * a, 0.0))


def test_a_penalty_of_the_gradient_reaches_the_weights_behind_a_rounded_input(rng):
    """Their gradient is that of the same penalty in float64, where the rounding passes it."""
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))
    convert_(model, {"0": LayerBits(None, 8)})
    x = torch.randn(3, 5, generator=rng).requires_grad_()
    model(2 * x)  # sets a range that every x lies in
    h = model[0](x)
    (g,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    g.square().sum().backward()
    w, v = (model[i].weight.detach().double() for i in (0, 2))
    slope = 1 - torch.tanh(h.detach().double()).square()
    v.requires_grad_()
    ((slope * v) @ w).square().sum().backward()
    assert torch.allclose(
        model[2].weight.grad.double(), v.grad, rtol=2e-2, atol=2e-2 * float(v.grad.abs().max())
    )
    assert (model[0].weight.grad != 0).any()


def test_a_learned_step_refuses_it(backend, rng):
    x = torch.randn(2, 4, generator=rng).requires_grad_()
    step = torch.tensor([0.25], requires_grad=True)
    y = kernels.fake_quant_learned_step(x, step, torch.tensor([-8.0]), 16)
    first = torch.autograd.grad(y.square().sum(), (x, step), create_graph=True)
    for gradient in first:
        with pytest.raises(RuntimeError, match=r"a learned step has a first derivative only"):
            gradient.sum().backward(retain_graph=True)
