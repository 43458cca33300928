"""What tests of a benchmark take out of its way."""

import pytest

from benchmarks.engine import settings


@pytest.fixture
def no_peers(monkeypatch, tmp_path):
    """A machine on which the other engines are not installed."""
    monkeypatch.setattr(settings, "PEERS_PYTHON", tmp_path / "no-python")
