"""The engine on every instruction set."""

import os

import pytest

from micronet.artifact import engine as engines
from micronet.utils.errors import UserError

# `make test-arm` builds what these run, and says where it is.
collect_ignore = [] if "MICRONET_AARCH64" in os.environ else ["test_aarch64.py"]


@pytest.fixture
def every_instruction_set():
    """Names of what this machine has; the best runs again afterwards."""
    best, found = engines.instruction_set(), []
    for name in ("baseline", "avx2", "avx512", "avx512vnni", "avx512amx", "neon", "neondot"):
        try:
            engines.choose_instruction_set(name)
        except UserError:
            continue
        found.append(name)
    yield found
    engines.choose_instruction_set(best)
