"""Where in a foreign file a network's weights are: found by the names and shapes that fit it.

A file is mappings within mappings and lists, and each tensor has a path of all their keys. The
weights are the tensors whose paths are one common beginning and then a name of the network: so
``state_dict``, ``model.backbone`` and ``net`` are all found alike, and none is known by its name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

import torch
from torch import Tensor, nn

from micronet.models.computed_weights import put_together

# What parallel training, compilation, activation checkpointing and Distiller put around modules:
# it stands between a network's names too, and is left out wherever it is.
_WRAPPERS = frozenset(
    ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "wrapped_module")
)
# What Distiller's and our own quantizers, and the auxiliary heads that we leave out, keep beside
# the weights. They are no part of a float network, so a file may hold them.
_SIDE_STATE = re.compile(
    r"(^|\.)(AuxLogits|aux1|aux2|input_quantizer|fake_q)\."
    r"|(^|\.)(ema_decay|iter_count|tracked_(min|max)(_biased)?|weight_step"
    r"|(\w+_)?scale|(\w+_)?zero_point)$"
)
# Batch norms saved before PyTorch 0.4.1 have no such counter, and evaluation needs none.
_COUNTER = "num_batches_tracked"
# Averages of weights, and what else trainers save a network as, the likeliest first.
_AVERAGE = re.compile(r"(^|[._])(ema|swa|avg|average|averaged)([._]|$)")
_USUAL = ("", "state_dict", "model_state_dict", "model", "net", "network", "params", "weights")
_DEEPEST = 32

# The tensors of one mapping of a file, by their paths.
Group = Mapping[str, Tensor]
# Tensors, and their names as they are, by the names that are compared.
_Named = Mapping[str, tuple[str, Tensor]]


@dataclass(frozen=True)
class Candidate:
    """The tensors of a file whose paths begin alike, by the rest of their names.

    ``fitting`` and ``named`` count those with a name and shape, or a name, of the network;
    ``others`` lie beside them in the file, under another beginning.
    """

    place: str
    state: Mapping[str, Tensor] = field(repr=False)
    fitting: int
    named: int
    others: tuple[str, ...]

    @property
    def preference(self) -> tuple[bool, list[int]]:
        """Order candidates that fit equally well: averages, then what a network is saved as."""
        parts = self.place.split(".")
        ranks = [_USUAL.index(part) if part in _USUAL else len(_USUAL) for part in parts]
        return not _AVERAGE.search(self.place.lower()), ranks


def tensor_groups(content: object) -> list[Group]:
    """Return the tensors of each mapping in what a file holds, by their paths."""
    return [
        {f"{path}{name}": _dense(value) for name, value in names.items()}
        for path, names in _mappings(content, "", set())
    ]


def _dense(value: Tensor) -> Tensor:
    return value if value.layout == torch.strided else value.to_dense()


def candidates(groups: Sequence[Group], model: nn.Module) -> list[Candidate]:
    """Return what fits a network best, of equally good ones the preferred first; none if none does.

    Args:
        groups: the tensors of a file.
        model: the network.
    """
    own = model.state_dict()
    leaves = {name.rpartition(".")[2] for name in own}
    transposed = [
        f"{name}.weight" for name, m in model.named_modules() if getattr(m, "transposed", False)
    ]
    whole = [put_together(group, leaves, transposed) for group in groups]
    plain, plain_own = [_without_wrappers(group) for group in whole], _without_wrappers(own)
    # Wrappers stay at first: beside a network in one may lie what is no part of it.
    attempts = [([_named(group) for group in whole], _named(own)), (plain, plain_own)]
    if inner := _inner(plain_own):
        attempts.append((plain, inner))
    closest: list[Candidate] = []
    for tensors, names in attempts:
        found = _best(tensors, names)
        if found and found[0].fitting == needed(own):
            return found
        if found and (not closest or found[0].fitting > closest[0].fitting):
            closest = found
    return closest


def _inner(own: _Named) -> _Named | None:
    """Return a network's names without the module that all of them are in, if there is one.

    A network around another, as in ``self.backbone = resnet18()``, takes the weights of that one.
    """
    first = {name.partition(".")[0] for name in own}
    rest = {name.partition(".")[2]: value for name, value in own.items()}
    if len(first) > 1 or not any("." in name for name in rest):
        return None
    return _inner(rest) or rest


def _best(groups: Sequence[_Named], own: _Named) -> list[Candidate]:
    places: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        for start in {start for path in group for start in _starts(path, own)}:
            places[start].append(index)
    found = []
    for start, indices in places.items():
        tensors = {path: value for i in indices for path, (_, value) in groups[i].items()}
        found.append(_candidate(start, tensors, own))
    best = max(((each.fitting, each.named) for each in found), default=None)
    return sorted(
        (each for each in found if (each.fitting, each.named) == best),
        key=lambda each: each.preference,
    )


def needed(own: Mapping[str, Tensor]) -> int:
    """Return how many tensors of a network's state a file must hold."""
    return sum(not name.endswith(_COUNTER) for name in own)


def fits(value: Tensor, wanted: Tensor) -> bool:
    """Whether a tensor may take the place of another: of its shape, and floats for floats."""
    return (
        value.shape == wanted.shape
        and value.is_floating_point() == wanted.is_floating_point()
        and value.is_complex() == wanted.is_complex()
    )


