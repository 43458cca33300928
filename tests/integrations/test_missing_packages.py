"""Without the package that a loop comes from, its callback is one sentence."""

import importlib
import sys

import pytest

from micronet.utils.errors import UserError


@pytest.mark.parametrize("name", ["lightning", "transformers"])
def test_a_missing_package_is_named(name, monkeypatch):
    module = f"micronet.integrations.{name}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    for package in ("lightning", "lightning.pytorch.callbacks", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=rf"pip install 'micronet\[{name}\]'"):
        importlib.import_module(module)
