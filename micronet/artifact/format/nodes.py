"""The nodes of a packed network's graph; their fields are the keys of the metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from micronet.quantization.quantizers.images import GREY_LEVELS

# Functions whose values no library computes alike, so that a node says whether its are the page's.
INEXACT = ("swish", "sigmoid")
FUNCTIONS = ("relu", "relu6", "hardswish", "hardsigmoid", *INEXACT)


@dataclass(frozen=True)
class Input:
    """The image, float32."""


@dataclass(frozen=True)
class Quantize:
    """Codes of values; its scale and zero point are tensors named after it."""

    inputs: tuple[int, ...]
    name: str
    levels: int


@dataclass(frozen=True)
class Table:
    """Codes of codes, by a table of one entry for each level of the input."""

    inputs: tuple[int, ...]
    name: str
    levels: int


@dataclass(frozen=True)
class Pixels:
    """The grey values of the image, as codes of 256 levels; a tensor has those of its border.

    ``mean`` and ``std`` of pixels in [0, 1] are what the image is normalized by, one number for
    each channel.
    """

    inputs: tuple[int, ...]
    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def levels(self) -> int:
        """The levels of a byte."""
        return GREY_LEVELS


@dataclass(frozen=True)
class Conv:
    """A convolution."""

    inputs: tuple[int, ...]
    layer: str


@dataclass(frozen=True)
class Linear:
    """A linear layer, of one row of features an image."""

    inputs: tuple[int, ...]
    layer: str


@dataclass(frozen=True)
class Activation:
    """A function of each value; ``exact`` where its value is the page's to the bit."""

    inputs: tuple[int, ...]
    function: str
    exact: bool


@dataclass(frozen=True)
class Pool:
    """The mean over all positions, or the maximum over windows; ``exact`` as of an activation."""

    inputs: tuple[int, ...]
    function: str
    exact: bool
    kernel: tuple[int, ...] | None = None
    stride: tuple[int, ...] | None = None
    padding: tuple[int, ...] | None = None
    dilation: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Gate:
    """Products of values and factors, of each value or of each channel."""

    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Add:
    """Sums of two signals' values."""

    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Concat:
    """Signals one behind the other along the first axis."""

    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Reshape:
    """The same values in another shape."""

    inputs: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Slice:
    """Every ``step``-th value from ``start`` up to ``stop``, along each axis."""

    inputs: tuple[int, ...]
    start: tuple[int, ...]
    stop: tuple[int, ...]
    step: tuple[int, ...]


@dataclass(frozen=True)
class Pad:
    """Zeros before and after each axis."""

    inputs: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]


Node: TypeAlias = (
    Input
    | Quantize
    | Table
    | Pixels
    | Conv
    | Linear
    | Activation
    | Pool
    | Gate
    | Add
    | Concat
    | Reshape
    | Slice
    | Pad
)
# Nodes that give codes.
CODES = Quantize, Table, Pixels
KINDS: dict[str, type[Any]] = {kind.__name__.lower(): kind for kind in Node.__args__}


def kind_of(node: Node) -> str:
    """Return the word that the metadata have for a node."""
    return type(node).__name__.lower()
