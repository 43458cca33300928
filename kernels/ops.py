"""Per operator: schema, check, fake and gradient, then the function that callers use.

Packed bits: flag i is bit i % 8 of byte i // 8 and unused bits are 0. Bits of activations follow
memory order (contiguous or channels_last), bits of weights logical order. Float means float32.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import checks, dispatch
from .scheme import Scheme, levels_of_bits

__all__ = ["OPS", "Scheme", "levels_of_bits"]

LIBRARY = torch.library.Library("micronet", "DEF")
OPS: list[str] = []


def _define(signature: str, check: Callable[..., None], fake: Callable[..., Any]) -> None:
    """Registers an operator: one router for every device, and a fake behind the same check."""
    name = signature.split("(", 1)[0]

    def run(*args: Any) -> Any:
        check(*args)
        return dispatch.call(name, args)

    def run_fake(*args: Any) -> Any:
        check(*args)
        return fake(*args)

    LIBRARY.define(signature)
    LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"micronet::{name}", run_fake, lib=LIBRARY)
    OPS.append(name)


def _like(x: Tensor, shape: Any, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=x.device)


def _fake_bits(x: Tensor) -> Tensor:
    return _like(x, (checks.bytes_for(x.numel()),), torch.uint8)


# Activations ------------------------------------------------------------------------------------

_define(
    "update_range_(Tensor x, Tensor(a!) ema, Tensor(b!) range, Tensor(c!) step, float decay) -> ()",
    checks.update_range,
    lambda x, ema, range, step, decay: None,
)
_define(
    "fake_quant_per_tensor(Tensor x, Tensor range, int levels, int scheme) -> (Tensor, Tensor)",
    checks.fake_quant_per_tensor,
    lambda x, range, levels, scheme: (torch.empty_like(x), _fake_bits(x)),
)
_define(
    "fake_quant_per_tensor_backward(Tensor grad, Tensor inside) -> Tensor",
    checks.select_by_bits,
    lambda grad, inside: torch.empty_like(grad),
)

# Weights ----------------------------------------------------------------------------------------


def _fake_channels(w: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    per_channel = (w.shape[0],)
    scale, zero_point = (_like(w, per_channel, torch.float32) for _ in range(2))
    return _like(w, w.shape, dtype), scale, zero_point


_define(
    "fake_quant_per_channel(Tensor w, Tensor mask, int levels, int scheme)"
    " -> (Tensor, Tensor, Tensor)",
    checks.per_channel,
    lambda w, mask, levels, scheme: _fake_channels(w, torch.float32),
)
_define(
    "quantize_per_channel(Tensor w, Tensor mask, int levels, int scheme)"
    " -> (Tensor, Tensor, Tensor)",
    checks.per_channel,
    lambda w, mask, levels, scheme: _fake_channels(
        w, torch.int8 if scheme == Scheme.DISTILLER_SYMMETRIC else torch.uint8
    ),
)
_define(
    "mask_gradient(Tensor grad, Tensor mask) -> Tensor",
    checks.select_by_bits,
    lambda grad, mask: torch.empty_like(grad),
)

# Masks, bits and counts -------------------------------------------------------------------------

_define(
    "smallest_magnitude_mask(Tensor w, int k) -> Tensor",
    checks.smallest_magnitude_mask,
    lambda w, k: _fake_bits(w),
)
_define(
    "pack_bits(Tensor flags) -> Tensor",
    checks.pack_bits,
    _fake_bits,
)
_define(
    "unpack_bits(Tensor bits, int numel) -> Tensor",
    checks.unpack_bits,
    lambda bits, numel: _like(bits, (numel,), torch.bool),
)
_define(
    "count_nonzero(Tensor w) -> Tensor",
    checks.count_nonzero,
    lambda w: _like(w, (), torch.int64),
)
_define(
    "count_nonzero_per_channel(Tensor w) -> Tensor",
    checks.count_nonzero_per_channel,
    lambda w: _like(w, (w.shape[0],), torch.int64),
)

# Gradients --------------------------------------------------------------------------------------


def _save_inside(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])
    ctx.strides = inputs[0].stride()


def _activation_gradient(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Any, ...]:
    if grad is None:
        return None, None, None, None
    if grad.stride() != ctx.strides:
        # The bits follow the memory order of x, so the gradient has to as well.
        grad = torch.empty_strided(
            grad.shape, ctx.strides, dtype=grad.dtype, device=grad.device
        ).copy_(grad)
    (inside,) = ctx.saved_tensors
    return (
        torch.ops.micronet.fake_quant_per_tensor_backward.default(grad, inside),
        None,
        None,
        None,
    )


def _save_mask(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(inputs[1])


def _masked(ctx: Any, grad: Tensor | None) -> Tensor | None:
    (mask,) = ctx.saved_tensors
    if grad is None or mask.numel() == 0:
        return grad
    return torch.ops.micronet.mask_gradient.default(grad.contiguous(), mask)


for _name, _backward, _setup in (
    ("fake_quant_per_tensor", _activation_gradient, _save_inside),
    (
        "fake_quant_per_channel",
        lambda ctx, grad, *_: (_masked(ctx, grad), None, None, None),
        _save_mask,
    ),
):
    torch.library.register_autograd(
        f"micronet::{_name}", _backward, setup_context=_setup, lib=LIBRARY
    )

# What callers use -------------------------------------------------------------------------------

_OP = torch.ops.micronet


def _dense(x: Tensor) -> Tensor:
    return x if checks.is_dense(x) else x.contiguous()


def update_range_(x: Tensor, ema: Tensor, range: Tensor, step: Tensor, decay: float) -> None:
    """Moves the averages `ema` [2] by min and max of x, sets the bias-corrected `range` [2].

    `step` int64 [1] counts the calls. A NaN in x makes the range NaN. Nothing waits for the
    device. Raises ValueError for an empty x or a decay outside [0, 1), TypeError for a dtype.
    Source: bias-corrected exponential moving average, Kingma and Ba 2015, section 3.
    """
    _OP.update_range_.default(_dense(x.detach()), ema, range, step, decay)


def fake_quant_per_tensor(
    x: Tensor, range: Tensor, levels: int, scheme: int = Scheme.AFFINE
) -> Tensor:
    """x rounded to the `levels` values that the range [2] (lo, hi), widened to 0, is cut into.

    Same shape and memory format as x. The gradient is 1 inside the widened range, ends
    included, else 0. NaN stays NaN. Raises ValueError for levels or scheme, TypeError for a dtype.
    Source: Jacob et al. 2018, section 3, with the straight-through gradient.
    """
    return _OP.fake_quant_per_tensor.default(_dense(x), range, levels, int(scheme))[0]


def _mask_of(w: Tensor, mask: Tensor | None) -> Tensor:
    return w.new_empty(0, dtype=torch.uint8) if mask is None else mask


def fake_quant_per_channel(
    w: Tensor, levels: int, mask: Tensor | None = None, scheme: int = Scheme.AFFINE
) -> Tensor:
    """w [C, ...] masked and rounded, each channel of dimension 0 to the levels of its own range.

    `mask` holds packed bits of w in logical order, 0 where pruned; None keeps all. Gradient: 1
    where kept, else 0. Raises ValueError for sizes, levels or scheme, TypeError for a dtype.
    Source: as `fake_quant_per_tensor`; the range is that of the masked weights now.
    """
    return _OP.fake_quant_per_channel.default(
        w.contiguous(), _mask_of(w, mask), levels, int(scheme)
    )[0]


def quantize_per_channel(
    w: Tensor, levels: int, mask: Tensor | None = None, scheme: int = Scheme.AFFINE
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of `fake_quant_per_channel` like w (uint8; int8 if symmetric), scale [C], zero [C].

    The value of a code is (code + zero) / scale; NaN has code 0 and shows in the scale. Raises
    as `fake_quant_per_channel`.
    """
    return _OP.quantize_per_channel.default(
        w.detach().contiguous(), _mask_of(w, mask), levels, int(scheme)
    )


