"""Normalization over the batch of two processes, against one process with the whole batch."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from block_networks import Gated, chain, converted
from micronet.quantization.sync_batch_norm import SyncBatchNorm, synchronize_in_integers_
from two_processes import spawn_two

SIZE = (4, 16, 9, 8)


def network(make):
    """The same on every process: quantized, its ranges frozen."""
    torch.manual_seed(0)
    return converted(make, torch.randn(SIZE))


def images():
    generator = torch.Generator().manual_seed(1)
    x, out = (torch.randn(SIZE, generator=generator) for _ in range(2))
    return [t.contiguous(memory_format=torch.channels_last) for t in (x, out)]


def passes(model, x, out):
    """Output, gradients and running statistics of one step."""
    x = x.clone().requires_grad_()
    y = model(x) + 0
    y.backward(out)
    parts = {"y": y.detach(), "x": x.grad}
    own = {name: p.grad for name, p in model.named_parameters()}
    return parts, own, {n: b.clone() for n, b in model.named_buffers() if "running" in n}


def quarter(rank, t):
    """Three images for the first process, one for the second."""
    return t[:3] if rank == 0 else t[3:]


def process(rank, port, make, answers):
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(network(make))
    synchronize_in_integers_(model)
    assert any(isinstance(module, SyncBatchNorm) for module in model.modules())
    parts, own, running = passes(model, *(quarter(rank, t) for t in images()))
    for gradient in own.values():
        dist.all_reduce(gradient)
    answers[rank] = parts, own, running
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("make", [chain, Gated], ids=["chain", "gated"])
def test_two_processes_normalize_as_one(make):
    first, second = spawn_two(process, make)
    parts, own, running = passes(network(make), *images())
    for name, whole in parts.items():
        torch.testing.assert_close(torch.cat([first[0][name], second[0][name]]), whole)
    for name, whole in own.items():
        # Of a bias that normalization takes away only rounding is left.
        torch.testing.assert_close(first[1][name], whole, rtol=1e-4, atol=1e-4)
        assert torch.equal(first[1][name], second[1][name])
    for name, whole in running.items():
        torch.testing.assert_close(first[2][name], whole)
        assert torch.equal(first[2][name], second[2][name])


def test_alone_it_is_the_ordinary_normalization():
    torch.manual_seed(0)
    source = nn.SyncBatchNorm(16)
    nn.init.normal_(source.weight)
    ordinary = nn.BatchNorm2d(16)
    ordinary.load_state_dict(source.state_dict())
    ours = SyncBatchNorm.like(source)
    x, _ = images()
    for training in (True, False):
        assert torch.equal(ours.train(training)(x), ordinary.train(training)(x))
    assert ours.weight is source.weight and ours.running_mean is source.running_mean
    assert torch.equal(ours.running_var, ordinary.running_var)
