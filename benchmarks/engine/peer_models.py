"""The peers' int8 models: made in their environment, once for each state of what makes them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.engine import settings

_HERE = Path(__file__).parent
# What decides how a model comes out.
_MAKERS = (
    settings.REQUIREMENTS,
    _HERE / "networks.py",
    _HERE / "peers" / "make.py",
    _HERE / "peers" / "keras_networks.py",
)


def stamp() -> str:
    """Return what changes with the versions of the peers or with what makes the models."""
    content = b"".join(path.read_bytes() for path in _MAKERS)
    return hashlib.sha256(content).hexdigest()


def make(
    folder: Path, networks: Sequence[str], engines: Sequence[str], say: Callable[[str], object]
) -> None:
    """Make the models that are not there yet; why one cannot be made is kept beside them."""
    if not settings.PEERS_PYTHON.exists():
        return
    for network in networks:
        for engine in settings.PEERS:
            note = settings.peer_note(folder, engine, network)
            if engine in engines and not _is_made(note):
                say(f"int8 model of {network} for {engine}")
                failure = _made(folder, engine, network)
                note.write_text(json.dumps({"stamp": stamp(), "failure": failure}) + "\n")


def _is_made(note: Path) -> bool:
    if not note.exists():
        return False
    found = json.loads(note.read_text())
    return found["stamp"] == stamp() and not found["failure"]


def _made(folder: Path, engine: str, network: str) -> str:
    """Make a model; return the last line of what its maker says where it fails."""
    for setting in settings.SHAPES:
        where = settings.Setting(network, *setting)
        settings.peer_model(folder, engine, where).unlink(missing_ok=True)
    command = [settings.PEERS_PYTHON, "-m", "benchmarks.engine.peers.make", engine, folder, network]
    said = subprocess.run(
        command,
        cwd=settings.ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    if said.returncode == 0:
        return ""
    lines = said.stderr.strip().splitlines() or [f"its maker ended with code {said.returncode}"]
    return lines[-1][:200]
