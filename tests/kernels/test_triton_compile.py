"""The Triton kernels without a GPU: loaded only when used, and compiled for one."""

from contextlib import suppress
from itertools import count, islice

import pytest
import torch

from forked import run_forked
from micronet_kernels.backends import triton as backend
from triton_cases import CASES, OPS, WITHOUT_FLOATS

# Kernels whose specification has multiply-adds that round once.
FUSED = ("block_", "values_kernel", "extremes_of_block", "float_conv", "linear", "norm_fold")

ONE_CALL = """
import sys
import torch
import micronet_kernels as kernels
assert "triton" not in sys.modules
with kernels.use_backend("triton"):
    kernels.pack_bits(torch.ones(3, dtype=torch.bool))
assert "triton" in sys.modules
"""


HALF_INSTALLED = """
import sys
sys.path.insert(0, {folder!r})
import micronet_kernels
try:
    exec({call!r})
except OSError as error:
    print(error)
"""

WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import micronet_kernels as kernels
assert "triton" not in kernels.available_backends()
try:
    with kernels.use_backend("triton"):
        pass
except RuntimeError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """What new processes do that load Triton, half of it, and none."""
    folder = tmp_path_factory.mktemp("half")
    (folder / "triton").mkdir()
    (folder / "triton" / "__init__.py").write_text("raise OSError('half installed')")
    codes = {
        "whole": ONE_CALL,
        "half": HALF_INSTALLED.format(folder=str(folder), call=ONE_CALL),
        "none": WITHOUT_TRITON,
    }
    return run_forked(tmp_path_factory.mktemp("processes"), codes, TRITON_INTERPRET="1")


def output_of(done):
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_is_loaded_when_it_is_used(loaded):
    output_of(loaded["whole"])


@pytest.mark.slow
def test_a_triton_that_cannot_be_loaded_is_not_hidden(loaded):
    assert "half installed" in output_of(loaded["half"])


def test_without_triton_the_others_serve(loaded):
    found = output_of(loaded["none"])
    assert found.startswith("backend 'triton' is not available: it needs the package triton")


# The compiler --------------------------------------------------------------------------------


class Hopper:
    """Takes the place of a GPU's driver: kernels are compiled for sm_90 and not run."""

    # Of no real device, and of another for each test, so that each finds all kernels that it uses.
    devices = count(1000)

    def __init__(self):
        self.device = next(self.devices)

    class utils:
        @staticmethod
        def load_binary(name, binary, shared, device):
            return object(), object(), 0, 0, 1024

        @staticmethod
        def get_device_properties(device):
            return {"max_shared_mem": 227 * 1024}

    def launcher_cls(self, source, metadata):
        return lambda *arguments: None

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return self.device

    def get_current_stream(self, device):
        return 0


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Where a kernel that several operators use is found once it has been compiled."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def compilations(monkeypatch, compiled):
    """The kernels that have been made for a device since."""
    import triton
    from triton.compiler import compiler

    hopper = Hopper()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(compiled))
    monkeypatch.setattr(triton.runtime.driver, "_active", hopper)
    monkeypatch.setattr(compiler, "max_shared_mem", lambda device: 227 * 1024)
    # Kernels that do not run write nothing, and the host reads some of it.
    monkeypatch.setattr(torch.Tensor, "new_empty", torch.Tensor.new_zeros)
    found = []

    def note(key, repr, fn, compile, is_manual_warmup, already_compiled):
        found.append(fn.jit_function.device_caches[hopper.device][0][key])

    monkeypatch.setattr(triton.knobs.runtime, "jit_post_compile_hook", note)
    return found


OF_HALVES = [op for op in OPS if op not in WITHOUT_FLOATS]


@pytest.mark.parametrize(
    ("op", "dtype"),
    [
        *((op, torch.float32) for op in OPS),
        *(pytest.param(op, torch.bfloat16, marks=pytest.mark.slow) for op in OF_HALVES),
    ],
    ids=str,
)
def test_compiles_for_hopper(rng, op, dtype, compilations):
    cases = list(islice(CASES[op](rng, dtype, [64, 1]), 4))
    # Types of two bytes are loaded and stored otherwise, which one of them shows.
    for arguments in cases if dtype == torch.float32 else cases[:1]:
        # The bits that were not counted do not agree with the count.
        with suppress(ValueError):
            backend.KERNELS[op](*arguments)
    assert compilations
    for kernel in compilations:
        text = kernel.asm["ptx"]
        assert kernel.asm["cubin"]
        # Adding 1.5 * 2^23 and taking it off again is what rounds.
        if "quant" in kernel.name:
            assert text.count("0f4B400000") == text.count("0fCB400000") > 0
        assert kernel.name.startswith(FUSED) or "fma.rn.f32" not in text, kernel.name
        for inexact in ("fma.rn.f64", "div.full", "div.approx", "rcp.approx", ".ftz"):
            assert inexact not in text, (kernel.name, inexact)
