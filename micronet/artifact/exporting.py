"""A compressed network as a folder: packed, as ONNX or QONNX, or as a plain state dict."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from micronet.artifact import state_dict, writer
from micronet.artifact.format import container
from micronet.artifact.format.document import About
from micronet.artifact.format.packing import WHOLE
from micronet.artifact.reader import FILE, Packed, from_content, is_packed, network_of
from micronet.models import custom
from micronet.runs.checkpoint import write_together
from micronet.utils.errors import UserError, nearest

CONFIG, ONNX_FILE = "config.json", "model.onnx"
PACKED, ONNX, QONNX, TORCH = "packed", "onnx", "qonnx", "torch"
FORMATS = (PACKED, ONNX, QONNX, TORCH)


def export(
    model: nn.Module,
    folder: str | Path,
    *,
    image_size: int,
    channels: int = 3,
    arch: str | None = None,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    format: str = PACKED,
    onnx_int8: bool = False,
    packing: str = WHOLE,
) -> Packed | Path:
    """Write a compressed network into a folder, in a format of ours or of other programs.

    Files are written beside those that are there and renamed, and are the same bytes each time. A
    packed file is read again before it is kept, and has to give the network's logits bit for bit;
    ONNX and QONNX are made of such a file. The page "Other formats" says what each keeps.

    Args:
        model: with quantized layers; it is evaluated, and each module's mode is restored.
        folder: made where it is not there.
        image_size: side in pixels of the images that it takes.
        channels: of the images.
        arch: what the network is, for the reader.
        classes: their names, in the order of the logits.
        mean: of each channel of the pixels in [0, 1], with which images are normalized.
        std: the standard deviation that goes with it.
        format: ``packed``, one file of the bits that are counted, ``model.safetensors``; ``onnx``,
            pairs of QuantizeLinear and DequantizeLinear, ``model.onnx``; ``qonnx``, nodes ``Quant``
            of QONNX, ``model.onnx``; ``torch``, float32 weights under the names of the network's
            own code, ``model.safetensors``. A ``config.json`` lies beside those of safetensors.
        onnx_int8: of ``onnx``: 8-bit types alone, for engines without types of 4 bits.
        packing: of the weights of ``packed``: "whole" bits for each code as the score counts them,
            or "radix", groups of codes as one number, which takes less where levels are no power of
            two.

    Returns:
        The packed file as it was read again; of other formats the path of the file.

    Raises:
        UserError: nothing in the network is quantized, a quantizer has seen no data, it computes
            with what the format has no node for, the package ``onnx`` is missing, the folder cannot
            be written to, or ``mean`` and ``std`` are not those of each channel.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"export takes a torch network, not {type(model).__name__}")
    check_format(format, onnx_int8, packing)
    model, folder = custom.innermost(model), Path(folder)
    about = About(
        arch or type(model).__name__,
        None if classes is None else tuple(classes),
        None if mean is None else tuple(map(float, mean)),
        None if std is None else tuple(map(float, std)),
    )
    _check_about(about, channels, image_size)
    shape = int(channels), int(image_size), int(image_size)
    if format == TORCH:
        return _export_state_dict(model, folder, shape, about)
    _check_folder(folder, format)
    packed = writer.pack_network(model, shape, about, packing)
    if format != PACKED:
        return export_graph(packed, folder, format, onnx_int8=onnx_int8)
    content = container.to_bytes(packed.document.to_plain(), packed.contents.tensors)
    _write(folder, {FILE: content, CONFIG: state_dict.to_json(_config(packed))})
    return from_content(content, folder / FILE)


def _check_about(about: About, channels: int, image_size: int) -> None:
    """Hold what is told of a network to what a reader of the file takes."""
    for what, number in (("channels", channels), ("image_size", image_size)):
        if not _is_positive(number):
            raise UserError(f"{what} is {number!r}, but must be a positive whole number")
    for text in (about.arch or "", *(about.classes or ())):
        try:
            str.encode(text)
        except (TypeError, UnicodeEncodeError):
            raise UserError(f"{text!r} is no text in UTF-8, which a file holds") from None
    if about.mean is not None or about.std is not None:
        _check_each_channel("mean", about.mean, channels, -math.inf)
        _check_each_channel("std", about.std, channels, 0.0)


