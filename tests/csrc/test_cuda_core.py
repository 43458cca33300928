"""What the CUDA kernels need of the device; what they compute is in test_core_cpp.py."""

import json

import pytest

from benchmarks.cuda import compiler as cuda_compiler
from benchmarks.cuda import kernels as cuda_kernels
from benchmarks.harness import report

# The compiler takes a minute for all of them.
pytestmark = [pytest.mark.nvcc, pytest.mark.slow]

# The smallest share of a multiprocessor's 2048 threads that hides the latency of its memory.
LEAST_THREADS = 1024


@pytest.fixture(scope="module")
def compiled():
    return cuda_compiler.compile_kernels()


@pytest.mark.parametrize("architecture", cuda_compiler.ARCHITECTURES)
def test_kernels_spill_nothing_and_leave_room_for_half_of_all_threads(compiled, architecture):
    kernels = compiled[architecture]
    assert {kernel.stem for kernel in kernels} == dict(cuda_compiler.definitions()).keys()
    for kernel in kernels:
        found = cuda_kernels.row(kernel)
        assert kernel.architecture == architecture
        assert found["spilled"] == 0, kernel.name
        assert found["threads"] >= LEAST_THREADS, kernel.name


def test_the_committed_table_is_that_of_the_sources(compiled):
    """Another compiler makes other code: then only the names of the kernels are compared."""
    committed = json.loads((report.RESULTS / "cuda_kernels.json").read_text())
    by = committed.pop("compiler")
    found = cuda_kernels.record(compiled)
    if by == cuda_kernels.compiler():
        assert found == committed, "run `make bench-kernels`"
    assert {name: set(rows) for name, rows in found.items()} == {
        name: set(rows) for name, rows in committed.items()
    }
