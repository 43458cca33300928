"""A linear layer of symmetric weights evaluates with the weights that it trains with."""

import torch
import torch.nn.functional as F
from torch import nn

from micronet.quantization.quantize import LayerBits, convert_


def test_a_float_input_meets_symmetric_weights(rng):
    model = nn.Sequential(nn.Linear(40, 7))
    convert_(model, {"0": LayerBits(4, None, symmetric=True)})
    # Weights whose range is not symmetric are rounded in another way by either scheme.
    model[0].weight.data += 0.3
    x = torch.randn(5, 40, generator=rng)
    with torch.no_grad():
        trained, evaluated = model.train()(x), model.eval()(x)
    weight = model[0].quantized_weight().detach()
    assert torch.equal(trained, F.linear(x, weight, model[0].bias))
    # Forty products of float32, in two orders.
    bound = 40 * 2.0**-23 * (x.abs() @ weight.abs().T + model[0].bias.abs())
    assert bool(((trained - evaluated).abs() <= bound).all())
