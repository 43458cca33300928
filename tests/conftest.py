"""Backends, devices, fresh random inputs, and equality to the bit."""

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import micronet_kernels as kernels

SEED = int(os.environ.get("MICRONET_TEST_SEED") or int.from_bytes(os.urandom(4), "little"))
SHARED = Path(__file__).parents[1].parent / "shared"


def pytest_report_header():
    return f"random inputs: repeat them with MICRONET_TEST_SEED={SEED}"


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture
def rng(request):
    """A generator of its own for each test, from a seed that is new in every run."""
    seed = zlib.crc32(f"{SEED} {request.node.name}".encode())
    print(f"MICRONET_TEST_SEED={SEED}")
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=["reference", "native"])
def backend(request):
    """Each backend in turn, chosen by force for the whole test; one that is not built fails it."""
    with kernels.use_backend(request.param):
        yield request.param


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def _same(a, b):
    assert a.dtype == b.dtype and a.shape == b.shape
    assert a.stride() == b.stride() or a.is_contiguous() == b.is_contiguous()
    if a.dtype.is_floating_point:
        assert torch.equal(a.isnan(), b.isnan())
        a, b = (t.nan_to_num(nan=0.0).contiguous().view(torch.int32) for t in (a, b))
    assert torch.equal(a, b)


@pytest.fixture
def same():
    """Asserts that two tensors have the same bits, any NaN being equal to any other."""
    return _same


@pytest.fixture
def on_all(same):
    """Runs a function on every available backend and asserts that all answer the same bits."""

    def run(function):
        answers = []
        for name in kernels.available_backends():
            with kernels.use_backend(name):
                answer = function()
            answers.append(answer if isinstance(answer, tuple) else (answer,))
        assert len(answers) > 1, "the extension is not built: nothing to compare the reference to"
        for answer in answers[1:]:
            for ours, expected in zip(answer, answers[0], strict=True):
                same(ours, expected)
        return answers[0] if len(answers[0]) > 1 else answers[0][0]

    return run


@pytest.fixture
def shared():
    """Finds a file of the reference data beside the project, or skips the test and names it."""

    def find(name):
        if not (SHARED / name).exists():
            pytest.skip(f"../shared/{name} is missing")
        return SHARED / name

    return find


@pytest.fixture
def goldens(shared):
    """The arrays that the 2019 system computed."""
    with np.load(shared("goldens/distiller.npz")) as archive:
        return {name: torch.from_numpy(archive[name].copy()) for name in archive.files}
