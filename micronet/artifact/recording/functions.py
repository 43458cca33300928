"""The functions of torch that the format has nodes for, in the spellings that networks use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair
from torch.utils._pytree import tree_leaves

import micronet_kernels as kernels
from micronet.artifact.format.nodes import INEXACT
from micronet.artifact.recording.steps import Notes

_Arguments = dict[str, Any]
# Notes a call by its arguments by name, its result, and what its input was before.
_Handler = Callable[[Notes, _Arguments, Any], None]


def note(
    notes: Notes, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Call a function, note what it did to tensors of the image, and return its result.

    Raises:
        UserError: the format has no node for it.
    """
    given = [x for x in tree_leaves((args, kwargs)) if notes.follows(x)]
    name = getattr(func, "__name__", str(func))
    if given and name in _READERS:
        raise notes.refusal(f"what it computes depends on values that it reads by {name}")
    found = _TABLE.get(func)
    if found is None:
        result = func(*args, **kwargs)
        if given and any(isinstance(x, Tensor) for x in tree_leaves(result)):
            raise notes.refusal(f"the format has no node for {name}")
        return result
    if not given:
        return func(*args, **kwargs)
    names, handler = found
    spelled = {names[0] if k in _FIRST else _SPELLINGS.get(k, k): v for k, v in kwargs.items()}
    bound = dict(zip(names, args, strict=False)) | spelled
    bound["is_block"] = _is_ungated_block(bound.get(names[0]))
    result = func(*args, **kwargs)
    try:
        handler(notes, bound, result)
    except _Unlike as error:
        raise notes.refusal(f"the format has no node for {name} {error}") from None
    return result


class _Unlike(ValueError):
    """A call of another kind than the format's, in words that follow the function's name."""


# Names of first parameters, and others' that differ from the table's.
_FIRST = {"input", "self", "tensors"}
_SPELLINGS = {"output_size": "size", "min_val": "low", "max_val": "high", "axis": "dim"}


# What makes Python's numbers of values, on which control flow may depend.
_READERS = {
    *("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "equal"),
    *("allclose", "nonzero", "__array__"),
}


def _is_ungated_block(x: Any) -> bool:
    block = x.block() if isinstance(x, kernels.LazyTensor) else None
    return block is not None and block.gate is None


def _identity(notes: Notes, given: _Arguments, result: Any) -> None:
    x = given["x"]
    if given.get("training") or result.dtype != torch.float32 or result.shape != x.shape:
        raise _Unlike("that changes its input")
    notes.alias(result, x)


def _norm(notes: Notes, given: _Arguments, result: Any) -> None:
    block = result.block() if isinstance(result, kernels.LazyTensor) else None
    if given.get("training") or block is None or not block.is_normalized:
        raise _Unlike("that follows no convolution")
    notes.add("norm", [given["x"]], result, scale=block.scale, shift=block.shift)


def _activation(function: str, is_stated: bool = False) -> _Handler:
    def noted(notes: Notes, given: _Arguments, result: Any) -> None:
        exact = is_stated or function not in INEXACT or isinstance(result, kernels.LazyTensor)
        notes.add("activation", [given["x"]], result, function=function, exact=exact)

    return noted


def _hardtanh(notes: Notes, given: _Arguments, result: Any) -> None:
    if (given.get("low", -1), given.get("high", 1)) != (0, 6):
        raise _Unlike("with other ends than 0 and 6")
    notes.add("activation", [given["x"]], result, function="relu6", exact=True)


def _add(notes: Notes, given: _Arguments, result: Any) -> None:
    x, other = given["x"], given["other"]
    if given.get("alpha", 1) != 1 or not _are_alike(x, other, result):
        raise _Unlike("of other operands than two signals of one shape")
    notes.add("add", [x, other], result)


def _are_alike(*tensors: Any) -> bool:
    return all(isinstance(t, Tensor) and t.shape == tensors[0].shape for t in tensors)


def _multiply(notes: Notes, given: _Arguments, result: Any) -> None:
    for x, factors in ((given["x"], given["other"]), (given["other"], given["x"])):
        if isinstance(factors, Tensor) and _are_alike(x, result):
            of_channels = *x.shape[:2], *(1,) * (x.dim() - 2)
            if factors.shape in (x.shape, of_channels):
                notes.add("gate", [x, factors], result)
                return
    raise _Unlike("of other operands than a signal and its factors")


_POSITIONS = ({2, 3}, {-1, -2}, {2, -1}, {-2, 3})


def _mean(notes: Notes, given: _Arguments, result: Any) -> None:
    dims = given.get("dim")
    whole = isinstance(dims, (tuple, list)) and len(dims) == 2 and set(dims) in _POSITIONS
    if given["x"].dim() != 4 or not whole or given.get("dtype") is not None:
        raise _Unlike("over other axes than all positions")
    _pooled(notes, given, result)


def _average(notes: Notes, given: _Arguments, result: Any) -> None:
    if given["x"].dim() != 4 or tuple(_pair(given["size"])) != (1, 1):
        raise _Unlike("to more than one position")
    _pooled(notes, given, result)


def _pooled(notes: Notes, given: _Arguments, result: Tensor, is_stated: bool = False) -> None:
    # Torch's mean of a tensor that waits is summed in the order of the page, any other is not.
    shape = (*result.shape[:2], 1, 1)
    exact = is_stated or given["is_block"]
    if result.shape == shape:
        notes.add("pool", [given["x"]], result, function="mean", exact=exact)
        return
    pooled = result.view(shape)
    notes.add("pool", [given["x"]], pooled, function="mean", exact=exact)
    notes.add("reshape", [pooled], result, shape=tuple(result.shape[1:]))


def _stated_means(notes: Notes, given: _Arguments, result: Tensor) -> None:
    _pooled(notes, given, result, is_stated=True)


def _overwrite(notes: Notes, given: _Arguments, result: Tensor) -> None:
    source = given["source"]
    if not _are_alike(result, source) or result.dtype != source.dtype:
        raise _Unlike("of another shape or type")
    notes.alias(result, source)


def _max_pool(notes: Notes, given: _Arguments, result: Any) -> None:
    if given["x"].dim() != 4 or given.get("ceil_mode") or given.get("return_indices"):
        raise _Unlike("with windows that are not whole")
    stride = given.get("stride")
    notes.add(
        "pool",
        [given["x"]],
        result,
        function="max",
        exact=True,
        kernel=tuple(_pair(given["kernel_size"])),
        stride=tuple(_pair(given["kernel_size"] if stride in (None, []) else stride)),
        padding=tuple(_pair(given.get("padding", 0))),
        dilation=tuple(_pair(given.get("dilation", 1))),
    )


def _reshape(notes: Notes, given: _Arguments, result: Any) -> None:
    x = given["x"]
    if not isinstance(result, Tensor) or len(result) != len(x) or result.dim() < 2:
        raise _Unlike("across images")
    notes.add("reshape", [x], result, shape=tuple(result.shape[1:]))


def _slice(notes: Notes, given: _Arguments, result: Any) -> None:
    x, index = given["x"], given["index"]
    parts = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(part, slice) for part in parts):
        raise _Unlike("by other things than slices")
    whole = [*parts, *[slice(None)] * (x.dim() - len(parts))]
    ends = [part.indices(n) for part, n in zip(whole, x.shape, strict=True)]
    if ends[0] != (0, len(x), 1) or any(step < 1 for _, _, step in ends) or not result.numel():
        raise _Unlike("across images")
    start, stop, step = zip(*ends[1:], strict=True)
    notes.add("slice", [x], result, start=start, stop=stop, step=step)


