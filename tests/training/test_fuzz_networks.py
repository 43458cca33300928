"""A little of the fuzz target of networks on every run, with another seed each time."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fuzz_networks
import random_networks
from network_kinds import KINDS


@pytest.mark.slow
def test_every_network_is_answered():
    """In a process of its own, which a network may end at once."""
    seed = str(time.time_ns() % 10**6)
    path = Path(fuzz_networks.__file__)
    paths = [str(path.parents[2]), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, str(path), "--networks", "12", "--seed", seed]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    print(found.stdout, found.stderr)
    assert found.returncode == 0 and f"12 networks of seed {seed}: 0 wrong answers" in found.stdout


def test_a_name_always_makes_the_same_network():
    for seed in range(20):
        first, second = (str(random_networks.network("whole", seed, 2)) for _ in range(2))
        assert first == second


def test_a_wrong_answer_would_be_seen(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fuzz_networks.custom, "_allowed", set())
    monkeypatch.setitem(KINDS, "raising", KINDS["whole"])
    assert fuzz_networks.fuzz(2, 0, tmp_path, ["raising", "raising"]) >= 1
    assert "random_networks:raising_" in capsys.readouterr().err
    monkeypatch.setattr(fuzz_networks, "train", lambda words: 1)
    assert fuzz_networks.fuzz(1, 0, tmp_path) == 1
