"""Where a network convolves: sizes, strides and padding in numbers, found by one forward pass."""

import math
from dataclasses import dataclass

import torch
from efficientnet_pytorch.utils import Conv2dDynamicSamePadding
from torch import Tensor, nn


@dataclass(frozen=True)
class Site:
    """The numbers of one convolution; padding is (top, left, bottom, right)."""

    input_size: tuple[int, int, int, int]
    weight_size: tuple[int, int, int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    groups: int

    @property
    def output_size(self) -> tuple[int, int, int, int]:
        """[N, O, H', W']."""
        n, _, height, width = self.input_size
        top, left, bottom, right = self.padding
        sides = (height + top + bottom, width + left + right)
        y, x = (
            (side - k) // s + 1
            for side, k, s in zip(sides, self.weight_size[2:], self.stride, strict=True)
        )
        return n, self.weight_size[0], y, x

    @property
    def macs(self) -> int:
        """Products of one call."""
        return math.prod(self.output_size) * math.prod(self.weight_size[1:])

    @property
    def is_pointwise(self) -> bool:
        """Whether it mixes channels at each position alone."""
        return self.weight_size[2:] == (1, 1) and self.groups == 1

    @property
    def is_depthwise(self) -> bool:
        """Whether it leaves channels apart."""
        return self.groups == self.input_size[1] == self.weight_size[0]


@torch.no_grad()
def sites(network: nn.Module, images: Tensor) -> dict[str, Site]:
    """Return every convolution by name, in module order; the network may be on the meta device."""
    found: dict[str, Site] = {}
    hooks = [
        layer.register_forward_pre_hook(
            lambda layer, inputs, name=name: found.update({name: _site(layer, inputs[0].shape)})
        )
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d)
    ]
    was_training = network.training
    try:
        network.eval()(images)
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return found


def _site(layer: nn.Conv2d, size: torch.Size) -> Site:
    kernel, stride = tuple(layer.weight.shape[2:]), tuple(layer.stride)
    padding = (*layer.padding, *layer.padding)
    if isinstance(layer, Conv2dDynamicSamePadding):
        needed = [
            max((math.ceil(side / s) - 1) * s + k - side, 0)
            for side, k, s in zip(size[2:], kernel, stride, strict=True)
        ]
        padding = (*(n // 2 for n in needed), *(n - n // 2 for n in needed))
    return Site(tuple(size), tuple(layer.weight.shape), stride, padding, layer.groups)