def smallest_magnitude_mask(w: Tensor, k: int) -> Tensor:
    """Packed mask [ceil(numel / 8)] that prunes exactly the k smallest magnitudes of w.

    Of equal magnitudes the lower flat index is pruned first. Raises ValueError for NaN or a k
    outside 0 to numel. Source: magnitude pruning, Han et al. 2015.
    """
    return _OP.smallest_magnitude_mask.default(w.detach().contiguous(), k)


def pack_bits(flags: Tensor) -> Tensor:
    """Bool tensor, in logical order, to uint8 [ceil(numel / 8)]; TypeError for another dtype."""
    return _OP.pack_bits.default(flags.contiguous())


def unpack_bits(bits: Tensor, numel: int) -> Tensor:
    """Packed uint8 to bool [numel]; ValueError where the bytes are not exactly those needed."""
    return _OP.unpack_bits.default(bits.contiguous(), numel)


def count_nonzero(w: Tensor) -> Tensor:
    """Number of elements of a float w other than 0, an int64 scalar; TypeError for a dtype."""
    return _OP.count_nonzero.default(w.detach().contiguous())


def count_nonzero_per_channel(w: Tensor) -> Tensor:
    """Elements of a float w [C, ...] other than 0 per channel, int64 [C]; raises for a scalar."""
    return _OP.count_nonzero_per_channel.default(w.detach().contiguous())
