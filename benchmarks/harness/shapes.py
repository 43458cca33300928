"""Shapes of EfficientNet-B1, from the network itself: nothing is computed on the meta device."""

import functools
import math
from collections import Counter

import torch

from micronet.models import architectures

ARCH = "efficientnet-b1"
BATCH, SIDE, CLASSES = 16, 224, 1000

Shape = tuple[int, ...]


@functools.cache
def _network() -> torch.nn.Module:
    with torch.device("meta"):
        return architectures.create_model(ARCH, CLASSES).eval()


@functools.cache
def weights() -> tuple[Shape, ...]:
    """Return the shape of the weight of every convolution and linear layer, in module order."""
    return tuple(tuple(layer.weight.shape) for layer in architectures.layers(_network()).values())


@functools.cache
def activations() -> dict[Shape, int]:
    """Return the shapes that are quantized in one training step, largest first, and how often.

    Those are the inputs of all layers but the first, which reads the image.
    """
    network, found = _network(), Counter()

    def count(_, inputs):
        found[tuple(inputs[0].shape)] += 1

    layers = architectures.layers(network)
    first = architectures.stem_name(network)
    hooks = [
        layer.register_forward_pre_hook(count) for name, layer in layers.items() if name != first
    ]
    try:
        with torch.no_grad():
            network(torch.empty(BATCH, 3, SIDE, SIDE, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return dict(sorted(found.items(), key=lambda item: math.prod(item[0]), reverse=True))


# Those whose timings stand for the network's: the largest, the one that moves most bytes in a
# step, and two that stay in a cache.
TIMED = ((16, 96, 112, 112), (16, 144, 56, 56), (16, 480, 14, 14), (16, 1152, 7, 7))


def text(shape: Shape) -> str:
    """Return a shape as it stands in a table: 16x144x56x56."""
    return "x".join(map(str, shape))
