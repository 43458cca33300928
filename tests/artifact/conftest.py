"""The engine on every instruction set."""

import pytest

from micronet.artifact import engine as engines
from micronet.utils.errors import UserError


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
