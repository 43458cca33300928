"""Images of grey values, normalized, and the precision of a layer that reads them."""

import torch

from micronet.data.preprocessing import IMAGENET_STATISTICS
from micronet.quantization.precision import LayerBits

HALVES = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def bits_of(statistics=IMAGENET_STATISTICS, weight_bits=8, **options):
    mean, std = statistics
    return LayerBits(
        weight_bits, 8, activation_step="image", image_mean=mean, image_std=std, **options
    )


def normalized(grey, statistics=IMAGENET_STATISTICS):
    mean, std = (255 * torch.tensor(row).view(-1, 1, 1) for row in statistics)
    return (grey.float() - mean) / std
