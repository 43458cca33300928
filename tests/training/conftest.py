"""A module of networks that one test alone can import."""

import pytest

from trial_networks import SOURCE
from user_modules import importable


@pytest.fixture
def nets(tmp_path, monkeypatch, request):
    """The name of a module with the networks above, importable in this test alone."""
    with importable(SOURCE, tmp_path, monkeypatch, request) as name:
        yield name
