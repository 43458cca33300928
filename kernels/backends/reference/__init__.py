"""The operators in plain PyTorch: the specification that every other backend is held to.

All arithmetic is float32, rounded to nearest even after each operation; bfloat16 and float16 are
widened first and results rounded to them once. Adding 0.0 turns a negative zero into a positive
one, so that no result depends on the order of a minimum.
"""

from collections.abc import Callable
from typing import Any

from . import (
    bits_and_counts,
    block,
    codes,
    depthwise_gradient,
    exact,
    fake_quant_activation,
    fake_quant_weight,
    learned_step,
    mask_selection,
    norm,
    quant_conv,
)

TABLE: dict[str, Callable[..., Any]] = {
    "update_range_": fake_quant_activation.update_range_,
    "move_range_": fake_quant_activation.move_range_,
    "fake_quant_per_tensor": fake_quant_activation.fake_quant_per_tensor,
    "fake_quant_per_tensor_observed": fake_quant_activation.fake_quant_per_tensor_observed,
    "fake_quant_per_tensor_backward": bits_and_counts.select_by_bits,
    "quantize_per_tensor": fake_quant_activation.quantize_per_tensor,
    "dequantize_per_tensor": fake_quant_activation.dequantize_per_tensor,
    "fake_quant_per_channel": fake_quant_weight.fake_quant_per_channel,
    "fake_quant_weights": fake_quant_weight.fake_quant_weights,
    "quantize_per_channel": fake_quant_weight.quantize_per_channel,
    "mask_gradient": bits_and_counts.select_by_bits,
    "mask_gradients": fake_quant_weight.mask_gradients,
    "fake_quant_learned_step": learned_step.fake_quant_learned_step,
    "fake_quant_learned_step_backward": learned_step.fake_quant_learned_step_backward,
    "pack_codes": codes.pack_codes,
    "unpack_codes": codes.unpack_codes,
    "pack_bits": bits_and_counts.pack_bits,
    "unpack_bits": bits_and_counts.unpack_bits,
    "count_bits": bits_and_counts.count_bits,
    "compact_by_bits": bits_and_counts.compact_by_bits,
    "expand_by_bits": bits_and_counts.expand_by_bits,
    "count_nonzero": bits_and_counts.count_nonzero,
    "count_nonzero_per_channel": bits_and_counts.count_nonzero_per_channel,
    "quant_conv2d": quant_conv.quant_conv2d,
    "quant_conv2d_values": quant_conv.quant_conv2d_values,
    "depthwise_gradient": depthwise_gradient.depthwise_gradient,
    "channel_moments": block.channel_moments,
    "block_extremes": block.block_extremes,
    "block_codes": block.block_codes,
    "block_values": block.block_values,
    "block_means": block.block_means,
    "block_gradient_sums": block.block_gradient_sums,
    "block_gradient_kept": block.block_gradient_kept,
    "block_gradient": block.block_gradient,
    "block_gate_gradient": block.block_gate_gradient,
    "block_step_sums": block.block_step_sums,
    "norm_gradient_": block.norm_gradient_,
    "norm_fold_": norm.norm_fold_,
    "norm_gradient_map": norm.norm_gradient_map,
    "conv2d_deterministic": exact.conv2d_deterministic,
    "linear_deterministic": exact.linear,
    "smallest_magnitude_mask": mask_selection.smallest_magnitude_mask,
}
