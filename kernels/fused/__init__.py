"""Blocks of a network on codes: convolution, normalisation, activation, codes, without a float.

What lies between two convolutions is not computed when it is called but when it is known what
becomes of it; `Deferred` is the tensor that waits. Backward passes compute it once more.
"""

from . import functions  # noqa: F401 - it teaches Deferred what to take
from .convolution import ConvCall, QuantisedInput, quant_conv2d, quantise_input
from .deferred import Deferred, recompute_in_backward

__all__ = [
    "ConvCall",
    "Deferred",
    "QuantisedInput",
    "quant_conv2d",
    "quantise_input",
    "recompute_in_backward",
]
