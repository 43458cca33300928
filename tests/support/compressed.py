"""A small network, recipes and an epoch, as a loop of somebody's own has them."""

import io

import torch
import torch.nn.functional as F
from torch import nn

import micronet

LEARNED = {"bits": 4, "step": "learned"}
PRUNE = {"end_epoch": 3, "groups": [{"layers": ["*"], "final_sparsity": 0.5}]}
BOTH = {"weights": {"bits": 4}, "activations": {"bits": 4}}


def recipe(**sections):
    return micronet.Recipe.from_dict(sections)


def oscillating(step="range", train=None, **oscillations):
    """A recipe of 4 bits that prunes, and follows weights."""
    precision = {"bits": 4, "step": step}
    quantize = {"weights": precision, "activations": precision, "oscillations": oscillations}
    return recipe(train={"epochs": 6, **(train or {})}, prune=PRUNE, quantize=quantize)


class Small(nn.Module):
    """Two blocks and a classifier."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.second(self.first(x)).mean((2, 3)))


def small(seed=0):
    torch.manual_seed(seed)
    return Small()


def epoch_of(model, compression, optimizer, batches, number):
    compression.begin_epoch(number, optimizer)
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        compression.step()


def trained(model, compression, optimizer, batches, epochs, stopped):
    """Train for some epochs; return the states before one of them, as a file gives them back."""
    kept = io.BytesIO()
    for epoch in range(epochs):
        if epoch == stopped:
            parts = {"model": model, "compression": compression, "optimizer": optimizer}
            torch.save({name: part.state_dict() for name, part in parts.items()}, kept)
        epoch_of(model, compression, optimizer, batches, epoch)
    kept.seek(0)
    return torch.load(kept, weights_only=True)


def states(model, compression):
    tensors = {**model.state_dict(), **{f"mask/{n}": m for n, m in compression.masks.bits.items()}}
    return {n: t.clone() for n, t in {**tensors, **compression.average.tensors}.items()}


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[name]) for name, tensor in first.items()
    )