def _pad(notes: Notes, given: _Arguments, result: Any) -> None:
    x, pad = given["x"], list(given["pad"])
    is_zeros = given.get("mode", "constant") == "constant" and not given.get("value")
    sides = [(0, 0)] * x.dim()
    for axis, pair in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        sides[-1 - axis] = pair
    if not is_zeros or sides[0] != (0, 0) or any(n < 0 for pair in sides for n in pair):
        raise _Unlike("by other things than zeros around images")
    before, after = zip(*sides[1:], strict=True)
    notes.add("pad", [x], result, before=before, after=after)


def _concat(notes: Notes, given: _Arguments, result: Any) -> None:
    if given.get("dim", 0) not in (1, 1 - result.dim()):
        raise _Unlike("along another axis than the channels")
    notes.add("concat", list(given["x"]), result)


def _entries(names: str, handler: _Handler, *functions: Any) -> dict[Any, Any]:
    """Return entries of the table; a call's keywords are torch's, the first of them ``x``."""
    return {function: (tuple(names.split()), handler) for function in functions}


_T: Any = Tensor
_TABLE: dict[Any, tuple[Sequence[str], _Handler]] = {
    **_entries("x running_mean running_var weight bias training momentum eps", _norm, F.batch_norm),
    **_entries("x", _activation("relu"), F.relu, torch.relu, _T.relu, torch.relu_, _T.relu_),
    **_entries("x", _activation("relu6"), F.relu6),
    **_entries("x low high", _hardtanh, F.hardtanh),
    **_entries("x", _activation("swish"), F.silu),
    **_entries("x", _activation("sigmoid"), torch.sigmoid, _T.sigmoid, F.sigmoid),
    **_entries("x", _activation("sigmoid"), torch.sigmoid_, _T.sigmoid_),
    **_entries("x", _activation("swish", is_stated=True), kernels.swish),
    **_entries("x", _activation("sigmoid", is_stated=True), kernels.sigmoid),
    **_entries("x", _activation("hardswish"), F.hardswish),
    **_entries("x", _activation("hardsigmoid"), F.hardsigmoid),
    **_entries("x other", _add, torch.add, _T.add, _T.add_, _T.__add__, _T.__radd__, _T.__iadd__),
    **_entries("x other", _multiply, torch.mul, torch.multiply, _T.mul, _T.mul_, _T.multiply),
    **_entries("x other", _multiply, _T.__mul__, _T.__rmul__, _T.__imul__),
    **_entries("x size", _average, F.adaptive_avg_pool2d),
    **_entries("x dim keepdim", _mean, torch.mean, _T.mean),
    **_entries("x", _stated_means, kernels.position_means),
    **_entries("x kernel_size stride padding dilation", _max_pool, F.max_pool2d),
    **_entries("x", _reshape, torch.flatten, _T.flatten, _T.view, _T.reshape, torch.reshape),
    **_entries("x", _reshape, torch.squeeze, _T.squeeze, torch.unsqueeze, _T.unsqueeze),
    **_entries("x index", _slice, _T.__getitem__),
    **_entries("x pad mode value", _pad, F.pad),
    **_entries("x dim", _concat, torch.cat, torch.concat),
    **_entries("x source", _overwrite, _T.copy_),
    **_entries("x p training", _identity, F.dropout, F.dropout2d),
    **_entries("x", _identity, _T.contiguous, _T.float, _T.clone, _T.detach, _T.to),
}
