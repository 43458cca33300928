"""The functions of torch that a lazy tensor takes without being computed, and their parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Call:
    """How a function is called.

    Attributes:
        method: what it means for a block.
        names: its parameters in their order, by the names of the method's.
        spellings: other names that it takes them by.
        ignored: parameters that mean nothing here.
    """

    method: str
    names: tuple[str, ...]
    spellings: Mapping[str, str]
    ignored: frozenset[str] = frozenset()

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the method's arguments; None where there are others, such as `out`."""
        if len(args) > len(self.names):
            return None
        bound = dict(zip(self.names, args, strict=False))
        for spelled, value in kwargs.items():
            if value is None and spelled in ("dtype", "out"):
                continue
            name = self.spellings.get(spelled, spelled)
            if name not in self.names or name in bound:
                return None
            bound[name] = value
        return {name: value for name, value in bound.items() if name not in self.ignored}


def _call(method: str, names: str, *ignored: str, **spellings: str) -> Call:
    """A call of parameters that stand apart by blanks; the first is called `x` by the method."""
    first, *rest = names.split()
    return Call(method, ("x", *rest), {first: "x", **spellings}, frozenset(ignored))


_NORM = "running_mean running_var weight bias training momentum eps"
_RAW_NORM = "weight bias running_mean running_var training momentum eps cudnn_enabled"

TABLE: dict[Any, Call] = {
    F.batch_norm: _call("normalize", f"input {_NORM}"),
    torch.batch_norm: _call("normalize", f"input {_RAW_NORM}", "cudnn_enabled"),
    F.adaptive_avg_pool2d: _call("average", "input output_size"),
    torch.mean: _call("mean", "input dim keepdim", axis="dim"),
    Tensor.mean: _call("mean", "self dim keepdim", axis="dim"),
    F.relu: _call("relu", "input inplace"),
    torch.relu: _call("relu", "input"),
    Tensor.relu: _call("relu", "self"),
    torch.relu_: _call("relu_", "input"),
    Tensor.relu_: _call("relu_", "self"),
    F.silu: _call("silu", "input inplace"),
    torch.sigmoid: _call("sigmoid", "input"),
    Tensor.sigmoid: _call("sigmoid", "self"),
    F.sigmoid: _call("sigmoid", "input"),
    torch.sigmoid_: _call("sigmoid_", "input"),
    Tensor.sigmoid_: _call("sigmoid_", "self"),
    torch.mul: _call("multiply", "input other"),
    torch.multiply: _call("multiply", "input other"),
    Tensor.mul: _call("multiply", "self other"),
    Tensor.multiply: _call("multiply", "self other"),
    Tensor.__mul__: _call("multiply", "self other"),
    Tensor.__rmul__: _call("multiply", "self other"),
}
