"""Networks that are saved, and how tests look at what is read back."""

import pytest

from micronet.runs.folder import save
from saved_folders import compressed, own


@pytest.fixture
def written(tmp_path):
    """The folder of a network of one's own, pruned and quantized."""
    save(compressed(own()), tmp_path / "net", image_size=32, classes=["a", "b", "c", "d"])
    return tmp_path / "net"
