"""Every operator passes the same check, has a specification, and obeys the table of backends."""

import subprocess
import sys

import pytest
import torch

import micronet_kernels as kernels
from micronet_kernels import dispatch, ops


def _weights():
    return torch.linspace(-1, 1, 45).view(5, 9)


def _bits(numel):
    return torch.full(((numel + 7) // 8,), 0b1011, dtype=torch.uint8)


def _state():
    return torch.zeros(2), torch.zeros(2), torch.zeros(1, dtype=torch.int64)


IMAGE = torch.linspace(-1, 1, 2 * 3 * 4 * 5).view(2, 3, 4, 5)
ENDS = torch.tensor([-0.5, 0.75])
NOTHING = torch.empty(0, dtype=torch.uint8)

# Operator -> argument lists. An operator without any fails the test of that operator.
SAMPLES = {
    "update_range_": lambda: [(IMAGE, *_state(), 0.99), (torch.ones(1), *_state(), 0.0)],
    "fake_quant_per_tensor": lambda: [
        (IMAGE.clone().requires_grad_(), ENDS, 16, 0),
        (IMAGE.to(memory_format=torch.channels_last).requires_grad_(), ENDS, 5, 1),
        (torch.ones(0), ENDS, 16, 2),
    ],
    "fake_quant_per_tensor_backward": lambda: [
        (IMAGE, _bits(120)),
        (IMAGE.to(memory_format=torch.channels_last), _bits(120)),
    ],
    "fake_quant_per_channel": lambda: [
        (_weights().requires_grad_(), _bits(45), 16, 0),
        (_weights().requires_grad_(), NOTHING, 5, 1),
    ],
    "quantize_per_channel": lambda: [(_weights(), _bits(45), 16, 0), (_weights(), NOTHING, 16, 2)],
    "mask_gradient": lambda: [(_weights(), _bits(45))],
    "smallest_magnitude_mask": lambda: [(_weights(), 7), (torch.ones(9), 0)],
    "pack_bits": lambda: [(_weights() > 0,), (torch.ones(0, dtype=torch.bool),)],
    "unpack_bits": lambda: [(_bits(45), 45), (NOTHING, 0)],
    "count_nonzero": lambda: [(_weights(),)],
    "count_nonzero_per_channel": lambda: [(_weights(),)],
}


@pytest.mark.parametrize("op", ops.OPS)
def test_opcheck(backend, op):
    samples = SAMPLES[op]()
    assert samples
    for sample in samples:
        results = torch.library.opcheck(getattr(torch.ops.micronet, op).default, sample)
        assert set(results.values()) == {"SUCCESS"}


@pytest.mark.gpu
@pytest.mark.parametrize("op", ops.OPS)
def test_opcheck_on_cuda(op):
    for sample in SAMPLES[op]():
        moved = [
            a.detach().cuda().requires_grad_(a.requires_grad) if isinstance(a, torch.Tensor) else a
            for a in sample
        ]
        results = torch.library.opcheck(getattr(torch.ops.micronet, op).default, tuple(moved))
        assert set(results.values()) == {"SUCCESS"}


def test_every_registered_operator_is_listed_and_specified():
    registered = {
        name.split("::")[1].split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("micronet::")
    }
    assert registered == set(ops.OPS) == set(SAMPLES)
    assert set(dispatch.TABLE["reference"]["any"]) == registered
    for kernels_of_device in dispatch.TABLE["native"].values():
        assert set(kernels_of_device) <= registered


@pytest.mark.parametrize("op", ops.OPS)
def test_every_operator_is_available_on_the_cpu(op):
    expected = ["native", "reference"] if "native" in kernels.available_backends() else None
    assert dispatch.available(op, "cpu") == (expected or ["reference"])


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
    with pytest.raises(ValueError, match="no backend 'fast'; there are native, reference"):
        with kernels.use_backend("fast"):
            pass


WITHOUT_EXTENSION = """
import sys
sys.modules["micronet_kernels._C"] = None
import torch
import micronet_kernels as kernels
assert kernels.available_backends() == ["reference"]
assert kernels.pack_bits(torch.ones(9, dtype=torch.bool)).tolist() == [255, 1]
try:
    with kernels.use_backend("native"):
        pass
except RuntimeError as error:
    print(error)
"""


def test_without_the_extension_the_reference_serves():
    paths = [str(p) for p in sys.path]
    code = f"import sys; sys.path[:] = {paths!r}\n{WITHOUT_EXTENSION}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "'native' is not available: the extension micronet_kernels._C is not" in done.stdout
