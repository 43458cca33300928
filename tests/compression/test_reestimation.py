"""Statistics of normalization computed anew: their values, and what does not change beside them."""

import random

import numpy as np
import pytest
import torch
from torch import nn

import micronet
from compressed import BOTH, LEARNED, PRUNE, epoch_of, recipe, same, small
from micronet.models.unchanged import unchanged
from micronet.quantization import quantize
from micronet.quantization.sync_batch_norm import synchronized
from micronet.utils.errors import UserError
from two_processes import spawn_two

PRECISIONS = {"range": BOTH, "learned": {"weights": LEARNED, "activations": LEARNED}}


def norms_of(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}


def statistics(model):
    found = {name: (m.running_mean, m.running_var) for name, m in norms_of(model).items()}
    return {name: [t.clone() for t in pair] for name, pair in found.items()}


def expected(model, batches):
    """Mean and variance of what each normalization is given, all else being in evaluation mode."""
    seen = {name: [] for name in norms_of(model)}

    def see(name):
        def hook(norm, inputs):
            x = inputs[0].double()
            seen[name].append((x.mean((0, 2, 3)), x.var((0, 2, 3))))

        return hook

    with torch.no_grad(), unchanged(model):
        model.eval()
        for name, norm in norms_of(model).items():
            norm.training = True
            norm.register_forward_pre_hook(see(name))
        for images, _ in batches:
            model(images)
    return {
        name: [torch.stack(part).mean(0) for part in zip(*pairs, strict=True)]
        for name, pairs in seen.items()
        if pairs
    }


def check_values(found, wanted):
    assert found.keys() == wanted.keys() and found
    for name, pair in found.items():
        for one, other in zip(pair, wanted[name], strict=True):
            # Numbers of order 1 summed over some hundred values in float32, then rounded once.
            torch.testing.assert_close(one.double(), other, rtol=2.0**-17, atol=2.0**-18)


def trained(batches, step="range", **train):
    model = small()
    plan = recipe(train={"epochs": 4, **train}, prune=PRUNE, quantize=PRECISIONS[step])
    compression = micronet.compress(model, plan)
    optimizer = torch.optim.SGD(compression.parameter_groups(), lr=0.05)
    epoch_of(model, compression, optimizer, batches, 0)
    return model, compression, optimizer


@pytest.mark.parametrize("step", PRECISIONS)
def test_they_are_plain_averages_of_the_evaluated_network(step, batches):
    model, _, _ = trained(batches, step)
    for some in (batches[:1], batches):
        wanted = expected(model, some)
        micronet.reestimate_(model, iter(some))
        check_values(statistics(model), wanted)


def test_nothing_else_changes(batches):
    model, _, _ = trained(batches)
    model.first.insert(3, nn.Dropout(0.5))
    model.second[1].eval()
    for norm in norms_of(model).values():
        norm.momentum = None
    before = {name: t.clone() for name, t in model.state_dict().items()}
    modes = {name: m.training for name, m in model.named_modules()}
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()

    def drawing():
        for images, labels in batches:
            torch.rand(3), random.random(), np.random.rand()
            yield images, labels

    micronet.reestimate_(model, drawing())
    now = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(states[0], now[0]) and states[1:] == now[1:]
    assert {name: m.training for name, m in model.named_modules()} == modes
    assert all(torch.equal(p.grad, gradients[name]) for name, p in model.named_parameters())
    changed = {name for name, t in model.state_dict().items() if not torch.equal(t, before[name])}
    assert changed == {"first.1.running_mean", "first.1.running_var"}
    assert all(m.momentum is None and not m._forward_hooks for m in norms_of(model).values())


def test_a_normalization_that_is_called_twice_counts_each_call(batches):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)
            self.unused = nn.BatchNorm2d(2)

        def forward(self, x):
            return self.norm(2 + self.conv(self.norm(x)))

    model = Twice()
    before = statistics(model)["unused"]
    wanted = expected(model, batches)
    micronet.reestimate_(model, batches)
    found = statistics(model)
    assert all(map(torch.equal, found.pop("unused"), before))
    check_values(found, {"norm": wanted["norm"]})


