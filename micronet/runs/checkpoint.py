"""Checkpoints: one safetensors file whose header carries the JSON, written beside and renamed.

Tensor names: ``model/<state>``, ``mask/<layer>``, ``momentum/<parameter>``; where the run averages
its weights ``average/<state>``, where it prunes by second order ``curvature/<layer>``, and where it
follows weights ``oscillation/<kind>/<layer>``.
The header also carries the SHA-256 of all that: one changed bit is an error, not a network.
A readable copy of the JSON lies beside the file; only the header is ever read back.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from micronet.utils.errors import UserError

FORMAT = 2


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    path: Path

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors below ``prefix/``, without it."""
        start = prefix + "/"
        named = self.tensors.items()
        return {key[len(start) :]: value for key, value in named if key.startswith(start)}


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside ``path`` and rename: a reader sees the old file or the new one, whole.

    Both are on the disk before this returns, so that a power cut leaves one or the other.

    Raises:
        UserError: the file system refuses; the previous file is intact.
    """
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files of one folder beside themselves, and rename them once all are written.

    Raises:
        UserError: the file system refuses; what it cannot write leaves every previous file intact.
    """
    beside = {path: path.with_name(path.name + ".tmp") for path in contents}
    path = next(iter(contents))
    try:
        for path, content in contents.items():
            _write(beside[path], content)
        for path in contents:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        for path in contents:
            os.replace(beside[path], path)
        _sync_folder(path.parent)
    except OSError as error:
        # On a disk that takes no writes the part of a file cannot be removed either.
        for part in beside.values():
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        raise UserError(f"cannot write {str(path)!r}: {error.strerror}") from None


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename last: a folder is synchronized through a descriptor of its own."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a header's JSON and of every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        digest.update(content)
    return digest.hexdigest()


def serialized(tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> bytes:
    """Return the bytes of a checkpoint; raises what safetensors does of tensors it cannot keep."""
    text = json.dumps(document, sort_keys=True)
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    metadata = {"micronet": text, "sha256": _digest(text, plain)}
    return safetensors.torch.save(plain, metadata=metadata)


def save(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint and its readable JSON copy, each whole or not at all."""
    document = {"format": FORMAT, **meta}
    write_atomically(path, serialized(tensors, document))
    readable = json.dumps(document, indent=2, sort_keys=True) + "\n"
    write_atomically(path.with_suffix(".json"), readable.encode())


def load(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises:
        UserError: there is no such file, it is cut short or damaged, or it is not ours.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except OSError as error:
        raise UserError(f"cannot read checkpoint {str(path)!r}: {error}") from None
    except safetensors.SafetensorError as error:
        raise UserError(f"checkpoint {str(path)!r} is cut short or damaged: {error}") from None
    if "micronet" not in metadata:
        raise UserError(f"{str(path)!r} is a safetensors file, but not a micronet checkpoint")
    meta = _header(metadata["micronet"], path)
    if metadata.get("sha256") != _digest(metadata["micronet"], tensors):
        raise UserError(f"checkpoint {str(path)!r} is damaged: its checksum does not fit it")
    return Checkpoint(tensors, meta, path)


def _header(text: str, path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"checkpoint {str(path)!r} has a damaged header") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        found = meta.get("format") if isinstance(meta, dict) else meta
        raise UserError(f"checkpoint {str(path)!r} has format {found}, this program reads {FORMAT}")
    return meta


def remove(path: Path) -> None:
    """Remove a checkpoint and its readable copy, if they are there.

    Raises:
        UserError: the file system refuses.
    """
    try:
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot remove {str(path)!r}: {error.strerror}") from None
