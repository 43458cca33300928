"""The file: safetensors with one metadata key, written in one order and read with every check.

Of one network there is one file: the reference library writes metadata keys in random order, and
its reader knows nothing of sums of sizes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from micronet.utils.errors import UserError

# The metadata key that holds the document.
KEY = "micronet_packed"
# As the reference library allows.
MOST_HEADER = 100_000_000
_ALIGNMENT = 8
# Little-endian floats first, so that each lies at a multiple of its size.
_TYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "U8": np.dtype("u1")}
_CHECKSUM = "sha256"

Array = NDArray[Any]


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        document: what the metadata say, without the checksum.
        tensors: by name, float32 or uint8.
        header_bytes: before the tensors, with what fills up to a multiple of eight.
        padding_bytes: of these, what only fills up.
    """

    document: dict[str, Any]
    tensors: dict[str, Array]
    header_bytes: int
    padding_bytes: int

    @property
    def data_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def to_bytes(document: Mapping[str, Any], tensors: Mapping[str, Array]) -> bytes:
    """Return the bytes of a file, the same ones for the same contents.

    Args:
        document: plain data of JSON.
        tensors: float32 or uint8, in logical order.
    """
    kinds = {name: _kind(tensor) for name, tensor in tensors.items()}
    order = sorted(tensors, key=lambda name: (list(_TYPES).index(kinds[name]), name))
    data = b"".join(tensors[name].astype(_TYPES[kinds[name]]).tobytes() for name in order)
    text = _json({**document, _CHECKSUM: hashlib.sha256(data).hexdigest()})
    header: dict[str, Any] = {"__metadata__": {KEY: text}}
    begin = 0
    for name in order:
        end = begin + tensors[name].nbytes
        offsets = [begin, end]
        shape = list(tensors[name].shape)
        header[name] = {"data_offsets": offsets, "dtype": kinds[name], "shape": shape}
        begin = end
    content = _json(header, sort=False).encode()
    content += b" " * (-len(content) % _ALIGNMENT)
    return len(content).to_bytes(8, "little") + content + data


def _kind(tensor: Array) -> str:
    return next(name for name, dtype in _TYPES.items() if dtype == tensor.dtype.newbyteorder("<"))


def _json(document: Any, sort: bool = True) -> str:
    return json.dumps(
        document, sort_keys=sort, separators=(",", ":"), allow_nan=False, ensure_ascii=True
    )


def from_bytes(content: bytes, where: str) -> Contents:
    """Return what a file holds; nothing is copied before every size is known to fit.

    Args:
        content: of the file.
        where: it comes from, for messages.

    Raises:
        UserError: it is none, is cut short or damaged, or its tensors overlap, leave holes or have
            a type of another format.
    """
    if len(content) < 8:
        raise UserError(f"{where}: {len(content)} bytes are no packed network")
    length = int.from_bytes(content[:8], "little")
    if length > MOST_HEADER or length > len(content) - 8:
        raise UserError(f"{where}: a header of {length} bytes does not fit the file")
    text = content[8 : 8 + length]
    header = _parsed(text, f"{where}: the header")
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not isinstance(metadata.get(KEY), str):
        raise UserError(f"{where} is no packed network: its metadata have no key {KEY!r}")
    data = memoryview(content)[8 + length :]
    document = _parsed(metadata[KEY].encode(errors="replace"), f"{where}: the metadata")
    tensors = _tensors(header, data, where)
    if document.pop(_CHECKSUM, None) != hashlib.sha256(data).hexdigest():
        raise UserError(f"{where} is damaged: its tensors do not have the SHA-256 of the metadata")
    padding = len(text) - len(text.rstrip(b" "))
    return Contents(document, tensors, 8 + length, padding)


def _parsed(text: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text, parse_constant=_refuse, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, _RepeatedKeyError) else "it is not JSON"
        raise UserError(f"{what} is damaged: {reason}") from None
    if not isinstance(found, dict):
        raise UserError(f"{what} is damaged: it is no JSON object")
    return found


class _RepeatedKeyError(ValueError):
    """A key of an object that stands there twice, of which two readers may take two values."""


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _RepeatedKeyError("it has a key twice")
    return found


def _tensors(header: Mapping[str, Any], data: memoryview, where: str) -> dict[str, Array]:
    """Return the tensors, which lie one after another from the first byte to the last."""
    places = {name: _place(entry, f"{where}: tensor {name!r}") for name, entry in header.items()}
    end = 0
    for name, (_, _, (begin, stop)) in sorted(places.items(), key=lambda item: item[1][2]):
        if begin != end:
            raise UserError(
                f"{where}: tensor {name!r} begins at byte {begin}, where byte {end} comes next"
            )
        end = stop
    if end != len(data):
        raise UserError(f"{where}: its tensors take {end} bytes, but {len(data)} are there")
    return {
        name: np.frombuffer(data[begin:stop], dtype).reshape(shape)
        for name, (dtype, shape, (begin, stop)) in places.items()
    }


_Place = tuple["np.dtype[Any]", tuple[int, ...], tuple[int, int]]


def _place(entry: Any, what: str) -> _Place:
    """Return type, shape and offsets of a tensor, which fit each other."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise UserError(f"{what} is not described by dtype, shape and data_offsets")
    kind = entry["dtype"]
    if not isinstance(kind, str) or kind not in _TYPES:
        raise UserError(f"{what} has type {kind!r}, but must have {' or '.join(_TYPES)}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_counts(shape) or len(shape) > 4:
        raise UserError(f"{what} has no shape of up to four sizes")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise UserError(f"{what} has no offsets of its first byte and of the one behind it")
    dtype = _TYPES[kind]
    if math.prod(shape) * dtype.itemsize != offsets[1] - offsets[0]:
        raise UserError(f"{what} has a shape of other bytes than its offsets")
    return dtype, tuple(shape), (offsets[0], offsets[1])


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)
