"""Fake quantisation, forward and backward: our backends beside torch's own fused operator.

Shapes are activations of EfficientNet-B1 at batch 16 and 224 pixels. Reported as extra columns:
GB/s of the minimal traffic, which is one read and one write forward and as much backward.
"""

import pytest
import torch

import micronet_kernels as kernels

SHAPES = {
    "stem 32x112x112": (16, 32, 112, 112),
    "expand 144x56x56": (16, 144, 56, 56),
    "expand 480x14x14": (16, 480, 14, 14),
}


def ours(backend):
    def step(x, grad):
        state = torch.zeros(2), torch.zeros(2), torch.zeros(1, dtype=torch.int64)
        with kernels.use_backend(backend):
            kernels.update_range_(x.detach(), *state, 0.99)
            kernels.fake_quant_per_tensor(x, state[1], 16).backward(grad)

    return step


def torch_fused(x, grad):
    def one(value):
        return torch.full((1,), value)

    y = torch.fused_moving_avg_obs_fake_quant(
        x,
        torch.ones(1, dtype=torch.int64),
        torch.ones(1, dtype=torch.int64),
        one(0.0),
        one(0.0),
        one(1.0),
        torch.zeros(1, dtype=torch.int32),
        0.01,
        0,
        15,
        0,
        False,
        False,
    )
    y.backward(grad)


STEPS = {name: ours(name) for name in kernels.available_backends()}
STEPS["torch.fused_moving_avg_obs_fake_quant"] = torch_fused


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", STEPS)
def bench_activation_forward_backward(benchmark, backend, shape):
    x = torch.randn(SHAPES[shape]).requires_grad_()
    grad = torch.randn(SHAPES[shape])

    def step():
        x.grad = None
        STEPS[backend](x, grad)

    benchmark.group = shape
    benchmark.pedantic(step, rounds=7, warmup_rounds=2)
    if benchmark.stats is not None:  # None under --benchmark-disable
        seconds = benchmark.stats.stats.median
        benchmark.extra_info["GB_per_s"] = round(16 * x.numel() / seconds / 1e9, 2)
    assert x.grad is not None and x.grad.shape == x.shape
