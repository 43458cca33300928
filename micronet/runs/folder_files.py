"""The two files of a saved network: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
from torch import Tensor

from micronet.models.shared_layers import weight_key
from micronet.quantization import quantize
from micronet.runs.checkpoint import Checkpoint, write_together
from micronet.runs.description import FORMAT, Description
from micronet.utils.errors import UserError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# The format of a file of packed codes, which is no network to be trained on.
PACKED = "micronet-packed"
_CHECKSUM = "sha256"
# By these a file is known as one of ours, of whatever format.
_OURS = {"format", "architecture", "precision", _CHECKSUM}


def mask_key(layer: str) -> str:
    """Return the name under which the mask of a layer's weight is stored."""
    return f"{weight_key(layer)}_mask"


def is_folder(path: Path) -> bool:
    """Whether a path is a folder that a network was saved in, by the name of its weights."""
    return (path / WEIGHTS).is_file()


def write(folder: Path, tensors: Mapping[str, Tensor], description: Description) -> None:
    """Write both files, each whole or not at all; what else is in the folder stays.

    Args:
        folder: made where it is not there.
        tensors: of the network and its masks, by their names in the file.
        description: of the network.

    Raises:
        UserError: the folder holds a ``config.json`` of something else, or cannot be written to.
    """
    config = folder / CONFIG
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make folder {str(folder)!r}: {error.strerror}") from None
    if config.exists() and not _is_ours(_json(config)):
        raise UserError(f"{str(config)!r} is of something else: save to another folder")
    # The one entry that transformers wants; several would have no fixed order.
    weights = safetensors.torch.save(dict(tensors), metadata={"format": "pt"})
    document = description.to_dict() | {_CHECKSUM: hashlib.sha256(weights).hexdigest()}
    text = json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_together({folder / WEIGHTS: weights, config: text.encode()})


def read(folder: Path) -> Checkpoint:
    """Read both files as a checkpoint, whose header also has the whole ``config``.

    Raises:
        UserError: one is missing, cut short, damaged or not ours, or they are not of one save.
    """
    config = folder / CONFIG
    document = _json(config)
    if isinstance(document, dict) and document.get("format") == PACKED:
        raise UserError(
            f"{str(folder)!r} is a packed network, which is run as it is: micronet.load_packed "
            "reads it; give the run or the saved network that it was exported from"
        )
    if not _is_ours(document):
        raise UserError(f"{str(config)!r} does not describe a network that micronet saved")
    if document["format"] != FORMAT:
        found = document["format"]
        raise UserError(f"{str(config)!r} has format {found!r}, this program reads {FORMAT}")
    said = {key: value for key, value in document.items() if key != _CHECKSUM}
    description = Description.read(said, str(config))
    tensors = _grouped(_tensors(folder / WEIGHTS, document[_CHECKSUM]), description, folder)
    return Checkpoint(tensors, _meta(description) | {"config": document}, folder)


def _json(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text, parse_constant=_refuse)
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{str(path)!r} is damaged: it is not JSON") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _is_ours(document: Any) -> bool:
    return isinstance(document, dict) and document.keys() >= _OURS


def _tensors(path: Path, checksum: object) -> dict[str, Tensor]:
    """Read tensors out of the very bytes that have the checksum."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != checksum:
        raise UserError(
            f"{str(path)!r} is damaged or of another save: its SHA-256 is not the {_CHECKSUM!r} of "
            f"{CONFIG}"
        )
    try:
        # In an order of their names: safetensors has none.
        return dict(sorted(safetensors.torch.load(content).items()))
    except Exception as error:
        # Whoever wrote the file wrote the checksum: it may hold anything, and raise anything.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{str(path)!r} is no safetensors file: {reason}") from None


def _grouped(
    tensors: Mapping[str, Tensor], description: Description, folder: Path
) -> dict[str, Tensor]:
    """Return tensors by the names that a checkpoint gives them, masks apart."""
    masks = {mask_key(layer): layer for layer in description.pruned or ()}
    for named, key in ((masks, "pruned"), (description.tied.values(), "tied")):
        if missing := [name for name in named if name not in tensors]:
            raise UserError(
                f"{str(folder / CONFIG)!r}: {key} wants a tensor {missing[0]!r}, which {WEIGHTS} "
                "does not hold"
            )
    network = {f"model/{name}": value for name, value in tensors.items() if name not in masks}
    return network | {f"mask/{layer}": tensors[name] for name, layer in masks.items()}


def _meta(description: Description) -> dict[str, Any]:
    """Return what a checkpoint's header says; of the data a folder knows nothing."""
    architecture = description.architecture
    return {
        "arch": architecture.arch,
        "num_classes": architecture.num_classes,
        "channels": architecture.channels,
        "image_size": description.image_size,
        "classes": list(description.classes or ()),
        "bits": quantize.bits_to_dict(description.precision),
        "preprocessing": description.preprocessing,
        "data": None,
        "holdout": None,
    }
