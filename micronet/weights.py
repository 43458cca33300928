"""Weights out of foreign files: plain tensors, and no code of the file is ever run."""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from micronet.errors import UserError
from micronet.shared_tensors import under_every_name

_SUFFIXES = (".pth", ".pt", ".pth.tar", ".safetensors")

# What Distiller's and our own quantisers, and the auxiliary heads that we leave out, keep beside
# the weights. They are no part of a float network, so a file may hold them.
_SIDE_STATE = re.compile(
    r"(^|\.)(AuxLogits|aux1|aux2|input_quantizer|fake_q)\."
    r"|(^|\.)(ema_decay|iter_count|tracked_(min|max)(_biased)?|weight_step"
    r"|(\w+_)?scale|(\w+_)?zero_point)$"
)

# The functions by which torch rebuilds tensors: they allocate, and call nothing of the file's.
_REBUILDERS: dict[str, Callable[..., Tensor]] = {
    "_rebuild_tensor": torch._utils._rebuild_tensor,
    "_rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "_rebuild_parameter": torch._utils._rebuild_parameter,
}


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Copy the weights in a .pth, .pt, .pth.tar or .safetensors file into ``model``.

    The state may lie below ``state_dict`` or ``model``, or be a micronet checkpoint; ``module.``
    prefixes of parallel training go, and Distiller's ``float_weight`` is preferred to the
    quantised ``weight`` beside it.

    Raises:
        UserError: the file cannot be read, is cut short or damaged, holds no weights, or is of
            another architecture (the first missing, mismatching or extra tensor is named).
    """
    own = model.state_dict()
    state = _canonical(_state_dict(_read(Path(path)), path))
    # Batch norms saved before PyTorch 0.4.1 have no such counter, and evaluation needs none.
    state = {name: own[name] for name in own if name.endswith("num_batches_tracked")} | state
    state = {n: value for n, value in state.items() if n in own or not _SIDE_STATE.search(n)}
    copy_state(model, state, path)


def copy_state(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Copy ``state``, which came out of the file ``path``, into a model that it fits exactly.

    Of a tensor that the model has under several names the file may leave out all but one.

    Raises:
        UserError: a tensor is missing, extra, or of another shape, the first such is named; or one
            that the model has under several names has several values.
    """
    own = model.state_dict()
    state = under_every_name(own, state, path)
    for name in [*own, *state]:
        wanted = tuple(own[name].shape) if name in own else "absent"
        found = tuple(state[name].shape) if name in state else "absent"
        if wanted != found:
            raise UserError(
                f"the weights in {str(path)!r} are of another architecture: "
                f"{name!r} is {found} there and {wanted} in {type(model).__name__}"
            )
    model.load_state_dict(state)


def _read(path: Path) -> object:
    if not path.name.endswith(_SUFFIXES):
        kinds = ", ".join(_SUFFIXES)
        raise UserError(f"weights {str(path)!r} are of no known kind ({kinds})")
    if not path.is_file():
        raise UserError(f"there is no weights file {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return _unpickle(path)
    except Exception as error:
        # A damaged pickle can raise anything at all; the file is at fault whatever it raises.
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"weights {str(path)!r} cannot be read, cut short or damaged: {reason}"
        ) from None


def _unpickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # It names a class, as Distiller's do; or it is damaged, and fails again.
        return torch.load(
            path, map_location="cpu", weights_only=False, pickle_module=_RestrictedPickle
        )


class _Unpickler(pickle.Unpickler):
    """Knows tensors and containers; everything else becomes an object that does nothing."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in _REBUILDERS:
            return _sealed(_REBUILDERS[name])
        if module == "torch" and name == "Size":
            return torch.Size
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        # A new type each time, so that a file cannot make one object meddle with another.
        return type(name, (_Inert,), {})


def _sealed(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    # A pickle may set attributes on what it finds; this one is thrown away with the file.
    return lambda *args: function(*args)


class _Inert:
    """Stands for any class or function of a pickle: takes everything, keeps and does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Accept any arguments."""

    def __call__(self, *args: object, **kwargs: object) -> _Inert:
        """Be called, as a method found by ``getattr`` would."""
        return self

    def __setstate__(self, state: object) -> None:
        """Accept any state."""

    def __setitem__(self, key: object, value: object) -> None:
        """Accept any item, as subclasses of dict are restored."""

    def append(self, item: object) -> None:
        """Accept any item, as subclasses of list are restored."""

    def extend(self, items: object) -> None:
        """Accept any items, as subclasses of list are restored."""

    def add(self, item: object) -> None:
        """Accept any item, as subclasses of set are restored."""

    def __hash__(self) -> int:
        """Be usable as a key."""
        return id(self)


class _RestrictedPickle:
    """What ``torch.load`` needs of a pickle module."""

    Unpickler = _Unpickler

    @staticmethod
    def load(file: IO[bytes], *, encoding: str) -> object:
        """Read one object, as ``pickle.load``."""
        return _Unpickler(file, encoding=encoding).load()


def _state_dict(found: object, path: str | Path) -> Mapping[str, Tensor]:
    """Return the mapping of names to tensors inside what a file holds."""
    while isinstance(found, Mapping):
        tensors = {key: value for key, value in found.items() if isinstance(value, Tensor)}
        # Of our own checkpoints the network that was validated: the average where there is one.
        named = {str(key).partition("/"): value for key, value in tensors.items()}
        ours = {key[2]: value for key, value in named.items() if key[0] == "model"}
        ours |= {key[2]: value for key, value in named.items() if key[0] == "average"}
        inner = [found[key] for key in ("state_dict", "model") if key in found]
        if ours or (tensors and not inner):
            return ours or tensors
        found = inner[0] if inner else None
    raise UserError(f"{str(path)!r} holds no weights: no mapping of names to tensors")


def _canonical(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo the names that parallel training and Distiller's quantisers give."""
    result: dict[str, Tensor] = {}
    depth: dict[str, int] = {}
    for key, value in state.items():
        parts = re.sub(r"^(module\.)+", "", str(key)).split(".")
        leaf = re.sub(r"^(float_)+", "", parts[-1])
        floats = len(parts[-1]) - len(leaf)
        parts[-1] = leaf
        name = ".".join(part for part in parts if part != "wrapped_module")
        # A resumed Distiller run nests: the master of the master is the one that was trained.
        if floats >= depth.get(name, 0):
            result[name], depth[name] = value, floats
    return result
