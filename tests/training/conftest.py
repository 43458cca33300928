"""A module of networks that one test alone can import."""

import sys

import pytest

from micronet.models import custom
from trial_networks import SOURCE


@pytest.fixture
def nets(tmp_path, monkeypatch, request):
    """The name of a module with the networks above, importable in this test alone."""
    name = f"nets_of_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(custom, "_allowed", set())
    yield name
    sys.modules.pop(name, None)
