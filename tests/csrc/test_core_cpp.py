"""The C++ tests: of the core, and of the CUDA kernels on the host, built once under sanitizers."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from paths import ROOT

TESTS = ROOT / "csrc" / "tests"
PROGRAMS = sorted(
    f"{device}_{path.stem}"
    for device in ("cpu", "cuda", "engine")
    for path in (TESTS / device).glob("*.cpp")
)


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def programs():
    """The folder of `make test-core`, up to date; programs that fail to build fail alone."""
    folder = ROOT / "build" / "core"
    folder.mkdir(parents=True, exist_ok=True)
    tools = Path(sys.executable).parent
    ninja = f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}"
    # One process at a time: each worker of pytest has a fixture of its own.
    with open(folder / "tests.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run(tools / "cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", ninja)
        run(tools / "cmake", "--build", folder)
    return folder


def test_programs_are_known_to_cmake(programs):
    listed = run(Path(sys.executable).parent / "ctest", "--test-dir", programs, "-N")
    assert all(f": {program}\n" in listed for program in PROGRAMS)
    assert f"Total Tests: {len(PROGRAMS)}" in listed


@pytest.mark.parametrize("program", PROGRAMS)
def test_core(programs, program):
    assert "seed" in run(programs / program)
