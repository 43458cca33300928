"""Quantizers, masks and counts of micronet: one arithmetic on every backend."""

from .dispatch import available_backends, use_backend
from .exact_functions import hardsigmoid, hardswish, position_means, sigmoid, swish
from .flops import register_flop_formulas
from .lazy.convolution import ConvCall, Learned, QuantizedInput, QuantizedWeights
from .lazy.integer_sums import conv2d_of_integers, scale_of_range, with_gradient_of
from .lazy.pending import PendingTensor
from .lazy.recompute import RECOMPUTED, recompute_in_backward
from .lazy.stored import conv2d_of_nonfinite, conv2d_of_stored, scaled_sums
from .lazy.tensor import LazyTensor, batch_norm
from .lazy.tracing import is_eager
from .memory import kept_output_bytes, limit_kept_outputs
from .onnx_symbolics import register as _register_onnx_symbolics
from .ops.bits_and_counts import (
    compact_by_bits,
    count_bits,
    count_nonzero,
    count_nonzero_per_channel,
    expand_by_bits,
    pack_bits,
    unpack_bits,
)
from .ops.codes import pack_codes, unpack_codes
from .ops.exact import conv2d_deterministic, linear_deterministic
from .ops.fake_quant_activation import (
    dequantize_per_tensor,
    fake_quant_per_tensor,
    fake_quant_per_tensor_observed,
    move_range_,
    quantize_per_tensor,
    update_range_,
)
from .ops.fake_quant_weight import (
    fake_quant_per_channel,
    fake_quant_weights,
    quantize_per_channel,
)
from .ops.learned_step import fake_quant_learned_step
from .ops.mask_selection import smallest_magnitude_mask
from .readers import extremes, is_finite, quantize_input, quantize_input_by_step
from .scheme import Scheme, bits_of_levels, levels_of_bits
from .shapes import fits_32_bits, is_channels_last

_register_onnx_symbolics()

__all__ = [
    "RECOMPUTED",
    "ConvCall",
    "LazyTensor",
    "Learned",
    "PendingTensor",
    "QuantizedInput",
    "QuantizedWeights",
    "Scheme",
    "available_backends",
    "batch_norm",
    "bits_of_levels",
    "compact_by_bits",
    "conv2d_deterministic",
    "conv2d_of_integers",
    "conv2d_of_nonfinite",
    "conv2d_of_stored",
    "count_bits",
    "count_nonzero",
    "count_nonzero_per_channel",
    "dequantize_per_tensor",
    "expand_by_bits",
    "extremes",
    "fake_quant_learned_step",
    "fake_quant_per_channel",
    "fake_quant_per_tensor",
    "fake_quant_per_tensor_observed",
    "fake_quant_weights",
    "fits_32_bits",
    "hardsigmoid",
    "hardswish",
    "is_channels_last",
    "is_eager",
    "is_finite",
    "kept_output_bytes",
    "levels_of_bits",
    "limit_kept_outputs",
    "linear_deterministic",
    "move_range_",
    "pack_bits",
    "pack_codes",
    "position_means",
    "quantize_input",
    "quantize_input_by_step",
    "quantize_per_channel",
    "quantize_per_tensor",
    "recompute_in_backward",
    "register_flop_formulas",
    "scale_of_range",
    "scaled_sums",
    "sigmoid",
    "smallest_magnitude_mask",
    "swish",
    "unpack_bits",
    "unpack_codes",
    "update_range_",
    "use_backend",
    "with_gradient_of",
]
