"""Networks drawn at random, whole ones and faulty ones: ``random_networks:KIND_SEED``.

The same name always gives the same network, so that a later command finds the one that was trained.
"""

import functools
import random

import torch
from torch import nn

from network_kinds import KINDS
from network_parts import HEADS, PARTS

SIDES = (1, 2, 5, 8, 12)


def __getattr__(name):
    kind, _, seed = name.rpartition("_")
    if kind not in KINDS or not seed.isdigit():
        raise AttributeError(name)
    return functools.partial(network, kind, int(seed))


def side_of(seed):
    """The side of the images that a network is made for."""
    return random.Random(seed).choice(SIDES)


def network(kind, seed, num_classes=1000):
    chance = random.Random(seed)
    side = chance.choice(SIDES)
    parts, x = [], torch.zeros(2, 3, side, side)
    with torch.no_grad():
        while len(parts) < 12 and chance.random() < 0.85:
            part = chance.choice(PARTS)(x.shape[1], chance)
            try:
                x = part(x)
            except (RuntimeError, ValueError):
                # It does not take what came before it: another one will.
                continue
            parts.append(part)
        parts += chance.choice(HEADS)(x, num_classes)
    return KINDS[kind](nn.Sequential(*parts), chance)
