"""Per operator: schema, check, fake and gradient, then the function that callers use.

Packed bits: flag i is bit i % 8 of byte i // 8 and unused bits are 0. Bits of activations follow
memory order (any dense layout), bits of weights logical order. Float means float32, bfloat16 or
float16; the arithmetic is float32 and results are rounded to the input's dtype once.
"""

from importlib import import_module

from .registry import OPS

__all__ = ["OPS"]

_FILES = (
    *("bits_and_counts", "block", "codes", "depthwise_gradient", "exact", "fake_quant_activation"),
    *("fake_quant_weight", "learned_step", "mask_selection", "norm", "quant_conv"),
)

# A file registers its operators when it is imported.
for _name in _FILES:
    import_module(f".{_name}", __name__)
