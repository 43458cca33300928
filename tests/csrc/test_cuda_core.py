"""What the CUDA kernels need of the device; what they compute is in test_core_cpp.py."""

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from paths import ROOT

pytestmark = pytest.mark.nvcc

CSRC = ROOT / "csrc"
KERNELS = sorted((CSRC / "cuda").glob("*.cu"))
ARCHITECTURES = (80, 90)
# The smallest share of a multiprocessor's 2048 threads that hides the latency of its memory.
THREADS, REGISTERS, SHARED_BYTES, LEAST_THREADS = 256, 65536, 160 * 1024, 1024


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# What the assembler reports.
REPORT = re.compile(
    r"'(?P<name>\w+)' for 'sm_(?P<architecture>\d+)'.*?"
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?:.*?(?P<shared>\d+) bytes smem)?[^\n]*",
    re.DOTALL,
)


def compile_for(architecture, source):
    """What each kernel needs; all are compiled at once, so that the headers are read once."""
    flags = "-cubin -std=c++17 --fmad=false -Werror=all-warnings -Xptxas -v".split()
    target = source.with_suffix(f".{architecture}.cubin")
    report = run("nvcc", *flags, f"-arch=sm_{architecture}", "-I", CSRC, source, "-o", target)
    matches = [REPORT.match(block) for block in report.split("Compiling entry function ")[1:]]
    assert all(matches), report
    return [match.groupdict() for match in matches]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    source = tmp_path_factory.mktemp("devices") / "kernels.cu"
    source.write_text("".join(f'#include "{path}"\n' for path in KERNELS))
    with ThreadPoolExecutor(len(ARCHITECTURES)) as pool:
        return {number: pool.submit(compile_for, number, source) for number in ARCHITECTURES}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_spill_nothing_and_leave_room_for_half_of_all_threads(reports, architecture):
    kernels = reports[architecture].result()
    defined = sum(path.read_text().count("__global__ ") for path in KERNELS)
    assert len(kernels) >= defined > 0
    for kernel in kernels:
        assert int(kernel["architecture"]) == architecture
        assert (kernel["stores"], kernel["loads"]) == ("0", "0"), kernel
        by_registers = REGISTERS // (THREADS * int(kernel["registers"]))
        by_shared = SHARED_BYTES // max(int(kernel["shared"] or 0), 1)
        assert THREADS * min(by_registers, by_shared) >= LEAST_THREADS, kernel