def _is_positive(number: int) -> bool:
    try:
        return operator.index(number) > 0
    except TypeError:
        return False


def _check_each_channel(
    what: str, values: tuple[float, ...] | None, channels: int, above: float
) -> None:
    if values is None or len(values) != channels:
        given = "None" if values is None else f"{len(values)} numbers"
        raise UserError(f"{what} is {given}, but images have {channels} channels")
    for value in values:
        with np.errstate(over="ignore"):
            single = np.float32(value)  # as the engine has it
        if not above < single < math.inf:
            raise UserError(f"{what} has {value}, with which no image can be normalized")


def check_format(format: str, onnx_int8: bool, packing: str = WHOLE) -> None:
    """Hold a format to those that there are, and to the packages that are installed.

    Raises:
        UserError: it is none of them, or wants ``onnx``, which is missing; or 8-bit types are asked
            for of another than ``onnx``, or a packing of another than ``packed``.
    """
    if format not in FORMATS:
        raise UserError(
            f"there is no format {format!r}{nearest(format, FORMATS)}: it is one of "
            f"{', '.join(FORMATS)}"
        )
    if onnx_int8 and format != ONNX:
        raise UserError(f"types of 8 bits alone are for the format {ONNX!r}, not {format!r}")
    if packing != WHOLE and format != PACKED:
        raise UserError(f"packing {packing!r} is for the format {PACKED!r}, not {format!r}")
    if format in (ONNX, QONNX):
        try:
            import onnx  # noqa: F401
        except ImportError:
            raise UserError(
                f"the format {format!r} needs a package: pip install 'micronet[onnx]'"
            ) from None


def export_graph(packed: Packed, folder: Path, format: str, *, onnx_int8: bool = False) -> Path:
    """Write the network of a packed file as ONNX or QONNX.

    Args:
        packed: the file, all of which is checked.
        folder: made where it is not there.
        format: one that ``check_format`` has seen, ``onnx`` or ``qonnx``.
        onnx_int8: as of ``export``.

    Returns:
        The path of ``model.onnx``.

    Raises:
        UserError: the file is damaged or has what the format has not, or the folder cannot be
            written to.
    """
    from micronet.artifact.interchange import onnx_model

    _check_folder(folder, format)
    network_of(packed)
    content = onnx_model.to_bytes(packed, qonnx=format == QONNX, int8=onnx_int8)
    _write(folder, {ONNX_FILE: content})
    return folder / ONNX_FILE


def _export_state_dict(
    model: nn.Module, folder: Path, shape: tuple[int, int, int], about: About
) -> Path:
    _check_folder(folder, TORCH)
    content = state_dict.to_bytes(model, about.arch or type(model).__name__)
    document = state_dict.config(model, content, shape, about)
    _write(folder, {FILE: content, CONFIG: state_dict.to_json(document)})
    return folder / FILE


def _check_folder(folder: Path, format: str) -> None:
    """Refuse to write over what is of another kind, as a run or a network to train on is."""
    if format in (ONNX, QONNX):
        path = folder / ONNX_FILE
        if path.exists() and not _is_our_graph(path):
            raise UserError(f"{str(path)!r} is of something else: export elsewhere")
        return
    for name in (FILE, CONFIG):
        if (folder / name).exists() and not _is_ours(folder, format):
            raise UserError(f"{str(folder / name)!r} is of something else: export elsewhere")


def _is_ours(folder: Path, format: str) -> bool:
    """Whether what a folder holds is what was exported in this format before."""
    if format == PACKED:
        return is_packed(folder)
    try:
        document = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("format") == state_dict.FORMAT


def _is_our_graph(path: Path) -> bool:
    """Whether a model's first fields are its version and our name."""
    try:
        with path.open("rb") as file:
            return b"\x12\x08micronet" in file.read(32)
    except OSError:
        return False


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make folder {str(folder)!r}: {error.strerror}") from None
    write_together({folder / name: content for name, content in files.items()})


def _config(packed: Packed) -> dict[str, Any]:
    """Return what the Hub wants beside the file."""
    document = packed.document.to_plain()
    keys = "format", "version", "input", "about", "quantization_config"
    return {key: document[key] for key in keys} | {"sha256": packed.sha256}
