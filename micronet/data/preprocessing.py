"""How images become what a network takes: their size, their part that is seen, and their scale.

A network that was trained elsewhere wants its images as they were there. What it wants is kept in
a run's checkpoints, so that every later command prepares them alike.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from micronet.utils.errors import UserError
from micronet.utils.lazy_modules import lazy

if TYPE_CHECKING:
    from torchvision.transforms import v2
else:
    v2 = lazy("torchvision.transforms.v2")

# Means and standard deviations of the channels of pixels in [0, 1].
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
CIFAR_STATISTICS: Statistics = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
IMAGENET_STATISTICS: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

INTERPOLATIONS = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Preprocessing:
    """What a network wants of its images; as it stands, what torchvision's recipes do.

    Attributes:
        image_size: side in pixels of large images, unless another is asked for.
        mean: of the channels of pixels in [0, 1], and ``deviation`` their standard deviation.
        interpolation: one of ``INTERPOLATIONS``.
        crop_share: side of the part that is seen, over that of the resized image, whose side is
            rounded down; None takes 224 / 256 and rounds to the nearest.
        squash: both sides are resized to one length, not the shorter alone.

    Raises:
        ValueError: a value is none of those.
    """

    image_size: int = 224
    mean: tuple[float, ...] = IMAGENET_STATISTICS[0]
    deviation: tuple[float, ...] = IMAGENET_STATISTICS[1]
    interpolation: str = "bilinear"
    crop_share: float | None = None
    squash: bool = False

    def __post_init__(self) -> None:
        """Hold the values to what images can be prepared by."""
        if type(self.image_size) is not int or self.image_size < 1:
            raise ValueError(f"image_size {self.image_size!r} is no number of pixels")
        if self.interpolation not in INTERPOLATIONS:
            known = " or ".join(INTERPOLATIONS)
            raise ValueError(f"interpolation is {self.interpolation!r}, not {known}")
        are_three = len(self.mean) == len(self.deviation) == 3
        if not (are_three and all(map(math.isfinite, self.mean)) and _are_positive(self.deviation)):
            raise ValueError(f"{self.mean} and {self.deviation} are no moments of three channels")
        if self.crop_share is not None and not 0 < self.crop_share <= 1:
            raise ValueError(f"crop_share {self.crop_share} is not above 0 and at most 1")

    @property
    def statistics(self) -> Statistics:
        """Mean and deviation."""
        return self.mean, self.deviation

    def resized_side(self, size: int) -> int:
        """Return the side of the resized image of which a part of ``size`` is seen."""
        if self.crop_share is None:
            return round(size * 256 / 224)
        return math.floor(size / self.crop_share)

    def center(self, size: int) -> v2.Compose:
        """Return what turns an image into the bytes (3, size, size) that evaluation sees."""
        side = self.resized_side(size)
        method = v2.InterpolationMode(self.interpolation)
        resize = v2.Resize([side, side] if self.squash else side, interpolation=method)
        return v2.Compose([resize, v2.CenterCrop(size), v2.PILToTensor()])


def _are_positive(deviation: tuple[float, ...]) -> bool:
    return all(math.isfinite(value) and value > 0 for value in deviation)


def to_record(preprocessing: Preprocessing | None) -> dict[str, Any] | None:
    """Return plain data for a checkpoint's header; None where the data decide."""
    return None if preprocessing is None else dataclasses.asdict(preprocessing)


def of_record(meta: Mapping[str, Any], path: object = "") -> Preprocessing | None:
    """Read what a checkpoint's header says of its images, None where it says nothing.

    Args:
        meta: the header.
        path: of the checkpoint, for messages.

    Raises:
        UserError: it is no such record.
    """
    record = meta.get("preprocessing")
    if record is None:
        return None
    try:
        moments = {key: tuple(map(float, record[key])) for key in ("mean", "deviation")}
        return Preprocessing(**{**record, **moments})
    except (KeyError, TypeError, ValueError) as error:
        raise _unsaid(path, error) from None


def statistics_to_record(statistics: Statistics | None) -> dict[str, list[float]] | None:
    """Return mean and deviation as plain data, as ``statistics_of_record`` reads them."""
    if statistics is None:
        return None
    mean, std = map(list, statistics)
    return {"mean": mean, "std": std}


def statistics_of_record(meta: Mapping[str, Any], path: object = "") -> Statistics | None:
    """Read by what mean and deviation a run's images were normalized, whoever decided on them.

    Args:
        meta: the header of a checkpoint; those written before it said so have None.
        path: of the checkpoint, for messages.

    Raises:
        UserError: it is no such record.
    """
    if (preprocessing := of_record(meta, path)) is not None:
        return preprocessing.statistics
    record = meta.get("normalization")
    if record is None:
        return None
    try:
        mean, std = (tuple(map(float, record[key])) for key in ("mean", "std"))
        return Preprocessing(mean=mean, deviation=std).statistics
    except (KeyError, TypeError, ValueError) as error:
        raise _unsaid(path, error) from None


def _unsaid(path: object, error: Exception) -> UserError:
    return UserError(f"checkpoint {str(path)!r} does not say how images are prepared: {error}")
