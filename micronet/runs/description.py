"""What a network's ``config.json`` says of it, as checked values and as plain data."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from micronet.data.preprocessing import Preprocessing, Statistics, statistics_to_record
from micronet.models import architectures
from micronet.models.architectures import Created
from micronet.quantization.quantize import LayerBits
from micronet.recipe.reader import Recipe, recipe_from_dict, recipe_to_dict
from micronet.recipe.strict import build
from micronet.utils.errors import UserError

FORMAT = 1
_TIMM = "timm:"


@dataclass(frozen=True)
class Architecture:
    """How a network is created again.

    Attributes:
        source: the package that it comes from, as ``architectures.source_of`` has it.
        name: within that package; of a user's own ``module:function``, and None where nothing is
            known of its making.
        num_classes: None where nothing is known.
        channels: of its images, likewise.

    Raises:
        ValueError: they contradict each other.
    """

    source: str
    name: str | None
    num_classes: int | None
    channels: int | None

    def __post_init__(self) -> None:
        """Hold the values to each other."""
        if self.source != ("own" if self.arch is None else architectures.source_of(self.arch)):
            raise ValueError(f"source {self.source!r} has no network {self.name!r}")
        for key in ("num_classes", "channels"):
            value = getattr(self, key)
            if value is None if self.name is None else value is not None and value > 0:
                continue
            raise ValueError(f"{key} of {self.name!r} cannot be {value}")

    @property
    def arch(self) -> str | None:
        """The name by which ``create_model`` knows it."""
        return f"{_TIMM}{self.name}" if self.name and self.source == "timm" else self.name

    @classmethod
    def of(cls, created: Created | None) -> Architecture:
        """Describe what ``create_model`` made, or something else did."""
        if created is None:
            return cls("own", None, None, None)
        name = created.arch.removeprefix(_TIMM)
        source = architectures.source_of(created.arch)
        return cls(source, name, created.num_classes, created.channels)

    @property
    def created(self) -> Created | None:
        """What ``create_model`` is to be asked for, None where nothing is known."""
        if self.arch is None or self.num_classes is None or self.channels is None:
            return None
        return Created(self.arch, self.num_classes, self.channels)


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of each channel of pixels in [0, 1].

    Raises:
        ValueError: they are not of the same channels, or a deviation is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Hold the values to what pixels can be normalized by."""
        if len(self.mean) != len(self.std):
            raise ValueError(f"there are {len(self.mean)} means, but {len(self.std)} deviations")
        if not all(0 < std < float("inf") for std in self.std):
            raise ValueError("each std must be a number above 0")
        if not all(abs(mean) < float("inf") for mean in self.mean):
            raise ValueError("each mean must be finite")


@dataclass(frozen=True)
class Resize:
    """How images become as large as the network takes them; see ``data.preprocessing``."""

    interpolation: str
    crop_share: float | None
    squash: bool


@dataclass(frozen=True)
class Description:
    """What is said of a network beside its tensors.

    Attributes:
        format: of the file, ``FORMAT``.
        architecture: what creates it.
        precision: by layer; empty while the network is in float.
        pruned: the layers whose weights have a mask, None where none has.
        tied: by each further name of a tensor, the name that it is stored under.
        image_size: side in pixels of the images that it was made for.
        classes: their names, in the order of the logits.
        normalization: of the images, None where it is not known, and so is ``resize``.
        resize: None where images are resized as torchvision's recipes do.
        versions: of the packages that wrote the file.
        recipe: by which it was trained.

    Raises:
        ValueError: they contradict each other.
    """

    format: int
    architecture: Architecture
    precision: dict[str, LayerBits]
    pruned: tuple[str, ...] | None
    tied: dict[str, str]
    image_size: int | None
    classes: tuple[str, ...] | None
    normalization: Normalization | None
    resize: Resize | None
    versions: dict[str, str]
    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        """Hold the values to each other."""
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"image_size {self.image_size} is no number of pixels")
        if self.resize is not None and self.normalization is None:
            raise ValueError("resize is of no use without normalization")
        count = self.architecture.num_classes
        if self.classes is not None and count not in (None, len(self.classes)):
            raise ValueError(f"classes has {len(self.classes)} names for {count} classes")

    @classmethod
    def read(cls, document: Mapping[str, Any], path: str) -> Description:
        """Check plain data.

        Args:
            document: with a key for each attribute.
            path: of the file, for messages.

        Raises:
            UserError: a key is missing or unknown, or its value is not allowed.
        """
        plain = dict(document)
        if "recipe" not in plain:
            raise UserError(f"{path}: key 'recipe' is missing")
        recipe = plain.pop("recipe")
        described = build(cls, plain, "", path)
        if recipe is None:
            return described
        return dataclasses.replace(described, recipe=recipe_from_dict(recipe, path))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that ``read`` takes."""
        recipe = None if self.recipe is None else recipe_to_dict(self.recipe)
        # With lists for tuples, as JSON has them.
        plain: dict[str, Any] = json.loads(
            json.dumps(dataclasses.asdict(self) | {"recipe": recipe})
        )
        return plain

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """What a checkpoint's header says of the images, None where that is not known."""
        if self.normalization is None:
            return None
        moments = {"mean": self.normalization.mean, "deviation": self.normalization.std}
        size = {} if self.image_size is None else {"image_size": self.image_size}
        return moments | size | ({} if self.resize is None else vars(self.resize))


def about_images(
    preprocessing: Preprocessing | None, statistics: Statistics | None
) -> dict[str, Any]:
    """Return as plain data of a description how images are prepared."""
    resize = None
    if preprocessing is not None:
        resize = {f.name: getattr(preprocessing, f.name) for f in dataclasses.fields(Resize)}
    return {"normalization": statistics_to_record(statistics), "resize": resize}


def versions() -> dict[str, str]:
    """Return the versions of what a network is computed by."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": importlib.metadata.version("torchvision"),
    }
