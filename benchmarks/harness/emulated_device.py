"""A device of torch's on which micronet's CUDA kernels run by their emulator, on the host.

``make build-device`` builds the module. A process takes it in place of the installed one by `load`,
before anything imports `micronet_kernels`; tests take this file as a plugin of pytest.
"""

import contextlib
import importlib.util
import sys
import sysconfig
import types
from pathlib import Path

import torch

from benchmarks.harness.machine import ROOT

NAME, MODULE = "emulated", "micronet_kernels._C"


def built() -> Path:
    """Return where ``make build-device`` puts the module."""
    return ROOT / f"build/emulated/micronet_kernels/_C{sysconfig.get_config_var('EXT_SUFFIX')}"


def load() -> torch.device:
    """Register the device, give its kernels to `micronet_kernels`, and return it.

    Raises:
        RuntimeError: `micronet_kernels` has been imported, with other kernels.
        FileNotFoundError: the module is not built.
    """
    if NAME in sys.modules.get(MODULE, types.SimpleNamespace(DEVICES=())).DEVICES:
        return torch.device(NAME)
    if "micronet_kernels" in sys.modules:
        raise RuntimeError("load the emulated device before micronet_kernels is imported")
    if not built().exists():
        raise FileNotFoundError(f"{built()} is not there: make build-device")
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _device_module())
    torch.utils.generate_methods_for_privateuse1_backend()
    spec = importlib.util.spec_from_file_location(MODULE, built())
    assert spec is not None and spec.loader is not None
    sys.modules[MODULE] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return torch.device(NAME)


def _device_module() -> types.ModuleType:
    """Return what torch asks of ``torch.emulated``; random numbers are the CPU's."""
    module = types.ModuleType(f"torch.{NAME}")
    answers = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "synchronize": lambda device=None: None,
        "device": lambda device: contextlib.nullcontext(),
        "get_amp_supported_dtype": lambda: [torch.bfloat16, torch.float16],
        "manual_seed_all": lambda seed: None,
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
        "_is_in_bad_fork": lambda: False,
    }
    for name, answer in answers.items():
        setattr(module, name, answer)
    return module


def pytest_load_initial_conftests() -> None:
    """Load the device in every process of a run of pytest, those that share its tests too."""
    load()
