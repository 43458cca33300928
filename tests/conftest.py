"""Backends, devices, fresh random inputs, and equality to the bit."""

import gc
import os
import shutil
import zlib
from contextlib import contextmanager

import hypothesis
import numpy as np
import pytest
import torch

import micronet_kernels as kernels
from cpu_backends import CPU_BACKENDS
from devices import EMULATED, IS_HERE
from paths import DATA, IMAGES
from shared_runs import fitted_run, resnet8_by_name

# One seed for all processes of a run: those that share its tests, and those that tests start.
SEED = int(os.environ.get("MICRONET_TEST_SEED") or int.from_bytes(os.urandom(4), "little"))
os.environ["MICRONET_TEST_SEED"] = str(SEED)
# Whether this process has what a test with the marker needs; one without it is left out.
HAS = {
    "data": IMAGES.exists(),
    "gpu": torch.cuda.is_available(),
    "device": IS_HERE,
    "emulated": EMULATED,
    "nvcc": shutil.which("nvcc") is not None,
    "interpreter": os.environ.get("TRITON_INTERPRET") == "1",
}


# Thousands of tests and the modules that they import are no garbage: looking for it among them took
# a twentieth of all seconds, and looking at every 700 objects that a test makes nearly as much.
# What tests leave behind is collected, by the ten thousands.
gc.disable()


def pytest_collection_finish():
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()


# Examples are new in every run, like all other inputs.
hypothesis.settings.register_profile("fresh", database=None, deadline=None)
hypothesis.settings.load_profile("fresh")


def pytest_report_header():
    return f"random inputs: repeat them with MICRONET_TEST_SEED={SEED}"


def pytest_collection_modifyitems(config, items):
    missing = {marker for marker, is_here in HAS.items() if not is_here}
    left = [item for item in items if missing & {marker.name for marker in item.iter_markers()}]
    items[:] = [item for item in items if item not in set(left)]
    # What takes long begins first, so that no worker waits for it in the end.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    config.hook.pytest_deselected(items=left)


@pytest.fixture
def rng(request):
    """A generator of its own for each test, from a seed that is new in every run."""
    seed = zlib.crc32(f"{SEED} {request.node.name}".encode())
    print(f"MICRONET_TEST_SEED={SEED}")
    return torch.Generator().manual_seed(seed)


@contextmanager
def _chosen(name):
    """Runs the block on one of CPU_BACKENDS; raises where the extension is not built."""
    backend, _, instructions = name.partition(" ")
    with kernels.use_backend(backend):
        if not instructions:
            yield
            return
        from micronet_kernels import _C

        before = _C.instruction_set()
        _C.use_instruction_set(instructions)
        try:
            yield
        finally:
            _C.use_instruction_set(before)


@pytest.fixture(params=CPU_BACKENDS)
def backend(request):
    """Each of CPU_BACKENDS in turn, by force for the whole test; one that is not built fails it."""
    with _chosen(request.param):
        yield request.param


@pytest.fixture(params=[name for name in CPU_BACKENDS if name != "reference"])
def native(request):
    """As `backend`, without the reference."""
    with _chosen(request.param):
        yield request.param


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


_WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def _same(a, b):
    assert a.dtype == b.dtype and a.shape == b.shape
    assert a.stride() == b.stride() or a.is_contiguous() == b.is_contiguous()
    if a.dtype.is_floating_point:
        nan = a.isnan()
        assert torch.equal(nan, b.isnan())
        word = _WORDS[a.element_size()]
        a, b = (t.masked_fill(nan, 0.0).contiguous().view(word) for t in (a, b))
    assert torch.equal(a, b)


@pytest.fixture
def same():
    """Asserts that two tensors have the same bits, any NaN being equal to any other."""
    return _same


@pytest.fixture
def on_all(same):
    """Runs a function on each of CPU_BACKENDS and asserts that all answer the same bits."""

    def run(function):
        answers = []
        for name in CPU_BACKENDS:
            with _chosen(name):
                answer = function()
            answers.append(answer if isinstance(answer, tuple | list) else (answer,))
        for name, answer in zip(CPU_BACKENDS, answers, strict=True):
            for ours, expected in zip(answer, answers[0], strict=True):
                try:
                    same(ours, expected)
                except AssertionError as error:
                    error.add_note(f"{name} answers otherwise than {CPU_BACKENDS[0]}")
                    raise
        return answers[0] if len(answers[0]) > 1 else answers[0][0]

    return run


@pytest.fixture(scope="session")
def fitted(tmp_path_factory):
    """The directory of a small network's run, to be read only."""
    return fitted_run(tmp_path_factory)


@pytest.fixture(scope="module")
def resnet8():
    """The name of a network of one block a stage, which the module that asks for it has alone."""
    with resnet8_by_name():
        yield "resnet8"


@pytest.fixture(scope="module")
def shallow(tmp_path_factory, resnet8):
    """As `fitted`, of fewer blocks: a step takes a third of the time."""
    return fitted_run(tmp_path_factory, resnet8)


@pytest.fixture
def goldens():
    """The arrays that the 2019 system computed."""
    with np.load(DATA / "distiller.npz") as archive:
        return {name: torch.from_numpy(archive[name].copy()) for name in archive.files}
