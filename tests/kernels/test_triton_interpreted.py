"""The tests of the Triton kernels without a GPU, in processes whose Triton interprets them."""

import re
from pathlib import Path

import pytest

from triton_cases import run_python

TESTS = Path(__file__).with_name("test_triton.py")


def run_tests(names):
    """Run those whose names fit; return what pytest says."""
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not gpu", str(TESTS)]
    return run_python([*command, "-k", names], TRITON_INTERPRET="1", OMP_NUM_THREADS="1")


@pytest.mark.slow
def test_float32():
    assert re.search(r"\d+ passed", run_tests("not float16"))


@pytest.mark.slow
def test_halves():
    """The two types of two bytes."""
    assert re.search(r"\d+ passed", run_tests("float16"))
