"""A network as a folder, ``config.json`` and ``model.safetensors``, as the Hugging Face Hub has it.

    save(compression, "resnet20-w4a4", image_size=32, classes=names)
    model = load("resnet20-w4a4").model

The format is that of the page "A network as a folder".
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from micronet.compression.compression import Compression
from micronet.compression.plan import CompressionPlan
from micronet.data.preprocessing import of_record, statistics_of_record
from micronet.models import architectures, custom
from micronet.models.architectures import Created
from micronet.models.failures import failures_of
from micronet.models.shared_layers import kept_name_of
from micronet.pruning.prune import Masks
from micronet.quantization import quantize
from micronet.quantization.images.moments import check_moments, moments_of
from micronet.quantization.quantize import LayerBits
from micronet.recipe.reader import Recipe, recipe_to_dict
from micronet.runs import directory, folder_files, stored_state
from micronet.runs.checkpoint import Checkpoint
from micronet.runs.description import FORMAT, Architecture, Description, about_images, versions
from micronet.runs.directory import RunDirectory
from micronet.runs.likeness import check_alike
from micronet.utils.errors import UserError


@dataclass(frozen=True)
class Loaded:
    """What ``load`` returns.

    Attributes:
        model: the network in evaluation mode, its quantized layers in place.
        compression: of that network, which keeps its zeros and its precision while it is trained
            on and asks for nothing more; ``compress`` gives the network a recipe instead.
        config: what ``config.json`` says, as plain data.
    """

    model: nn.Module
    compression: Compression
    config: dict[str, Any]


@dataclass(frozen=True)
class _Subject:
    """What is saved: a network, its masks, the average of its weights, and what is known of it."""

    model: nn.Module
    masks: Masks
    average: Mapping[str, Tensor] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


def save(
    network: nn.Module | Compression | Loaded,
    folder: str | Path,
    *,
    arch: str | None = None,
    recipe: Recipe | Mapping[str, Any] | None = None,
    image_size: int | None = None,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> None:
    """Write a network into a folder, both files whole or neither.

    Tensors are those of ``state_dict()`` under their own names, one of several names once. Of a
    compression that averages its weights the average is saved, which is what ``averaged`` lets a
    user evaluate; the weights that training goes on with are a checkpoint's.

    Args:
        network: any network, or one with what is known of it. What DataParallel and torch.compile
            put around it is left out.
        folder: made where it is not there; other files in it stay.
        arch: name of the architecture; needed where something else than ``create_model`` made the
            network. Without one, ``load`` asks for a fresh network of the same class.
        recipe: by which it was trained, for the reader; a compression's own by default.
        image_size: side in pixels of the images that it takes.
        classes: their names, in the order of the logits.
        mean: of each channel of the pixels in [0, 1], with which images are normalized.
        std: the standard deviation that goes with it.

    Raises:
        UserError: the network is not of the architecture, holds what cannot be stored or computed
            with, or the folder cannot be written to or holds a ``config.json`` of something else.
    """
    subject, folder = _subject(network), _path(folder)
    given = {
        "recipe": recipe_to_dict(recipe) if isinstance(recipe, Recipe) else recipe,
        "image_size": image_size,
        "classes": None if classes is None else _listed("classes", classes),
        "normalization": _normalization(mean, std),
    }
    about = {key: subject.config.get(key) if v is None else v for key, v in given.items()}
    about["resize"] = subject.config.get("resize") if mean is None else None
    state, tied = _state(subject)
    created = _created(subject.model, arch, state)
    description = _description(subject, created, tied, about, "save")
    masks = {folder_files.mask_key(name): bits for name, bits in subject.masks.bits.items()}
    if taken := sorted(masks.keys() & state.keys()):
        raise UserError(f"the network has a tensor {taken[0]!r} already, a mask's name")
    with failures_of(f"{type(subject.model).__name__} cannot be saved"):
        tensors = {name: _stored(value) for name, value in (state | masks).items()}
        folder_files.write(folder, tensors, description)


def _subject(network: nn.Module | Compression | Loaded) -> _Subject:
    if isinstance(network, Loaded):
        of = _subject(network.compression)
        return _Subject(of.model, of.masks, of.average, network.config)
    if isinstance(network, Compression):
        known = {} if network.recipe is None else {"recipe": recipe_to_dict(network.recipe)}
        return _Subject(network.model, network.masks, network.average.tensors, known)
    if not isinstance(network, nn.Module):
        raise UserError(f"save takes a torch network, not {type(network).__name__}")
    model = custom.innermost(network)
    return _Subject(model, Masks.of(model))


def _normalization(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> dict[str, Any] | None:
    if (mean is None) != (std is None):
        raise UserError("save takes mean and std together")
    if mean is None or std is None:
        return None
    return {"mean": _listed("mean", mean), "std": _listed("std", std)}


def _listed(name: str, values: Any) -> list[Any]:
    """Return values as plain data; one text would count as one for each letter."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UserError(f"save takes {name} as a list, not {values!r}")
    # As tensors and arrays give their numbers.
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _path(folder: str | Path) -> Path:
    if not isinstance(folder, (str, os.PathLike)):
        raise UserError(f"a folder is a path, not {folder!r}")
    return Path(folder)


