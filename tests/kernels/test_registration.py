"""Every operator passes the same check, has a specification, and obeys the table of backends."""

import os
import subprocess
import sys
from itertools import product

import pytest
import torch

import conv_samples
import micronet_kernels as kernels
import norm_cases
from devices import DEVICE, EMULATED, on_the_device
from micronet_kernels import dispatch, ops
from samples import DTYPES, NOTHING, fresh_state


def _weights(dtype=torch.float32):
    return torch.linspace(-1, 1, 45).view(5, 9).to(dtype)


def _image(dtype=torch.float32, **options):
    return torch.linspace(-1, 1, 2 * 3 * 4 * 5).view(2, 3, 4, 5).to(dtype, **options)


def _bits(numel):
    return torch.full(((numel + 7) // 8,), 0b1011, dtype=torch.uint8)


def _steps(channels):
    return torch.full((channels,), 0.125).requires_grad_(), torch.full((channels,), -8.0)


ENDS = torch.tensor([-0.5, 0.75])
FIRST, LATER = torch.tensor([0]), torch.tensor([3])
FLAT = {"memory_format": torch.channels_last}

# Operator -> argument lists for a dtype. An operator without any fails the test of that operator.
SAMPLES = {
    "update_range_": lambda d: [
        (_image(d), *fresh_state(), 0.99),
        (torch.ones(1, dtype=d), *fresh_state(), 0.0),
    ],
    "move_range_": lambda d: [(ENDS, *fresh_state(), 0.99)],
    "fake_quant_per_tensor": lambda d: [
        (_image(d).requires_grad_(), ENDS, 16, 0),
        (_image(d, **FLAT).requires_grad_(), ENDS, 5, 1),
        (torch.ones(0, dtype=d), ENDS, 16, 2),
    ],
    "fake_quant_per_tensor_observed": lambda d: [
        (_image(d).requires_grad_(), ENDS, LATER, 16, 0),
        (_image(d, **FLAT).requires_grad_(), ENDS, FIRST, 5, 2),
    ],
    "fake_quant_per_tensor_backward": lambda d: [
        (_image(d), _bits(120)),
        (_image(d, **FLAT), _bits(120)),
    ],
    "quantize_per_tensor": lambda d: [
        (_image(d), ENDS, 16, 0),
        (_image(d, **FLAT), ENDS, 5, 2),
    ],
    "dequantize_per_tensor": lambda d: [
        (_bits(12 * 8), ENDS, 23, 16, 0, d),
        (NOTHING, ENDS, 0, 5, 2, d),
    ],
    "fake_quant_per_channel": lambda d: [
        (_weights(d).requires_grad_(), _bits(45), 16, 0),
        (_weights(d).requires_grad_(), NOTHING, 5, 1),
    ],
    "fake_quant_weights": lambda d: [
        (
            [_weights(d).requires_grad_(), _weights(d)[:3].clone().requires_grad_()],
            [_bits(45), NOTHING],
            [16, 5],
            0,
        ),
        ([_weights(d).requires_grad_()], [NOTHING], [16], 2),
    ],
    "quantize_per_channel": lambda d: [
        (_weights(d), _bits(45), 16, 0),
        (_weights(d), NOTHING, 16, 2),
    ],
    "mask_gradient": lambda d: [(_weights(d), _bits(45))],
    "mask_gradients": lambda d: [([_weights(d), _weights(d)[:3].clone()], [_bits(45), NOTHING])],
    "fake_quant_learned_step": lambda d: [
        (_image(d).requires_grad_(), NOTHING, *_steps(1), 16, 0.5),
        (_image(d, **FLAT).requires_grad_(), NOTHING, *_steps(1), 16, 1.0),
        (_weights(d).requires_grad_(), _bits(45), *_steps(5), 5, 1.0),
    ],
    "fake_quant_learned_step_backward": lambda d: [
        (_weights(d), _weights(d), _bits(45), *(s.detach() for s in _steps(5)), 5, 0.5),
    ],
    "pack_codes": lambda d: [(_bits(96) % 5, 5), (NOTHING, 16)],
    "unpack_codes": lambda d: [(_bits(56), 23, 5), (NOTHING, 0, 16)],
    "pack_bits": lambda d: [(_weights(d) > 0,), (torch.ones(0, dtype=torch.bool),)],
    "unpack_bits": lambda d: [(_bits(45), 45), (NOTHING, 0)],
    "count_bits": lambda d: [(_bits(45), 45), (NOTHING, 0)],
    "compact_by_bits": lambda d: [
        (_weights(d), torch.full((6,), 0b10001, dtype=torch.uint8), 12),
        (torch.arange(9, dtype=torch.int8), torch.tensor([3, 0], dtype=torch.uint8), 2),
    ],
    "expand_by_bits": lambda d: [
        (torch.ones(12, dtype=d), torch.full((6,), 0b10001, dtype=torch.uint8), 45),
        (NOTHING, _bits(3) * 0, 3),
    ],
    "count_nonzero": lambda d: [(_weights(d),)],
    "count_nonzero_per_channel": lambda d: [(_weights(d),)],
    "smallest_magnitude_mask": lambda d: [(_weights(d), 7), (torch.ones(9, dtype=d), 0)],
    **conv_samples.SAMPLES,
    **norm_cases.SAMPLES,
}


# Tracing through autograd takes most of the time, and sees no more in a second dtype or backend.
UNTRACED = ("test_schema", "test_autograd_registration", "test_faketensor")
TRACED = (*UNTRACED, "test_aot_dispatch_dynamic")
# Where gradients are registered torch looks up for its own devices alone.
LOOKED_UP = "test_autograd_registration"


def _check(op, sample, is_traced, left_out=()):
    checks = tuple(name for name in (TRACED if is_traced else UNTRACED) if name not in left_out)
    function = getattr(torch.ops.micronet, op).default
    results = torch.library.opcheck(function, sample, test_utils=checks)
    assert set(results.values()) == {"SUCCESS"}


def _signature(value):
    """All of an argument that a trace depends on: numbers go through it as they are."""
    if isinstance(value, list | tuple):
        return tuple(_signature(v) for v in value)
    if not isinstance(value, torch.Tensor):
        return type(value)
    return value.dtype, value.shape, value.stride(), value.requires_grad


# Both backends compute float32 where it may be taken for a copy; each has a type of two bytes more.
NAMES = [n for n in dispatch.TABLE if n != "triton"]
CHECKED = [*product([torch.float32], NAMES), *zip(DTYPES[1:], NAMES, strict=True)]


@pytest.mark.parametrize("dtype,name", CHECKED)
@pytest.mark.parametrize("op", ops.OPS)
def test_opcheck(op, dtype, name):
    traced = set()
    with kernels.use_backend(name):
        for sample in SAMPLES[op](dtype):
            is_new = _signature(sample) not in traced
            _check(op, sample, is_new and dtype == torch.float32 and name == "native")
            traced.add(_signature(sample))


@pytest.mark.device
@pytest.mark.parametrize("op", ops.OPS)
def test_opcheck_on_a_device(op):
    left_out = [LOOKED_UP] if EMULATED else []
    for name in dispatch.available(op, DEVICE.type):
        for dtype in DTYPES:
            with kernels.use_backend(name):
                for sample in SAMPLES[op](dtype):
                    moved = tuple(on_the_device(value) for value in sample)
                    _check(op, moved, dtype == torch.float32, left_out)


def test_every_registered_operator_is_listed_and_specified():
    registered = {
        name.split("::")[1].split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("micronet::")
    }
    assert registered == set(ops.OPS) == set(SAMPLES)
    assert set(dispatch.TABLE["reference"]["any"]) == registered
    for devices in dispatch.TABLE.values():
        for kernels_of_device in devices.values():
            assert set(kernels_of_device) <= registered


@pytest.mark.parametrize("op", ops.OPS)
def test_every_operator_is_available_on_the_cpu(op):
    expected = ["native", "reference"] if "native" in kernels.available_backends() else None
    found = [name for name in dispatch.available(op, "cpu") if name != "triton"]
    assert found == (expected or ["reference"])


def test_the_automatic_choice_prefers_native_and_falls_back_to_the_reference():
    order = list(dispatch.TABLE)
    assert order[0] == "native" and order[-1] == "reference"
    assert set(order) <= {"native", "triton", "reference"}


def test_a_forced_backend_never_falls_back(monkeypatch):
    monkeypatch.setitem(dispatch.TABLE, "native", {"cpu": {}})
    with pytest.raises(RuntimeError, match="backend 'native' has no pack_bits for cpu tensors"):
        with kernels.use_backend("native"):
            kernels.pack_bits(torch.ones(3, dtype=torch.bool))
    with kernels.use_backend("reference"):
        assert kernels.pack_bits(torch.ones(3, dtype=torch.bool)).tolist() == [7]


def test_choice_is_given_back_even_after_an_error():
    with pytest.raises(ZeroDivisionError):
        with kernels.use_backend("reference"), kernels.use_backend("reference"):
            raise ZeroDivisionError
    assert dispatch._forced is None


def test_unknown_backend_is_named():
    names = ", ".join(dispatch.TABLE)
    with pytest.raises(ValueError, match=f"no backend 'fast'; there are {names}"):
        with kernels.use_backend("fast"):
            pass


WITHOUT_EXTENSION = """
import sys
sys.modules["micronet_kernels._C"] = None
import torch
import micronet_kernels as kernels
from micronet_kernels import dispatch
print(*kernels.available_backends())
assert kernels.pack_bits(torch.ones(9, dtype=torch.bool)).tolist() == [255, 1]
for name in [name for name in dispatch.TABLE if name != "reference"]:
    try:
        with kernels.use_backend(name):
            pass
    except RuntimeError as error:
        print(error)
"""


@pytest.mark.slow
def test_without_the_extension_the_reference_serves():
    paths = [str(p) for p in sys.path]
    code = f"import sys; sys.path[:] = {paths!r}\n{WITHOUT_EXTENSION}"
    # Triton has kernels where there is a CUDA device, or where it is interpreted.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("reference\n")
    assert "'native' is not available: the extension micronet_kernels._C is not" in done.stdout
    assert all(f"'{name}' is not available: " in done.stdout for name in list(dispatch.TABLE)[:-1])
