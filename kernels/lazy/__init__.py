"""Blocks of a network on codes: convolution, normalization, activation, codes, without a float.

What lies between two convolutions is not computed when it is called but when it is known what
becomes of it; `LazyTensor` is the tensor that waits. Backward passes compute it once more.
"""

from .convolution import ConvCall, Learned, QuantizedInput, QuantizedWeights
from .integer_sums import conv2d_of_integers, scale_of_range, with_gradient_of
from .pending import PendingTensor
from .recompute import RECOMPUTED, recompute_in_backward
from .stored import conv2d_of_nonfinite, conv2d_of_stored, scaled_sums
from .tensor import (
    LazyTensor,
    batch_norm,
    extremes,
    is_finite,
    position_means,
    quantize_input,
    quantize_input_by_step,
)
from .tracing import is_eager

__all__ = [
    "RECOMPUTED",
    "ConvCall",
    "LazyTensor",
    "Learned",
    "PendingTensor",
    "QuantizedInput",
    "QuantizedWeights",
    "batch_norm",
    "conv2d_of_integers",
    "conv2d_of_nonfinite",
    "conv2d_of_stored",
    "extremes",
    "is_eager",
    "is_finite",
    "position_means",
    "quantize_input",
    "quantize_input_by_step",
    "recompute_in_backward",
    "scale_of_range",
    "scaled_sums",
    "with_gradient_of",
]
