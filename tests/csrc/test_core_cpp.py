"""The C++ tests of the core, built without torch and run under sanitizers."""

import subprocess
import sys
from pathlib import Path

import pytest

from paths import ROOT

PROGRAMS = sorted(path.stem for path in (ROOT / "csrc" / "tests").glob("*.cpp"))


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("core")
    tools = Path(sys.executable).parent
    options = ["-DMICRONET_SANITIZE=ON", "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -g"]
    ninja = f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}"
    run(tools / "cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", ninja, *options)
    run(tools / "cmake", "--build", folder)
    return folder


@pytest.mark.parametrize("program", PROGRAMS)
def test_core(programs, program):
    assert "seed" in run(programs / program)
