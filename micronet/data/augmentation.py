"""Stronger augmentation: torchvision's policies for one image, and mixes of a batch.

Every random choice is a function of (seed, epoch, sample) or (seed, epoch, step, process) alone;
torchvision's transforms draw from torch's global generator, which is lent to them and put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from micronet.data.seeds import mix
from micronet.recipe.schema import AugmentSection
from micronet.utils.errors import UserError
from micronet.utils.lazy_modules import lazy

if TYPE_CHECKING:
    from torchvision.transforms import v2
else:
    v2 = lazy("torchvision.transforms.v2")

Policy = Callable[[Tensor], Tensor]


def policy(section: AugmentSection, data: str) -> Policy | None:
    """Return what is done to each uint8 image (3, height, width), None for nothing.

    Args:
        section: the recipe's.
        data: the name of the data set.

    Raises:
        UserError: the MicroNet Challenge forbids the policy on this data: it was found on CIFAR-10,
            whose images the CIFAR-100 track must not use.
    """
    if section.policy == "autoaugment-cifar10" and data == "cifar100":
        raise UserError(
            "augment.policy 'autoaugment-cifar10' was found with CIFAR-10's images, which the "
            "challenge forbids for CIFAR-100: take randaugment"
        )
    if section.policy == "randaugment":
        return v2.RandAugment(section.operations, section.magnitude)
    policies = {
        "autoaugment-imagenet": v2.AutoAugmentPolicy.IMAGENET,
        "autoaugment-cifar10": v2.AutoAugmentPolicy.CIFAR10,
    }
    return v2.AutoAugment(policies[section.policy]) if section.policy in policies else None


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Let what draws from the global generator of the CPU draw from a stream of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def changed(policy: Policy, pixels: Tensor, seed: int, epoch: int, sample: int) -> Tensor:
    """Return ``pixels`` uint8 (height, width, 3) as a policy changes a sample in an epoch."""
    with drawing_from(mix(seed, epoch, 3, sample)):
        return policy(pixels.permute(2, 0, 1)).permute(1, 2, 0)


def mixed(
    images: Tensor, labels: Tensor, classes: int, section: AugmentSection, seed: int
) -> tuple[Tensor, Tensor]:
    """Return a batch mixed with itself in another order, and its labels as shares of classes.

    Sources: mixup, Zhang et al. 2018; CutMix, Yun et al. 2019. Where both are asked for, each batch
    takes one of them, either as often.

    Args:
        images: float (N, channels, height, width).
        labels: class indices (N,).
        classes: their number.
        section: with the parameters of the Beta distributions of mixup and cutmix, 0 for none.
        seed: of this batch.

    Returns:
        Images as given, and labels (N, classes) that sum to 1, or as given where nothing is mixed.
    """
    kinds: list[torch.nn.Module] = []
    if section.mixup:
        kinds.append(v2.MixUp(alpha=section.mixup, num_classes=classes))
    if section.cutmix:
        kinds.append(v2.CutMix(alpha=section.cutmix, num_classes=classes))
    if not kinds or len(labels) < 2:
        return images, labels if not kinds else F.one_hot(labels, classes).float()
    with drawing_from(seed):
        kind = kinds[int(torch.randint(len(kinds), ()))]
        new, shares = kind(images, labels)
    return new, shares
