"""Modules of a user's own, importable in one test alone."""

import sys
from contextlib import contextmanager

from micronet.models import custom


@contextmanager
def importable(source, folder, monkeypatch, request):
    """The name of a module with this source that is importable here, and allowed nowhere yet."""
    name = f"nets_of_{abs(hash(request.node.name))}"
    (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(custom, "_allowed", set())
    yield name
    sys.modules.pop(name, None)
