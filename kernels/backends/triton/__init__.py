"""The operators as Triton kernels: for CUDA devices without the compiled extension.

Triton takes a second to import, so a kernel's file is loaded when its operator first runs.
"""

import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

WHY_MISSING = "it needs the package triton and a CUDA device, or TRITON_INTERPRET=1"


def _kernel(stem: str, name: str) -> Callable[..., Any]:
    """A stand-in that loads `name` of file `stem` at the first call."""

    @cache
    def load() -> Callable[..., Any]:
        return getattr(import_module(f".{stem}", __name__), name)

    return lambda *args: load()(*args)


def _kernels(stem: str, *names: str) -> dict[str, Callable[..., Any]]:
    return {name: _kernel(stem, name) for name in names}


KERNELS: dict[str, Callable[..., Any]] = {
    **_kernels("moving_range", "update_range_", "move_range_"),
    **_kernels(
        "fake_quant_activation",
        "fake_quant_per_tensor",
        "fake_quant_per_tensor_observed",
        "quantize_per_tensor",
        "dequantize_per_tensor",
    ),
    **_kernels(
        "fake_quant_weight",
        "fake_quant_per_channel",
        "fake_quant_weights",
        "quantize_per_channel",
        "mask_gradients",
    ),
    **_kernels("learned_step", "fake_quant_learned_step", "fake_quant_learned_step_backward"),
    **_kernels("codes", "pack_codes", "unpack_codes"),
    **_kernels(
        "bits_and_counts",
        "pack_bits",
        "unpack_bits",
        "count_bits",
        "compact_by_bits",
        "expand_by_bits",
        "count_nonzero",
        "count_nonzero_per_channel",
    ),
    **_kernels("mask_selection", "smallest_magnitude_mask"),
    **_kernels("quant_conv", "quant_conv2d", "quant_conv2d_values"),
    **_kernels(
        "block", "channel_moments", "block_extremes", "block_codes", "block_values", "block_means"
    ),
    **_kernels(
        "block_gradient",
        "block_gradient",
        "block_gradient_sums",
        "block_gate_gradient",
        "block_step_sums",
    ),
    **_kernels("norm", "norm_fold_", "norm_gradient_map"),
    **_kernels("exact", "conv2d_deterministic", "linear_deterministic"),
    "fake_quant_per_tensor_backward": _kernel("bits_and_counts", "select_by_bits"),
    "mask_gradient": _kernel("bits_and_counts", "select_by_bits"),
}


def _table() -> dict[str, dict[str, Callable[..., Any]]]:
    # Only absence is forgiven: a Triton that is there but cannot be imported raises when used.
    if find_spec("triton") is None:
        return {}
    devices = ["cuda"] if torch.cuda.is_available() else []
    if os.environ.get("TRITON_INTERPRET") == "1":
        devices.append("cpu")
    return {device: KERNELS for device in devices}


# Device type -> operator -> kernel. On the CPU there is only Triton's interpreter, for tests.
TABLE: dict[str, dict[str, Callable[..., Any]]] = _table()
