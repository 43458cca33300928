"""Operators that move elements and compute nothing: what they do to the axes of their tensors.

By the name of the dispatched operator, so that every spelling of a move meets one rule here. A move
is free unless it reorders positions of an axis, as a channel shuffle does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from micronet.scoring.operations import tensor_axes
from micronet.scoring.operations.tensor_axes import Axes
from micronet.scoring.operations.trace import Trace

# Their elements come from no tensor.
ALLOCATIONS = frozenset(
    "empty empty_strided empty_like zeros zeros_like ones ones_like full full_like arange eye"
    " scalar_tensor new_empty new_empty_strided new_zeros new_ones new_full lift_fresh".split()
)
# They only view their argument in another shape.
RESHAPES = frozenset(["view", "_unsafe_view", "reshape", "_reshape_alias"])
_MATRIX_FUNCTIONS = frozenset(
    "linear matmul __matmul__ __rmatmul__ einsum tensordot bmm mm addmm"
    " scaled_dot_product_attention".split()
)


@dataclass(frozen=True)
class Moved:
    """What a move makes: axes of each result, and what of it is a reordering.

    Attributes:
        axes: of each result.
        shuffled: positions that are put in another order, 0 for none.
        among: positions that they are taken from.
        numel: elements that are reordered.
    """

    axes: Sequence[Axes]
    shuffled: int = 0
    among: int = 0
    numel: int = 0


# Takes the arguments by their names in the operator's schema, the results, and what knows axes;
# returns None where there is no rule.
Move = Callable[[dict[str, Any], list[Tensor], Trace], Moved | None]


def _same(args: dict[str, Any], out: list[Tensor], trace: Trace) -> Moved:
    return Moved([trace.axes(args["self"])])


def _reshape(args: dict[str, Any], out: list[Tensor], trace: Trace) -> Moved:
    before = trace.axes(args["self"])
    after = tensor_axes.reshape(before, out[0].shape)
    # To multiply matrices torch merges dimensions, and splits them again afterwards.
    if getattr(trace.function, "__name__", "") in _MATRIX_FUNCTIONS:
        return Moved([after])
    settled, shuffled = tensor_axes.settle(before, after)
    return Moved([settled], shuffled, shuffled, out[0].numel())


def _permute(args: dict[str, Any], out: list[Tensor], trace: Trace) -> Moved:
    rank = out[0].dim()
    order = [d % rank for d in args["dims"]]
    return Moved([tensor_axes.permute(trace.axes(args["self"]), order)])


def _transpose(args: dict[str, Any], out: list[Tensor], trace: Trace) -> Moved:
    order = list(range(out[0].dim()))
    a, b = args.get("dim0", 0), args.get("dim1", -1)
    if order:
        order[a], order[b] = order[b], order[a]
    return Moved([tensor_axes.permute(trace.axes(args["self"]), order)])


def _squeeze(args: dict[str, Any], out: list[Tensor], trace: Trace) -> Moved:
    shape = args["self"].shape
    dims = args.get("dim", range(len(shape)))
    dims = [dims] if isinstance(dims, int) else dims
    gone = {d % len(shape) for d in dims if shape[d] == 1} if shape else set()
    return Moved([tensor_axes.squeeze(trace.axes(args["self"]), sorted(gone))])


def _unsqueeze(args: dict[str, Any], out: list[Tensor], trace: Trace) -> Moved:
    return Moved([tensor_axes.unsqueeze(trace.axes(args["self"]), args["dim"] % out[0].dim())])


def _expand(args: dict[str, Any], out: list[Tensor], trace: Trace) -> Moved:
    source, shape = args["self"], out[0].shape
    added = len(shape) - source.dim()
    wide = Axes(((),) * added + trace.axes(source).dims, trace.axes(source).taken)
    kept = [d for d, n in enumerate(shape) if d >= added and source.shape[d - added] == n]
    return Moved([tensor_axes.keep(wide, kept, shape)])


def _slice(args: dict[str, Any], out: list[Tensor], trace: Trace) -> Moved:
    dim = args.get("dim", 0) % out[0].dim()
    length = args["self"].shape[dim]
    start, _, step = slice(args.get("start"), args.get("end"), args.get("step", 1)).indices(length)
    cut = tensor_axes.cut(trace.axes(args["self"]), dim, start, out[0].shape[dim], step)
    return Moved([cut])


def _select(args: dict[str, Any], out: list[Tensor], trace: Trace) -> Moved:
    source = args["self"]
    dim = args["dim"] % source.dim()
    cut = tensor_axes.cut(trace.axes(source), dim, args["index"] % source.shape[dim], 1)
    return Moved([tensor_axes.squeeze(cut, [dim])])


def _split(args: dict[str, Any], out: list[Tensor], trace: Trace) -> Moved:
    source = args["self"]
    dim = args.get("dim", 0) % source.dim()
    start, pieces = 0, []
    for piece in out:
        pieces.append(tensor_axes.cut(trace.axes(source), dim, start, piece.shape[dim]))
        start += piece.shape[dim]
    return Moved(pieces)


def _unbind(args: dict[str, Any], out: list[Tensor], trace: Trace) -> Moved:
    dim = args.get("dim", 0) % args["self"].dim()
    cuts = (tensor_axes.cut(trace.axes(args["self"]), dim, i, 1) for i in range(len(out)))
    return Moved([tensor_axes.squeeze(cut, [dim]) for cut in cuts])


def _cat(args: dict[str, Any], out: list[Tensor], trace: Trace) -> Moved:
    dim = args.get("dim", 0) % out[0].dim()
    # An empty tensor of one dimension joins anything.
    tensors = [t for t in args["tensors"] if t.dim() == out[0].dim()]
    pieces = [trace.axes(t) for t in tensors]
    return _join(pieces, dim, [t.shape[dim] for t in tensors], out[0])


def _stack(args: dict[str, Any], out: list[Tensor], trace: Trace) -> Moved:
    dim = args.get("dim", 0) % out[0].dim()
    pieces = [tensor_axes.unsqueeze(trace.axes(t), dim) for t in args["tensors"]]
    return _join(pieces, dim, [1] * len(pieces), out[0])


def _join(pieces: Sequence[Axes], dim: int, sizes: Sequence[int], out: Tensor) -> Moved:
    joined, shuffled = tensor_axes.concatenate(pieces, dim, sizes)
    return Moved([joined], shuffled, shuffled, out.numel() // sum(sizes) * shuffled)


def _pad(args: dict[str, Any], out: list[Tensor], trace: Trace) -> Moved:
    source, shape = args["self"], out[0].shape
    kept = [d for d, n in enumerate(shape) if source.shape[d] == n]
    return Moved([tensor_axes.keep(trace.axes(source), kept, shape)])


def _nearest(args: dict[str, Any], out: list[Tensor], trace: Trace) -> Moved:
    """Each side of an image may be longer; images and channels stay."""
    source: Tensor = args["self"] if "self" in args else args["input"]
    return Moved([tensor_axes.keep(trace.axes(source), [0, 1], out[0].shape)])


def _write(args: dict[str, Any], out: list[Tensor], trace: Trace) -> Moved | None:
    """Blocks are written free where they keep their order, as ``cat`` does it."""
    target, source = trace.axes(args["self"]), trace.axes(args["src"])
    # What torch pads by copies of the other side, it leaves in order between them.
    if getattr(trace.function, "__name__", "") == "pad":
        return Moved([target])
    if any(run.step != 1 for dim in target.dims for run in dim):
        return None
    pairs = [*zip(target.dims[::-1], source.dims[::-1], strict=False)]
    pairs += [(target.taken[-1:], source.taken[-1:])]
    for to, by in pairs:
        if len(to) == len(by) == 1 and not trace.writes_in_order(to[0], by[0]):
            return None
    return Moved([target])


def _restride(args: dict[str, Any], out: list[Tensor], trace: Trace) -> Moved | None:
    """Torch gives a pooled image of channels-last strides its own; others have no rule."""
    known = trace.axes(args["self"])
    sizes = [prod(run.size for run in dim) for dim in known.dims]
    flat = out[0].squeeze()
    return Moved([known]) if sizes == list(out[0].shape) and flat.is_contiguous() else None


def _shuffle(args: dict[str, Any], out: list[Tensor], trace: Trace) -> Moved:
    n, channels, *rest = out[0].shape
    groups = args["groups"]
    split = [n, groups, channels // groups, *rest]
    halves = tensor_axes.reshape(trace.axes(args["self"]), split)
    swapped = tensor_axes.permute(halves, [0, 2, 1, *range(3, len(rest) + 3)])
    after = tensor_axes.reshape(swapped, out[0].shape)
    settled, shuffled = tensor_axes.settle(swapped, after)
    return Moved([settled], shuffled, shuffled, out[0].numel())


def _rearrange(args: dict[str, Any], out: list[Tensor], trace: Trace) -> Moved:
    return Moved([tensor_axes.of_shape(out[0].shape)])


def _index(args: dict[str, Any], out: list[Tensor], trace: Trace) -> Moved | None:
    source = args["self"]
    indices = {d: i for d, i in enumerate(args["indices"]) if i is not None}
    if 0 in indices or any(i.dtype in (torch.bool, torch.uint8) for i in indices.values()):
        return None
    picked = torch.broadcast_shapes(*(i.shape for i in indices.values())).numel()
    among = prod(source.shape[d] for d in indices)
    return Moved([tensor_axes.of_shape(out[0].shape)], picked, among, out[0].numel())


def _index_select(args: dict[str, Any], out: list[Tensor], trace: Trace) -> Moved | None:
    dim = args["dim"] % args["self"].dim()
    return _index({"self": args["self"], "indices": [None] * dim + [args["index"]]}, out, trace)


def _reverse(args: dict[str, Any], out: list[Tensor], trace: Trace) -> Moved | None:
    """``flip`` and ``roll`` reorder each of their dimensions."""
    shape = out[0].shape
    dims = {d % len(shape) for d in args["dims"]}
    if 0 in dims or not dims:
        return None
    positions = prod(shape[d] for d in dims)
    return Moved([tensor_axes.of_shape(shape)], positions, positions, out[0].numel())


MOVES: dict[str, Move] = {
    **dict.fromkeys(["clone", "detach", "alias", "_to_copy", "contiguous"], _same),
    **dict.fromkeys(RESHAPES, _reshape),
    "permute": _permute,
    **dict.fromkeys(["transpose", "t"], _transpose),
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "expand": _expand,
    "slice": _slice,
    "select": _select,
    **dict.fromkeys(["split", "split_with_sizes"], _split),
    "unbind": _unbind,
    "cat": _cat,
    "stack": _stack,
    **dict.fromkeys(["constant_pad_nd", "reflection_pad1d", "reflection_pad2d"], _pad),
    **dict.fromkeys(["replication_pad1d", "replication_pad2d"], _pad),
    **dict.fromkeys((f"upsample_nearest{n}d" for n in (1, 2, 3)), _nearest),
    **dict.fromkeys((f"_upsample_nearest_exact{n}d" for n in (1, 2, 3)), _nearest),
    "copy": _write,
    "as_strided": _restride,
    "channel_shuffle": _shuffle,
    **dict.fromkeys(["pixel_shuffle", "pixel_unshuffle", "im2col", "unfold"], _rearrange),
    "index": _index,
    "index_select": _index_select,
    **dict.fromkeys(["flip", "roll"], _reverse),
}
