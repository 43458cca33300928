"""The names of what is tested on the CPU, for conftest and for tests that choose among them."""

import micronet_kernels as kernels


def _names():
    """The reference, and native on each instruction set that this machine has."""
    if "native" not in kernels.available_backends():
        return ["reference", "native"]
    from micronet_kernels import _C

    return ["reference", *(f"native {name}" for name in _C.instruction_sets())]


CPU_BACKENDS = _names()
