"""Blocks of a network on codes: convolution, normalisation, activation, codes, without a float.

What lies between two convolutions is not computed when it is called but when it is known what
becomes of it; `Deferred` is the tensor that waits. Backward passes compute it once more.
"""

from .convolution import ConvCall, QuantisedInput, quant_conv2d, quantise_input
from .deferred import Deferred, recompute_in_backward
from .functions import normalise_across
from .whole_numbers import conv2d_of_integers, scale_of_range, with_gradient_of

__all__ = [
    "ConvCall",
    "Deferred",
    "QuantisedInput",
    "conv2d_of_integers",
    "normalise_across",
    "quant_conv2d",
    "quantise_input",
    "recompute_in_backward",
    "scale_of_range",
    "with_gradient_of",
]
