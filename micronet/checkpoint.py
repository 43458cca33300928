"""Checkpoints: one safetensors file whose header carries the JSON, written beside and renamed.

Tensor names: ``model/<state>``, ``mask/<layer>``, ``momentum/<parameter>``, ``rng/<device>``.
A readable copy of the JSON lies beside the file; only the header is ever read back.
"""

from __future__ import annotations

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

from micronet.errors import UserError

FORMAT = 1


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

    Raises:
        UserError: the file system refuses; the previous file is intact.
    """
    beside = path.with_name(path.name + ".tmp")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise UserError(f"cannot write {str(path)!r}: {error.strerror}") from None


def save(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint and its readable JSON copy, each whole or not at all."""
    document = {"format": FORMAT, **meta}
    text = json.dumps(document, sort_keys=True)
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    write_atomically(path, safetensors.torch.save(plain, metadata={"micronet": text}))
    readable = json.dumps(document, indent=2, sort_keys=True) + "\n"
    write_atomically(path.with_suffix(".json"), readable.encode())


def load(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises:
        UserError: there is no such file, it is cut short or damaged, or it is not ours.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("micronet")
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except OSError as error:
        raise UserError(f"cannot read checkpoint {str(path)!r}: {error}") from None
    except safetensors.SafetensorError as error:
        raise UserError(f"checkpoint {str(path)!r} is cut short or damaged: {error}") from None
    if header is None:
        raise UserError(f"{str(path)!r} is a safetensors file, but not a micronet checkpoint")
    try:
        meta = json.loads(header)
    except ValueError:
        raise UserError(f"checkpoint {str(path)!r} has a damaged header") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        found = meta.get("format") if isinstance(meta, dict) else meta
        raise UserError(f"checkpoint {str(path)!r} has format {found}, this program reads {FORMAT}")
    return Checkpoint(tensors, meta, path)


def rng_state() -> dict[str, Tensor]:
    """Return the states of torch's random generators."""
    states = {"rng/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["rng/cuda"] = torch.cuda.get_rng_state()
    return states


def set_rng_state(states: Mapping[str, Tensor]) -> None:
    """Restore what ``rng_state`` returned (keys without ``rng/``)."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
