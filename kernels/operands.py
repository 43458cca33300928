"""Operands of operators that have many: one home for their names, their order and their types.

`takes` hands them to a function as one object, and `schema_of` writes them into a schema.
"""

from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, NamedTuple, TypeVar, get_type_hints

from torch import Tensor

from .shapes import ConvShape

Result = TypeVar("Result")


class Affine(NamedTuple):
    """Accumulators and what makes values of them: function(fma(acc, scale, shift))."""

    acc: Tensor  # [N, C, H, W], channels last; int16, int32 or float32
    scale: Tensor  # [C]
    shift: Tensor  # [C]
    function: int  # a `Function`


class LearnedStep(NamedTuple):
    """What is rounded to multiples of a learned step."""

    x: Tensor
    mask: Tensor  # packed bits of x, or empty
    step: Tensor  # [1], or [C] for each channel of dimension 0
    zero_point: Tensor  # like step
    levels: int


class Coding(NamedTuple):
    """What a quantizer of activations is made from."""

    range: Tensor  # [2], the ends, or the step and the zero point of a learned one; or empty
    levels: int
    scheme: int  # a `Scheme`


class CodesConvolution(NamedTuple):
    """A convolution of codes with weights that are quantized on the way."""

    codes: Tensor  # half a byte each or a whole one, channels last
    range: Tensor  # of the codes, as levels and scheme are; see `Coding`
    levels: int
    scheme: int
    w: Tensor  # [O, C / groups, KH, KW]
    mask: Tensor  # packed bits of w, or empty
    weight_levels: int
    weight_scheme: int
    weight_steps: Tensor  # [2, O], learned steps and zero points, or empty
    input_size: list[int]  # N, C, H, W
    stride: list[int]  # y, x
    padding: list[int]  # top, left, bottom, right
    dilation: list[int]  # y, x
    groups: int

    @property
    def shape(self) -> ConvShape:
        """Its sizes; raises ValueError where they do not fit each other."""
        return ConvShape.of(self.input_size, self.w.shape, *self[10:])


class FloatConvolution(NamedTuple):
    """A convolution of float32 images, channels last; strides and padding as above."""

    x: Tensor  # [N, C, H, W]
    w: Tensor  # [O, C / groups, KH, KW]
    bias: Tensor  # [O], or empty
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    @property
    def shape(self) -> ConvShape:
        """Its sizes; raises ValueError where they do not fit each other."""
        return ConvShape.of(self.x.shape, self.w.shape, *self[3:])


class DepthwiseGradient(NamedTuple):
    """The gradient to what a depthwise convolution made, and what it made it from."""

    grad: Tensor  # [N, C, H', W'], channels last; float32, bfloat16 or float16
    x: Tensor  # [N, C, H, W], float32, channels last; or codes in that order, uint8
    table: Tensor  # the values of the codes, or empty
    w: Tensor  # [C, 1, KH, KW], float32
    input_size: list[int]  # N, C, H, W
    stride: list[int]  # y, x
    padding: list[int]  # top, left, bottom, right
    dilation: list[int]  # y, x
    wants_x: bool
    wants_w: bool

    @property
    def shape(self) -> ConvShape:
        """Its sizes; raises ValueError where they do not fit each other."""
        return ConvShape.of(self.input_size, self.w.shape, *self[5:8], self.input_size[1])


class NormFold(NamedTuple):
    """Sums of `count` accumulators, and what normalizes their values; all [C] but the sums."""

    sums: Tensor  # [2, C], float64: of the accumulators and of their squares
    count: int  # type: ignore[assignment]
    dequant_scale: Tensor  # the step between two values
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Annotated[Tensor | None, "Tensor(a!)?"]
    running_var: Annotated[Tensor | None, "Tensor(b!)?"]
    momentum: float
    eps: float


class NormGradient(NamedTuple):
    """Sums of a gradient to normalized values, and what they were normalized by; [C]."""

    sums: Tensor  # [2, C], float64: of the gradient, and of its products with the accumulators
    mean: Tensor  # float64
    variance: Tensor  # float64
    count: int | None  # type: ignore[assignment]  # None where statistics do not depend on y
    dequant_scale: Tensor
    weight: Tensor | None
    eps: float


def takes(
    operands: type[NamedTuple], at: int = 0
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Let a function that has `operands` as its argument `at` be called with them one by one."""
    make: Callable[..., Any] = operands
    end = at + len(operands._fields)

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        @wraps(function)
        def run(*args: Any) -> Result:
            return function(*args[:at], make(*args[at:end]), *args[end:])

        return run

    return decorate


_SCHEMA_TYPES: dict[Any, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    int: "int",
    bool: "bool",
    int | None: "int?",
    float: "float",
    list[int]: "int[]",
}


def schema_of(operands: type[NamedTuple]) -> str:
    """The operands as arguments in the schema of an operator; one that it writes is annotated."""
    hints = get_type_hints(operands, include_extras=True)
    return ", ".join(f"{_schema_type(hint)} {name}" for name, hint in hints.items())


def _schema_type(hint: Any) -> str:
    return hint.__metadata__[0] if hasattr(hint, "__metadata__") else _SCHEMA_TYPES[hint]
