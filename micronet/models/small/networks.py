"""The small networks by name."""

from __future__ import annotations

import functools
from collections.abc import Callable

import efficientnet_pytorch
from efficientnet_pytorch.utils import BlockDecoder, GlobalParams
from torch import nn

from micronet.models.small.cifar_mobilenet import CifarMobileNetV2
from micronet.models.small.cifar_resnet import CifarResNet

IMAGE_SIZE = 32

# One stage per halving of a 32-pixel image, down to 4x4, and no more: at batch 64 on two cores a
# step takes 75 ms and 15 epochs on the digits reach 98.9 %. A stem of stride 1 gains 0.3 points
# for four times the time; EfficientNet-B0's own seven stages, narrowed to equal size, lose eight.
_MICRO_BLOCKS = [
    "r1_k3_s11_e1_i32_o16_se0.25",
    "r2_k3_s22_e4_i16_o24_se0.25",
    "r2_k5_s22_e4_i24_o40_se0.25",
    "r2_k3_s11_e4_i40_o80_se0.25",
]
_MICRO_PARAMS = GlobalParams(
    width_coefficient=1.0,
    depth_coefficient=1.0,
    image_size=None,
    dropout_rate=0.0,
    # The package's 0.99 averages over hundreds of steps; a short run has few hundred in all.
    batch_norm_momentum=0.9,
    batch_norm_epsilon=1e-3,
    drop_connect_rate=0.0,
    depth_divisor=4,
    min_depth=None,
    include_top=True,
)


def _efficientnet_micro(num_classes: int, channels: int) -> nn.Module:
    params = _MICRO_PARAMS._replace(num_classes=num_classes)
    model = efficientnet_pytorch.EfficientNet(BlockDecoder.decode(_MICRO_BLOCKS), params)
    model._change_in_channels(channels)
    return model


# What builds each, from its number of classes and of input channels.
NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "efficientnet-micro": _efficientnet_micro,
    "resnet20": functools.partial(CifarResNet, 20),
    "resnet32": functools.partial(CifarResNet, 32),
    "resnet56": functools.partial(CifarResNet, 56),
    "mobilenetv2_cifar": CifarMobileNetV2,
}
