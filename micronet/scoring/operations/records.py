"""What one operation of a network is: typed records of facts, without a price.

All sizes are for one image. ``name`` is the module that does the work, the empty string being the
network itself. A convolution, linear layer or batch normalization that is called as a function is
named by the layer whose weights it takes, or by the parameter or buffer that they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Conv:
    """A convolution; ``positions`` is output height times width.

    ``by_layer`` is false where a function of torch convolves with the weights and not their layer,
    so that whatever quantizes the layer does not reach it.
    """

    name: str
    in_channels: int
    out_channels: int
    groups: int
    kernel: tuple[int, ...]
    positions: int
    bias: bool
    by_layer: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weights, output channels first."""
        return self.out_channels, self.in_channels // self.groups, *self.kernel

    @property
    def weights(self) -> int:
        """Number of weights."""
        return prod(self.shape)


@dataclass(frozen=True)
class Linear:
    """A fully connected layer, applied at ``positions`` places; ``by_layer`` is as in ``Conv``."""

    name: str
    in_features: int
    out_features: int
    positions: int
    bias: bool
    by_layer: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weights, output features first."""
        return self.out_features, self.in_features

    @property
    def weights(self) -> int:
        """Number of weights."""
        return prod(self.shape)


@dataclass(frozen=True)
class MatrixProduct:
    """A product of two matrices that are both computed from the image, as in attention.

    Each of ``outputs`` elements is a sum of ``inner`` products.
    """

    name: str
    inner: int
    outputs: int

    @property
    def products(self) -> int:
        """Number of products."""
        return self.inner * self.outputs


@dataclass(frozen=True)
class Elementwise:
    """An operation on each of ``numel`` elements."""

    name: str
    numel: int


@dataclass(frozen=True)
class BatchNorm(Elementwise):
    """A batch normalization of ``numel`` elements in ``channels`` channels.

    ``folds_into`` names the convolution or linear layer whose output only it reads, so that in
    evaluation its scale and shift become part of that layer; None where there is no such layer.
    ``parameters`` are those of a normalization that no module of its own does.
    """

    channels: int
    folds_into: str | None = None
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerNorm(Elementwise):
    """A layer normalization of ``numel`` elements, in ``groups`` groups with their own moments."""

    groups: int
    affine: bool


@dataclass(frozen=True)
class Activation:
    """An activation function, by its lower-case name, over ``numel`` elements."""

    name: str
    function: str
    numel: int


@dataclass(frozen=True)
class Softmax(Elementwise):
    """A softmax, or its logarithm, of ``numel`` elements in ``groups`` with a sum of their own."""

    groups: int
    is_log: bool


@dataclass(frozen=True)
class Pool:
    """A pooling from ``input_numel`` to ``output_numel`` elements.

    ``function`` is "average", "maximum" or "sum". ``reads`` counts the elements of all windows
    together, padding included, as it is in convolutions; windows may overlap.
    """

    name: str
    function: str
    input_numel: int
    output_numel: int
    reads: int


@dataclass(frozen=True)
class Interpolation(Elementwise):
    """``numel`` elements between others, each a sum of ``taps`` of them with fixed weights."""

    taps: int


@dataclass(frozen=True)
class Scale(Elementwise):
    """A product, broadcast as squeeze-excite ends in it, over ``numel`` elements."""


@dataclass(frozen=True)
class Residual(Elementwise):
    """An element-wise addition, as residual blocks end in it, over ``numel`` elements."""


@dataclass(frozen=True)
class Permutation:
    """A fixed reordering of ``channels`` channels of ``numel`` elements, as ShuffleNet's.

    ``ordinal`` counts those of one call of a module. ``among`` is the number of channels that they
    are picked from, 0 where all are kept.
    """

    name: str
    channels: int
    numel: int
    ordinal: int = 0
    among: int = 0


@dataclass(frozen=True)
class Dropout(Elementwise):
    """A dropout layer, which is the identity in evaluation."""


Op = (
    Conv
    | Linear
    | MatrixProduct
    | BatchNorm
    | LayerNorm
    | Activation
    | Softmax
    | Pool
    | Interpolation
    | Scale
    | Residual
    | Permutation
    | Dropout
)
