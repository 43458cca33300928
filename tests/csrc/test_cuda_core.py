"""What the CUDA kernels need of the device; what they compute is in test_core_cpp.py."""

import json

import pytest
import torch

from benchmarks.cuda import compiler as cuda_compiler
from benchmarks.cuda import kernels as cuda_kernels
from benchmarks.harness import report

pytestmark = pytest.mark.nvcc

# The smallest share of a multiprocessor's 2048 threads that hides the latency of its memory.
LEAST_THREADS = 1024


@pytest.fixture(scope="module")
def committed():
    return json.loads((report.RESULTS / f"{cuda_kernels.STEM}.json").read_text())


@pytest.fixture(scope="module")
def by_this_compiler(committed):
    return committed["compiler"] == cuda_kernels.compiler()


@pytest.fixture(scope="module")
def table(committed, by_this_compiler):
    """Rows of kernels by architecture and name: another compiler makes other code, in a minute."""
    if by_this_compiler:
        return committed
    return cuda_kernels.record(cuda_compiler.compile_kernels())


def test_the_committed_table_is_that_of_the_sources(committed):
    assert committed["sources"] == cuda_compiler.digest(), "run `make bench-kernels`"


@pytest.mark.slow
@pytest.mark.parametrize("architecture", cuda_compiler.ARCHITECTURES)
def test_kernels_spill_nothing_and_leave_room_for_half_of_all_threads(
    committed, table, architecture
):
    rows = table[f"sm_{architecture}"]
    stems = {name.partition("<")[0] for name in rows}
    assert stems == dict(cuda_compiler.definitions()).keys()
    assert rows.keys() == committed[f"sm_{architecture}"].keys()
    for name, found in rows.items():
        assert found["spilled"] == 0, name
        assert found["threads"] >= LEAST_THREADS, name


@pytest.mark.slow
def test_convolutions_are_those_of_the_committed_table(committed, table):
    assert table[cuda_kernels.CONVOLUTIONS].keys() == committed[cuda_kernels.CONVOLUTIONS].keys()


@pytest.mark.slow
def test_a_source_is_compiled_to_the_rows_of_the_committed_table(rng, committed, by_this_compiler):
    """Another one each time, and for every architecture."""
    number = int(torch.randint(len(cuda_compiler.SOURCES), (), generator=rng))
    source = cuda_compiler.SOURCES[number]
    for architecture, kernels in cuda_compiler.compile_kernels([source]).items():
        assert kernels, source
        for kernel in kernels:
            assert kernel.architecture == architecture
            expected = committed[f"sm_{architecture}"][kernel.name]
            if by_this_compiler:
                assert cuda_kernels.row(kernel) == expected, kernel.name
