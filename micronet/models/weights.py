"""Weights out of foreign files: plain tensors, and no code of the file is ever run."""

from __future__ import annotations

import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from micronet.models.shared_tensors import under_every_name
from micronet.models.weight_layouts import Candidate, candidates, fits, needed, tensor_groups
from micronet.utils import distributed
from micronet.utils.errors import UserError

_SUFFIXES = (".pth", ".pt", ".pth.tar", ".tar", ".ckpt", ".bin", ".pkl", ".safetensors")

# The functions by which torch rebuilds tensors: they allocate, and call nothing of the file's.
_REBUILDERS: dict[str, Callable[..., Tensor]] = {
    "_rebuild_tensor": torch._utils._rebuild_tensor,
    "_rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "_rebuild_parameter": torch._utils._rebuild_parameter,
}


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Copy the weights in a file of ``_SUFFIXES`` into ``model``.

    They are the tensors whose names and shapes fit the network, wherever in the file they lie and
    whatever their names begin with, be it a state, a checkpoint of any layout, ours included, or a
    pickled module. Weights kept in parts (torch's pruning, weight and spectral norm) are computed;
    Distiller's ``float_weight`` is preferred to the quantized ``weight`` beside it. Of several
    mappings that fit, an average of the weights is preferred, then what trainers usually call a
    network; a note on standard error says which was taken.

    Raises:
        UserError: the file cannot be read, is cut short or damaged, holds no weights, holds several
            networks that fit, or is of another architecture: what fits best is named, and its first
            missing, mismatching or extra tensor.
    """
    own = model.state_dict()
    groups = tensor_groups(_read(Path(path)))
    if not groups:
        raise UserError(f"{str(path)!r} holds no weights: no mapping of names to tensors")
    found = candidates(groups, model)
    if not found:
        largest = [str(name) for name in max(groups, key=len)]
        raise UserError(
            f"the weights in {str(path)!r} are of another architecture: none of its names, "
            f"{largest[0]!r} the first, ends like one of {type(model).__name__}'s, such as "
            f"{next(iter(own), '')!r}"
        )
    chosen = found[0]
    state = under_every_name(own, chosen.state, path)
    if problem := misfit(own, state, type(model).__name__):
        under = f" under {chosen.place!r}" if chosen.place else ""
        raise UserError(
            f"the weights in {str(path)!r}{under} are of another architecture: {problem} "
            f"({chosen.fitting} of {needed(own)} tensors fit)"
        )
    _check_alone(found, path)
    if distributed.is_first():
        for note in _notes(found, path):
            print(f"note: {note}", file=sys.stderr)
    _copy(model, state, path)


def _check_alone(found: Sequence[Candidate], path: str | Path) -> None:
    """Hold a file to one network that is preferred to the others that fit, or is equal to them."""
    for other in found[1:]:
        if other.preference == found[0].preference and _differ(found[0], other):
            raise UserError(
                f"{str(path)!r} holds several networks that fit, {found[0].place!r} and "
                f"{other.place!r}: save one of them alone"
            )


def _differ(first: Candidate, second: Candidate) -> bool:
    pairs = [(value, second.state[n]) for n, value in first.state.items() if n in second.state]
    return any(a.dtype != b.dtype or not torch.equal(a, b) for a, b in pairs)


def _notes(found: Sequence[Candidate], path: str | Path) -> Iterator[str]:
    chosen = found[0]
    if any(_differ(chosen, other) for other in found[1:]):
        places = ", ".join(repr(other.place) for other in found[1:])
        taken = repr(chosen.place) if chosen.place else "the outermost mapping"
        yield f"of {str(path)!r} {taken} is loaded; {places} would fit too"
    if chosen.others:
        stay = "1 tensor beside the weights stays"
        if len(chosen.others) > 1:
            stay = f"{len(chosen.others)} tensors beside the weights stay"
        yield f"of {str(path)!r} {stay}, such as {chosen.others[0]!r}"


def copy_state(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Copy ``state``, which came out of the file ``path``, into a model that it fits exactly.

    Of a tensor that the model has under several names the file may leave out all but one.

    Raises:
        UserError: as ``fitted``.
    """
    _copy(model, fitted(model, state, path), path)


def fitted(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """Return tensors of a file under every name that a model has for them, which they fit exactly.

    Raises:
        UserError: a tensor is missing, extra, or of another shape, the first such is named; or one
            that the model has under several names has several values.
    """
    own = model.state_dict()
    state = under_every_name(own, state, path)
    if problem := misfit(own, state, type(model).__name__):
        raise UserError(f"the weights in {str(path)!r} are of another architecture: {problem}")
    return state


def _copy(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    own: Any = model.state_dict()
    fitting: Any = OrderedDict(state)
    # Modules such as torchvision's MNASNet ask of which version tensors are: they fit this one.
    fitting._metadata = own._metadata
    try:
        model.load_state_dict(fitting)
    except RuntimeError as error:
        # Tensors without data, for example, or of types that torch cannot convert.
        reason = " ".join(str(error).split())
        raise UserError(f"weights {str(path)!r} cannot be copied: {reason}") from None


def misfit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], network: str) -> str | None:
    """Return how ``state`` differs first from a network's ``own`` in name, shape or type, or None.

    Floats of any width fit one another, but no integers: those would be codes of weights.
    """
    for name in [*own, *state]:
        wanted, found = own.get(name), state.get(name)
        if wanted is None or found is None or not fits(found, wanted):
            others = (f", which has {other!r}" for other in state if other not in own)
            there = next(others, "") if found is None else ""
            is_there, is_here = _described(found, wanted), _described(wanted, found)
            return f"{name!r} is {is_there} there{there} and {is_here} in {network}"
    return None


def _described(tensor: Tensor | None, other: Tensor | None) -> str:
    """Return a tensor's shape, or its type where the shapes are the same."""
    if tensor is None:
        return "absent"
    same = other is not None and tensor.shape == other.shape
    return str(tensor.dtype) if same else str(tuple(tensor.shape))


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
        if "TorchScript" in reason:
            raise UserError(
                f"weights {str(path)!r} are a TorchScript program, which would have to be run: "
                "save its state_dict() instead"
            ) from None
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
        if (module, name) in (("builtins", "set"), ("__builtin__", "set")):
            return set
        # A new type each time, so that a file cannot make one object meddle with another.
        return type(name, (_Inert,), {})


def _sealed(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    # A pickle may set attributes on what it finds; this one is thrown away with the file.
    return lambda *args: function(*args)


class _Inert:
    """Stands for any class or function of a pickle: takes everything and does nothing.

    ``pickled_state`` is kept: of a pickled module it holds the tensors.
    """

    pickled_state: object = None

    def __new__(cls, *args: object, **kwargs: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Accept any arguments."""

    def __call__(self, *args: object, **kwargs: object) -> _Inert:
        """Be called, as a method found by ``getattr`` would."""
        return self

    def __setstate__(self, state: object) -> None:
        """Accept any state."""
        self.pickled_state = state

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