def _candidate(start: str, tensors: Group, own: _Named) -> Candidate:
    state = {name: value for name, value in own.values() if name.endswith(_COUNTER)}
    others, fitting, named = [], 0, 0
    for path, value in tensors.items():
        plain = path.removeprefix(start)
        if not path.startswith(start):
            others.append(path)
        elif plain in own:
            name, wanted = own[plain]
            state[name] = value
            named += not name.endswith(_COUNTER)
            fitting += not name.endswith(_COUNTER) and fits(value, wanted)
        elif not (_SIDE_STATE.search(plain) or _is_mask_of_bits(plain, value)):
            state[plain] = value
    return Candidate(_plain(start.removesuffix(".")), state, fitting, named, tuple(others))


def _is_mask_of_bits(name: str, value: Tensor) -> bool:
    """Whether a tensor is a mask as our folders have it, of a weight that is zero where it says."""
    leaf = name.rpartition(".")[2]
    return leaf == "weight_mask" and value.dtype == torch.uint8 and value.dim() == 1


def _starts(path: str, names: Mapping[str, object]) -> Iterator[str]:
    """Yield every beginning of a path that a name of the network follows."""
    for end in (0, *(index + 1 for index, sign in enumerate(path) if sign == ".")):
        if path[end:] in names:
            yield path[:end]


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _named(tensors: Mapping[str, Tensor]) -> _Named:
    return {name: (name, value) for name, value in tensors.items()}


def _without_wrappers(tensors: Mapping[str, Tensor]) -> _Named:
    """Return names and tensors by the names without wrappers, or by the whole where two meet."""
    plain = {_plain(name): (name, value) for name, value in tensors.items()}
    return plain if len(plain) == len(tensors) else _named(tensors)


def _mappings(
    content: object, path: str, seen: set[int]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield each mapping of names to tensors, however deep, with its path; each of them once."""
    if id(content) in seen or path.count(".") > _DEEPEST:
        return
    seen.add(id(content))
    if (state := _module_tensors(content)) is not None:
        yield path, state
        return
    items = dict(_items(content))
    if ours := _micronet_state(items):
        yield path, ours
        return
    tensors = {name: value for name, value in items.items() if isinstance(value, Tensor)}
    if tensors and (isinstance(content, Mapping) or _is_pairs(content)):
        yield path, _masters(tensors)
    for name, value in items.items():
        yield from _mappings(value, f"{path}{name}.", seen)


def _items(content: object) -> Iterator[tuple[str, object]]:
    if isinstance(content, Mapping):
        yield from ((str(name), value) for name, value in content.items())
    elif _is_pairs(content):
        yield from content
    elif isinstance(content, list | tuple):
        yield from ((str(index), value) for index, value in enumerate(content))


def _is_pairs(content: object) -> TypeGuard[Sequence[tuple[str, object]]]:
    """Whether content is what ``named_parameters`` and ``items`` give: pairs of name and tensor."""
    return (
        isinstance(content, list | tuple)
        and len(content) > 0
        and all(isinstance(i, tuple) and len(i) == 2 and isinstance(i[0], str) for i in content)
    )


def _micronet_state(items: Mapping[str, object]) -> dict[str, Tensor]:
    """Return of our own checkpoint what was validated: the average where there is one."""
    tensors = {tuple(k.split("/", 1)): v for k, v in items.items() if isinstance(v, Tensor)}
    state = {key[1]: value for key, value in tensors.items() if key[0] == "model" and key[1:]}
    average = {key[1]: value for key, value in tensors.items() if key[0] == "average" and key[1:]}
    return state | average


def _module_tensors(content: object) -> dict[str, Tensor] | None:
    """Return the parameters and buffers of a pickled module, None for anything else."""
    attributes = getattr(content, "pickled_state", None)
    if not isinstance(attributes, Mapping) or "_parameters" not in attributes:
        return None
    return dict(_of_module(attributes, "", 0))


def _of_module(
    attributes: Mapping[str, object], start: str, depth: int
) -> Iterator[tuple[str, Tensor]]:
    unsaved = attributes.get("_non_persistent_buffers_set")
    left_out = unsaved if isinstance(unsaved, set) else set()
    for kind in ("_parameters", "_buffers"):
        for name, value in _items(attributes.get(kind)):
            if isinstance(value, Tensor) and name not in left_out:
                yield f"{start}{name}", value
    for name, module in _items(attributes.get("_modules")):
        inner = getattr(module, "pickled_state", None)
        if isinstance(inner, Mapping) and depth < _DEEPEST:
            yield from _of_module(inner, f"{start}{name}.", depth + 1)


def _masters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Prefer the float weights that Distiller keeps to the quantized ones beside them."""
    result: dict[str, Tensor] = {}
    depth: dict[str, int] = {}
    for name, value in tensors.items():
        start, dot, leaf = name.rpartition(".")
        plain = re.sub(r"^(float_)+", "", leaf)
        floats, plain = len(leaf) - len(plain), f"{start}{dot}{plain}"
        # A resumed run of Distiller nests: the master of the master is the one that was trained.
        if floats >= depth.get(plain, 0):
            result[plain], depth[plain] = value, floats
    return result