def _state(subject: _Subject) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a network's tensors, each once, and by its other names the one that it has there."""
    kind = type(subject.model).__name__
    with failures_of(f"{kind} cannot be saved"):
        whole = subject.model.state_dict()
    for name, value in whole.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"{kind} keeps {name!r} ({type(value).__name__}), but a file holds tensors alone"
            )
        if value.is_meta:
            raise UserError(f"{kind} has no values in {name!r}, which is on the meta device")
    kept = kept_name_of(subject.model, whole)
    state = {name: value for name, value in whole.items() if kept[name] == name}
    state = directory.with_average(subject.model, state, subject.average)
    every = {name: state[kept[name]] for name in whole}
    stored_state.check(subject.model, every, subject.masks)
    return state, {name: first for name, first in kept.items() if name != first}


def _created(model: nn.Module, arch: str | None, state: Mapping[str, Tensor]) -> Created | None:
    """Return what creates a network whose tensors these are, None where that is not known.

    Raises:
        UserError: it is not of the architecture that it is said to be of.
    """
    bits = quantize.precision_of(model)
    made = architectures.created_as(model) if arch is None else Created(arch, *_ends(model))
    if made is None:
        return None
    try:
        structure = stored_state.structure_of(made, bits, state, type(model).__name__)
        if structure is not None:
            check_alike(model, structure)
    except UserError as error:
        # It was changed since, so that nothing creates it as it is now.
        if arch is None:
            return None
        ends = f"{made.num_classes} classes and {made.channels} channels"
        raise UserError(f"the network is no {arch} of {ends}: {error}") from None
    return made


def _description(
    subject: _Subject,
    created: Created | None,
    tied: Mapping[str, str],
    about: Mapping[str, Any],
    path: str,
) -> Description:
    """Describe a network; ``about`` is what it does not say of itself."""
    bits = quantize.precision_of(subject.model)
    about = {**about, "normalization": _known_normalization(bits, about["normalization"], path)}
    document = {
        "format": FORMAT,
        "architecture": vars(Architecture.of(created)),
        "precision": quantize.bits_to_dict(bits),
        "pruned": sorted(subject.masks.bits) or None,
        "tied": dict(tied),
        "versions": versions(),
        **about,
    }
    return Description.read(document, path)


def _known_normalization(
    bits: Mapping[str, LayerBits], given: Mapping[str, Any] | None, path: str
) -> Mapping[str, Any] | None:
    """Return how images are normalized: as given, which a layer that reads them holds it to."""
    own = moments_of(bits)
    if own is None:
        return given
    if given is not None:
        moments = tuple(given["mean"]), tuple(given["std"])
        check_moments(bits, moments, path)
    return {"mean": list(own[0]), "std": list(own[1])}


def _ends(model: nn.Module) -> tuple[int, int]:
    """Return how many classes a network's last layer tells apart, and its images' channels."""
    layers = architectures.layers(model)
    first = layers[architectures.stem_name(model)]
    last = layers[architectures.classifier_name(model)]
    outputs = last.out_features if isinstance(last, nn.Linear) else last.out_channels
    inputs = first.in_features if isinstance(first, nn.Linear) else first.in_channels
    return outputs, inputs


def _stored(tensor: Tensor) -> Tensor:
    """Return a tensor with memory of its own, in logical order."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def load(folder: str | Path, *, model: nn.Module | None = None, own: bool = False) -> Loaded:
    """Return the network of a folder, or the best of a run directory or checkpoint.

    No code of the folder is run. It is read onto the CPU.

    Args:
        folder: that ``save`` wrote, or a run's.
        model: a fresh network in float to load into, which becomes the one that is returned; it is
            not to be used after a refusal. Needed where the folder does not know how to create it.
        own: call ``module:function`` of your own, where the folder names such an architecture.

    Raises:
        UserError: there is no such folder, something in it is missing, damaged or of another
            network, or the network cannot be created from it alone.
    """
    folder = _path(folder)
    found = directory.read(folder)
    arch = found.meta.get("arch")
    if model is not None:
        _check_fresh(model)
    elif custom.is_own(arch):
        if not own:
            raise UserError(
                f"{str(found.path)!r} names {arch!r}, code of your own, which a file may not "
                "start: give load(own=True) to call it, or load(model=...)"
            )
        custom.allow(arch)
    run = directory.rebuilt(found, model=model)
    bits = quantize.precision_of(run.model)
    compression = Compression(
        run.model, CompressionPlan(bits=bits), masks=Masks(run.masks), bits=bits
    )
    if folder_files.is_folder(folder):
        return Loaded(run.model, compression, found.meta["config"])
    subject = _subject(compression)
    return Loaded(run.model, compression, _config_of_run(folder, found, subject))


def _check_fresh(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise UserError(f"load takes a torch network as model, not {type(model).__name__}")
    if quantize.precision_of(model) or Masks.of(model).bits:
        raise UserError("load takes a fresh model in float, and this one is compressed already")


def _config_of_run(path: Path, found: Checkpoint, subject: _Subject) -> dict[str, Any]:
    """Return what the folder of a run's network would say of it."""
    run = RunDirectory(path)
    about = {
        "recipe": run.config()["recipe"] if run.config_file.is_file() else None,
        "image_size": found.meta.get("image_size"),
        "classes": found.meta.get("classes") or None,
        **about_images(
            of_record(found.meta, found.path), statistics_of_record(found.meta, found.path)
        ),
    }
    created = architectures.created_as(subject.model)
    return _description(subject, created, {}, about, str(found.path)).to_dict()
