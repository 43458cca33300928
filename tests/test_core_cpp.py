"""The C++ tests of the core, built without torch and run under sanitizers."""

import os
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[1] / "csrc"
FLAGS = "-std=c++17 -O1 -g -ffp-contract=off -fno-math-errno -Wall -Wextra -Werror -pthread"
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all"
COMPILER = os.environ.get("CXX") or "g++"


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    folder = tmp_path_factory.mktemp("core")
    built = [folder / f"{source.stem}.o" for source in sorted((CSRC / "cpu").glob("*.cpp"))]
    for target in built:
        source = CSRC / "cpu" / f"{target.stem}.cpp"
        run(COMPILER, *FLAGS.split(), *SANITIZERS.split(), "-c", source, "-o", target)
    assert built
    return built


@pytest.mark.parametrize("test", sorted(p.stem for p in (CSRC / "tests").glob("*.cpp")))
def test_core(objects, tmp_path, test):
    program = tmp_path / test
    source = CSRC / "tests" / f"{test}.cpp"
    run(COMPILER, *FLAGS.split(), *SANITIZERS.split(), source, *objects, "-o", program)
    assert "seed" in run(program)
