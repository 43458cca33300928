"""Which tile a shape runs with: timed once on a device, then kept in a file.

The file is `triton_tiles.json` in the folder MICRONET_CACHE, or `micronet` in the user's folder of
caches. What is in it changes speed alone: a file that is damaged, of another Triton or about tiles
that are no longer known is passed over. MICRONET_TUNE=0 takes the first tile of the table instead.
"""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import triton
from triton.runtime.errors import OutOfResources

from .tiles import Tile

Timer = Callable[[Callable[[], object]], float]

# (device, kernel, shape) -> tile, of this process.
_chosen: dict[tuple[str, str, str], Tile] = {}


def cache_file() -> Path:
    """Return where choices are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = os.environ.get("MICRONET_CACHE") or Path(home) / "micronet"
    return Path(folder) / "triton_tiles.json"


def milliseconds(run: Callable[[], object]) -> float:
    """Return the median time of a call on the current device."""
    return triton.testing.do_bench(run, warmup=5, rep=20, return_mode="median")


def device_name(device: torch.device) -> str | None:
    """Return what choices on a device are good for; None where nothing is to be timed."""
    if device.type != "cuda" or os.environ.get("MICRONET_TUNE") == "0":
        return None
    if torch.cuda.is_current_stream_capturing():
        return None
    return torch.cuda.get_device_name(device)


def choose(
    kernel: str,
    shape: Sequence[int],
    tiles: Sequence[Tile],
    run: Callable[[Tile], object],
    device: str | None,
    timer: Timer = milliseconds,
) -> Tile:
    """Return the tile that `run` takes least time with, timed at most once for each shape.

    `run` may be called often: it has to leave the same result each time. Without a device's name
    it is the first tile.
    """
    if device is None:
        return tiles[0]
    key = (device, kernel, "x".join(map(str, shape)))
    if key not in _chosen:
        kept = _kept(_read(cache_file()), key, tiles)
        if kept is None:
            kept = _fastest(tiles, run, timer)
            _keep(cache_file(), key, kept)
        _chosen[key] = kept
    return _chosen[key]


def _fastest(tiles: Sequence[Tile], run: Callable[[Tile], object], timer: Timer) -> Tile:
    times: dict[Tile, float] = {}
    for tile in tiles:
        # A tile may need more shared memory than this device has.
        with suppress(OutOfResources):
            times[tile] = timer(lambda tile=tile: run(tile))
    return min(times, key=lambda tile: times[tile], default=tiles[0])


def _read(path: Path) -> dict[str, Any]:
    """Return the choices of a file; none of one that is not there or not as it was written."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(record, dict) or record.get("triton") != triton.__version__:
        return {}
    choices = record.get("choices")
    return choices if isinstance(choices, dict) else {}


def _kept(choices: dict[str, Any], key: tuple[str, ...], tiles: Sequence[Tile]) -> Tile | None:
    found: Any = choices
    for name in key:
        found = found.get(name) if isinstance(found, dict) else None
    return next((tile for tile in tiles if tile.as_dict() == found), None)


def _keep(path: Path, key: tuple[str, str, str], tile: Tile) -> None:
    """Add a choice to those of the file, whole or not at all; what cannot be written is not kept.

    Of two processes that write at once one may lose its choice, and then times it again.
    """
    device, kernel, shape = key
    choices = _read(path)
    by_kernel = choices.get(device)
    by_kernel = by_kernel if isinstance(by_kernel, dict) else {}
    by_shape = by_kernel.get(kernel)
    by_shape = by_shape if isinstance(by_shape, dict) else {}
    by_kernel[kernel] = {**by_shape, shape: tile.as_dict()}
    record = {"triton": triton.__version__, "choices": {**choices, device: by_kernel}}
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with open(descriptor, "w") as file:
                json.dump(record, file, indent=1)
            os.replace(beside, path)
        except OSError:
            Path(beside).unlink(missing_ok=True)
            raise
