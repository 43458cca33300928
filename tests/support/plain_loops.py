"""A small network, recipe and data, and the plain loop whose weights another must equal."""

import functools
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from micronet.compression.compress import compress
from micronet.quantization.layers import quantized_layers
from micronet.recipe.reader import Recipe
from micronet.recipe.schema import (
    ActivationPrecision,
    PruneGroup,
    PruneSection,
    QuantizeSection,
    TrainSection,
    WeightPrecision,
)

EPOCHS, BATCH, CLASSES = 4, 8, 3


def recipe(step="range", start_epoch=1):
    """Prune from the first epoch on, quantize from the second, average the weights."""
    group = PruneGroup(("*",), final_sparsity=0.5)
    precision = WeightPrecision(4, step=step), ActivationPrecision(4, step=step)
    return Recipe(
        train=TrainSection(epochs=EPOCHS, model_ema=0.9),
        prune=PruneSection((group,), end_epoch=3),
        quantize=QuantizeSection(*precision, start_epoch=start_epoch),
    )


def by_second_order():
    """The same, pruned from the second epoch on by the gradients of those before."""
    plan = recipe()
    (group,) = plan.prune.groups
    ranked = replace(group, criterion="second-order", structure="1x4", start_epoch=1)
    return replace(plan, prune=replace(plan.prune, groups=(ranked,)))


def network():
    """The same weights each time."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


def data(count=8):
    """Images (3, 12, 12) whose mean follows their class."""
    noise = torch.Generator().manual_seed(1)
    labels = torch.arange(count * BATCH) % CLASSES
    images = torch.randn(len(labels), 3, 12, 12, generator=noise) + labels[:, None, None, None]
    return torch.utils.data.TensorDataset(images, labels)


def loader(count=8):
    """Batches of them, in order."""
    return torch.utils.data.DataLoader(data(count), batch_size=BATCH)


def optimizer_and_schedule(parameters):
    """A schedule that keeps a number for each of the optimizer's groups."""
    optimizer = torch.optim.AdamW(parameters, lr=0.003, weight_decay=0.1)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.97**step)


def classification(model):
    """The loss of images and labels."""
    return lambda images, labels: F.cross_entropy(model(images), labels)


def train(
    model, recipe, accumulate=1, autocast=None, optimizer=optimizer_and_schedule, loss_of=None
):
    """What a user writes who has a loop of their own; returns the compression and the losses."""
    compression = compress(model, recipe)
    optimizer, schedule = optimizer(model.parameters())
    loss_of, losses = loss_of or classification(model), []
    for epoch in range(EPOCHS):
        compression.begin_epoch(epoch, optimizer, [schedule])
        model.train()
        for number, batch in enumerate(loader(), 1):
            with torch.autocast("cpu", autocast, enabled=autocast is not None):
                loss = loss_of(*batch)
            (loss / accumulate).backward()
            losses.append(float(loss.detach()))
            if number % accumulate == 0:
                optimizer.step()
                compression.step()
                optimizer.zero_grad()
                schedule.step()
    return compression, losses


@functools.cache
def trained(step="range"):
    """The compression and the losses of the loop by a recipe above: trained once, to be read."""
    return train(network(), recipe(step))


def assert_same_network(one, two):
    """Weights, statistics, ranges and steps have the same bits, and the masks, and the averages."""
    for a, b in (
        (one.model.state_dict(), two.model.state_dict()),
        (one.masks.bits, two.masks.bits),
        (one.average.tensors, two.average.tensors),
    ):
        assert a.keys() == b.keys() and len(a) > 0
        for name in a:
            assert torch.equal(a[name], b[name]), name


def assert_compressed(compression, layers=3):
    """Every layer is quantized, masks hold, and half of the weights are zero."""
    assert len(list(quantized_layers(compression.model))) == layers
    report = compression.report()
    assert abs(report.sparsity - 0.5) < 0.01
