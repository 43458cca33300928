"""Layers under several names, and layers that hold one weight between them.

A module that its network registers twice is one layer, which goes by its first name. Two modules
may hold one weight: it is pruned by one mask, rounded in one way and stored once, under the name of
the first of them, the weight's owner.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from micronet.models import architectures
from micronet.models.shared_tensors import first_names, overlapping
from micronet.utils.errors import UserError


def all_names(model: nn.Module) -> dict[str, list[str]]:
    """Return every name of each convolution and linear layer, by its first, in module order."""
    layers = architectures.layers(model)
    first = {layer: name for name, layer in layers.items()}
    found: dict[str, list[str]] = {name: [] for name in layers}
    for name, module in model.named_modules(remove_duplicate=False):
        if module in first:
            found[first[module]].append(name)
    return found


def label(names: Iterable[str]) -> str:
    """Return a layer's names as text: the first, and the others behind it."""
    first, *others = names
    return f"{first} (= {', '.join(others)})" if others else first


def owners(model: nn.Module) -> dict[str, str]:
    """Return for each layer the first one that holds the same weight, in module order.

    A weight that is computed is its layer's own.
    """
    layers = architectures.layers(model)
    held = {name: layer._parameters.get("weight") for name, layer in layers.items()}
    first = first_names({name: weight for name, weight in held.items() if weight is not None})
    return {name: first.get(name, name) for name in layers}


def holders(model: nn.Module) -> dict[str, list[str]]:
    """Return the layers that hold each weight, by its owner."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, owner in owners(model).items():
        found[owner].append(name)
    return dict(found)


def weight_names(model: nn.Module) -> dict[str, list[str]]:
    """Return every name of the layers that hold each weight, by its owner."""
    names = all_names(model)
    return {owner: [n for h in held for n in names[h]] for owner, held in holders(model).items()}


def weight_key(layer: str) -> str:
    """Return the name of a layer's weight among the parameters of its network."""
    return f"{layer}.weight" if layer else "weight"


def kept_names(model: nn.Module, tensors: Mapping[str, Tensor]) -> set[str]:
    """Return the names under which tensors of a network are kept once each."""
    return set(kept_name_of(model, tensors).values())


def kept_name_of(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return, for every name of a network's tensors, the one under which the tensor is kept.

    Of a weight it is the one that its owner gives it, else the first.
    """
    weights = [weight_key(owner) for owner in owners(model)]
    ordered = {key: tensors[key] for key in weights if key in tensors} | dict(tensors)
    return first_names(ordered)


def check_memory(model: nn.Module, where: str = "") -> None:
    """Hold parameters to lying apart in memory, unless they are the same.

    Raises:
        UserError: two overlap otherwise, as a matrix and its transpose do.
    """
    if pair := overlapping(dict(model.named_parameters(remove_duplicate=False))):
        raise UserError(
            f"{where}parameters {pair[0]!r} and {pair[1]!r} overlap in memory without being the "
            "same tensor, which moving a network would undo: give both places one Parameter, or "
            "each its own"
        )


def check_pruned(model: nn.Module, owner: str, structure: str, where: str = "") -> None:
    """Hold the layers that hold a weight to agreeing on its outputs, where pieces depend on them.

    Raises:
        UserError: they do not: the outputs of one are the inputs of the other.
    """
    layers = architectures.layers(model)
    first, *others = holders(model)[owner]
    for other in others:
        if structure != "element" and _layout(layers[first]) != _layout(layers[other]):
            raise UserError(
                f"{where}layers {first!r} and {other!r} hold one weight, but what are outputs to "
                f"one are not to the other: it cannot be pruned by {structure!r}"
            )


def _layout(layer: nn.Module) -> int:
    """Return how a weight's outputs lie: in front (0), or inside so many groups of inputs."""
    return layer.groups if isinstance(layer, _ConvTransposeNd) else 0