def test_the_same_batches_give_the_same_bits(batches):
    model, _, _ = trained(batches)
    micronet.reestimate_(model, batches)
    once = {name: t.clone() for name, t in model.state_dict().items()}
    with torch.no_grad():
        for norm in norms_of(model).values():
            norm.running_mean.fill_(torch.nan)
            norm.running_var.fill_(torch.inf)
    micronet.reestimate_(model, batches)
    assert same(once, model.state_dict())


def test_the_average_is_what_is_reestimated(batches):
    model, compression, _ = trained(batches, model_ema=0.9, reestimate_batches=2)
    own = {name: t.clone() for name, t in model.state_dict().items()}
    with compression.averaged():
        wanted = expected(model, batches[:2])
    compression.reestimate_(batches)
    assert same(own, model.state_dict())
    with compression.averaged():
        check_values(statistics(model), wanted)
        lent = model.first[1].running_mean.clone()
    assert torch.equal(compression.state_dict()["average"]["first.1.running_mean"], lent)


def test_a_compression_says_when_statistics_are_stale(batches):
    model = small()
    plan = recipe(
        prune=PRUNE | {"end_epoch": 4, "start_epoch": 1, "frequency": 2},
        quantize={"start_epoch": 2, **BOTH},
    )
    compression, found = micronet.compress(model, plan), []
    optimizer = torch.optim.SGD(compression.parameter_groups(), lr=0.05)
    for epoch in range(5):
        epoch_of(model, compression, optimizer, batches, epoch)
        found.append(compression.stale)
        compression.begin_epoch(epoch)
        assert not compression.stale
    # Quantized layers have no ranges when they come.
    assert found == [False, True, False, True, False]


class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.norm(x)
        if len(x) == 5:
            raise RuntimeError("five")
        return y


def test_what_goes_wrong_is_one_sentence_and_changes_nothing(batches):
    model, images = Failing(), batches[0][0]
    before = {name: t.clone() for name, t in model.state_dict().items()}
    nan = torch.full_like(images, torch.nan)
    refused = {
        "takes batches, as in .images., not one tensor": images,
        "there was no batch": [],
        "cannot be re-estimated: .*RuntimeError: five": [images, images[:5]],
        "the statistics of 'norm' over these batches are not finite": [images, nan],
    }
    for sentence, wrong in refused.items():
        with pytest.raises(UserError, match=sentence):
            micronet.reestimate_(model, wrong)
        assert same(before, model.state_dict()) and not model.norm._forward_hooks
    with pytest.raises(UserError, match="Failing has no normalization in training mode"):
        micronet.reestimate_(model.eval(), [images])
    with pytest.raises(UserError, match="its input has no range yet"):
        quantized = small()
        micronet.quantize_(quantized, 4, 4)
        micronet.reestimate_(quantized.train(), [images])


def reestimated(rank, port, synchronizes, answers):
    """One of two processes; the second has images of another kind."""
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    model = synchronized(small()) if synchronizes else small()
    random = torch.Generator().manual_seed(0)
    batches = [torch.randn(8, 3, 9, 9, generator=random) for _ in range(3)]
    micronet.reestimate_(model.train(), [batch[4 * rank :][:4] for batch in batches])
    answers[rank] = {name: t.clone() for name, t in model.state_dict().items()}
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("synchronizes", [False, True])
def test_processes_agree(synchronizes):
    one, two = spawn_two(reestimated, synchronizes)
    assert same(one, two)
    random = torch.Generator().manual_seed(0)
    batches = [torch.randn(8, 3, 9, 9, generator=random) for _ in range(3)]
    if not synchronizes:
        batches = [half for batch in batches for half in batch.split(4)]
    alone = small().train()
    micronet.reestimate_(alone, batches)
    for name, tensor in alone.state_dict().items():
        # As above: other orders of the same sums.
        torch.testing.assert_close(one[name], tensor, rtol=2.0**-17, atol=2.0**-18)


def test_ranges_do_not_move(batches):
    model, _, _ = trained(batches)
    assert quantize.uninitialized(model) == []
    before = {name: ends.clone() for name, ends in quantize.input_ranges(model).items()}
    micronet.reestimate_(model, [100 * images for images, _ in batches])
    assert same(before, quantize.input_ranges(model))
