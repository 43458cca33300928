"""Weights: masked, then rounded to the range of each output channel."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..backends import native
from ..checks import (
    check,
    check_dense,
    check_range_scheme,
    check_same_device,
    check_selection,
    check_weights,
)
from ..scheme import Scheme
from .registry import (
    LIBRARY,
    call_backward,
    call_with_gradient,
    define,
    differentiate,
    differentiate_again,
    empty,
    no_mask,
)

# What the operators refuse ----------------------------------------------------------------------


def _check_weight(w: Tensor, mask: Tensor, levels: int, scheme: int) -> None:
    """An empty mask keeps all."""
    check_weights(w, mask)
    check_range_scheme(levels, scheme)


def _check_all_weights(
    weights: list[Tensor], masks: list[Tensor], levels: list[int], scheme: int
) -> None:
    """Each weight as by itself, all alike."""
    _check_lists(weights=weights, masks=masks, levels=levels)
    for w, mask, n in zip(weights, masks, levels, strict=True):
        _check_weight(w, mask, n, scheme)
    _check_alike("weights", weights)


def _check_gradients(grads: list[Tensor], masks: list[Tensor]) -> None:
    """An empty mask keeps all."""
    _check_lists(grads=grads, masks=masks)
    for grad, mask in zip(grads, masks, strict=True):
        if mask.numel():
            check_selection(grad, mask)
        check_dense("grad", grad)
    _check_alike("grads", grads)


def _check_lists(**lists: list[Tensor] | list[int]) -> None:
    (first, expected), *others = ((name, len(items)) for name, items in lists.items())
    if expected == 0:
        raise ValueError(f"{first} is empty, but must hold at least one tensor")
    for name, length in others:
        if length != expected:
            raise ValueError(f"{name} has {length} entries for {expected} {first}")


def _check_alike(name: str, tensors: list[Tensor]) -> None:
    for x in tensors:
        check(f"one of {name}", x, tensors[0].dtype)
        check_same_device(f"one of {name}", x, tensors[0])


# The operators ----------------------------------------------------------------------------------


def _fake_channels(w: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    scale, zero_point = (empty(w, (w.shape[0],), torch.float32) for _ in range(2))
    return empty(w, w.shape, dtype), scale, zero_point


define(
    "fake_quant_per_channel(Tensor w, Tensor mask, int levels, int scheme)"
    " -> (Tensor, Tensor, Tensor)",
    _check_weight,
    lambda w, mask, levels, scheme: _fake_channels(w, w.dtype),
)
define(
    "fake_quant_weights(Tensor[] weights, Tensor[] masks, int[] levels, int scheme) -> Tensor[]",
    _check_all_weights,
    lambda weights, masks, levels, scheme: [torch.empty_like(w) for w in weights],
)
define(
    "quantize_per_channel(Tensor w, Tensor mask, int levels, int scheme)"
    " -> (Tensor, Tensor, Tensor)",
    _check_weight,
    lambda w, mask, levels, scheme: _fake_channels(
        w, torch.int8 if scheme == Scheme.DISTILLER_SYMMETRIC else torch.uint8
    ),
)
define(
    "mask_gradient(Tensor grad, Tensor mask) -> Tensor",
    check_selection,
    lambda grad, mask: torch.empty_like(grad),
)
define(
    "mask_gradients(Tensor[] grads, Tensor[] masks) -> Tensor[]",
    _check_gradients,
    lambda grads, masks: [torch.empty_like(grad) for grad in grads],
)

# Gradients: 1 where the mask keeps the weight, else 0 -------------------------------------------


def _save_mask(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(inputs[1])


def _masked(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Any, ...]:
    (mask,) = ctx.saved_tensors
    if grad is not None and mask.numel() > 0:
        grad = call_backward("mask_gradient", grad.contiguous(), mask)
    return grad, None, None, None


def _masked_again(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
    return _masked(ctx, grad)[:2]


def _mask_one_by_one(grads: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
    if not (torch.is_grad_enabled() and any(g.requires_grad for g in grads)):
        with torch._C._AutoDispatchBelowAutograd():
            return _OP.mask_gradients.default(grads, masks)
    _check_gradients(grads, masks)
    each = zip(grads, masks, strict=True)
    return [call_backward("mask_gradient", g, m) if m.numel() else g.clone() for g, m in each]


def _one_by_one(
    weights: list[Tensor], masks: list[Tensor], levels: list[int], scheme: int
) -> list[Tensor]:
    each = zip(weights, masks, levels, strict=True)
    return [_OP.fake_quant_per_channel.default(w, mask, n, scheme)[0] for w, mask, n in each]


differentiate("fake_quant_per_channel", _masked, _save_mask)
# What is linear has a second derivative, too: torch would leave it out with a warning.
differentiate_again("mask_gradient", _masked_again, _save_mask)
LIBRARY.impl("mask_gradients", _mask_one_by_one, "Autograd")
# For devices to which the extension brings no gradient of its own (csrc/bindings/weight_lists.cpp).
LIBRARY.impl("fake_quant_weights", _one_by_one, "Autograd")

# What callers use -------------------------------------------------------------------------------

_OP = torch.ops.micronet


def fake_quant_per_channel(
    w: Tensor, levels: int, mask: Tensor | None = None, scheme: int = Scheme.AFFINE
) -> Tensor:
    """w [C, ...] masked and rounded, each channel of dimension 0 to the levels of its own range.

    `mask` holds packed bits of w in logical order, 0 where pruned; None keeps all. Gradient: 1
    where kept, else 0. Raises ValueError for sizes, levels or scheme, TypeError for a dtype.
    Source: as `fake_quant_per_tensor`; the range is that of the masked weights now.
    """
    mask = no_mask(w, mask)
    return call_with_gradient("fake_quant_per_channel", w.contiguous(), mask, levels, int(scheme))[
        0
    ]


def _weights_op() -> Callable[..., list[Tensor]]:
    """The operator, by the extension's shorter way to it unless a compiler has to see it."""
    if native.DISPATCH_WEIGHTS is None or torch.compiler.is_compiling():
        return _OP.fake_quant_weights.default
    return native.DISPATCH_WEIGHTS


def fake_quant_weights(
    weights: list[Tensor],
    levels: list[int],
    masks: list[Tensor | None],
    scheme: int = Scheme.AFFINE,
) -> list[Tensor]:
    """`fake_quant_per_channel` of all weights of a network, of one dtype, in one call.

    Raises as that does, and ValueError for lists of different lengths or none.
    """
    bits = [no_mask(w, mask) for w, mask in zip(weights, masks, strict=True)]
    call = _weights_op()
    return call([w.contiguous() for w in weights], bits, levels, int(scheme))


def quantize_per_channel(
    w: Tensor, levels: int, mask: Tensor | None = None, scheme: int = Scheme.AFFINE
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of `fake_quant_per_channel` like w, uint8, scale [C] and zero [C].

    Those of DISTILLER_SYMMETRIC are int8. The value of a code is (code + zero) / scale; NaN has
    code 0 and shows in the scale. Raises as `fake_quant_per_channel`.
    """
    return _OP.quantize_per_channel.default(
        w.detach().contiguous(), no_mask(w, mask), levels, int(scheme)
    )
