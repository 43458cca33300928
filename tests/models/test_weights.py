"""Foreign weight files: their names, their damage, and that nothing of theirs is run."""

import importlib
import io
import os
import pickle
import sys
import types
from collections import OrderedDict

import pytest
import safetensors.torch
import torch

from micronet.models import architectures, weights
from micronet.utils.errors import UserError


@pytest.fixture
def source():
    model = architectures.create_model("resnet20", 10)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def assert_loads(path, source):
    model = architectures.create_model("resnet20", 10)
    architectures.load_weights(model, path)
    state = model.state_dict()
    for name, value in source.state_dict().items():
        assert torch.equal(state[name], value), name


def assert_refused(path, match, arch="resnet20"):
    with pytest.raises(UserError, match=match) as caught:
        architectures.load_weights(architectures.create_model(arch, 10), path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keys", [(), ("state_dict",), ("model",), ("model", "state_dict")])
@pytest.mark.parametrize("legacy", [False, True])
def test_nested_and_prefixed_states(source, tmp_path, keys, legacy):
    found = OrderedDict(("module." + k, v) for k, v in source.state_dict().items())
    for key in reversed(keys):
        found = {key: found, "epoch": 3, "best": torch.tensor(1.0)}
    path = tmp_path / "weights.pth.tar"
    torch.save(found, path, _use_new_zipfile_serialization=not legacy)
    assert_loads(path, source)


@pytest.mark.parametrize("prefix", ["", "model/"])
def test_safetensors_and_our_own_checkpoints(source, tmp_path, prefix):
    state = {prefix + name: value for name, value in source.state_dict().items()}
    if prefix:
        state["model/conv1.input_quantizer.range"] = torch.zeros(2)
        state["mask/conv1"] = torch.zeros(54, dtype=torch.uint8)
    path = tmp_path / "last.safetensors"
    safetensors.torch.save_file(state, path)
    assert_loads(path, source)


def test_files_older_than_the_batch_counters(source, tmp_path):
    state = source.state_dict()
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    assert_loads(tmp_path / "old.pth", source)


def save_with_fake_modules(found_of, path, *, legacy):
    """Save an object that names classes of modules which are gone when it is read."""
    names = ["distiller", "distiller.quantization", "distiller.quantization.range_linear"]
    modules = {name: types.ModuleType(name) for name in names}
    quantizer = type("QuantAwareTrainRangeLinearQuantizer", (), {"__module__": names[-1]})
    mode = type("LinearQuantMode", (dict,), {"__module__": names[-1]})
    modules[names[-1]].QuantAwareTrainRangeLinearQuantizer = quantizer
    modules[names[-1]].LinearQuantMode = mode
    sys.modules.update(modules)
    try:
        torch.save(found_of(quantizer, mode), path, _use_new_zipfile_serialization=not legacy)
    finally:
        for name in modules:
            del sys.modules[name]


def quantized_names(state):
    """Name tensors as Distiller does: float masters beside quantized weights, under wrappers."""
    result = OrderedDict()
    for name, value in state.items():
        key = "module." + name
        if name.startswith("layer1.0.conv1"):
            key = key.replace("conv1", "conv1.wrapped_module")
        if value.dim() in (2, 4):
            stem = key.removesuffix("weight")
            result[stem + "float_weight"] = value
            result[stem + "weight"] = torch.zeros_like(value)
        else:
            result[key] = value
    result["module.relu.fake_q.tracked_min"] = torch.zeros(1)
    result["module.layer1.0.relu.tracked_max_biased"] = torch.zeros(1)
    result["module.layer1.0.relu.zero_point"] = torch.zeros(1)
    return result


# PyTorch 1.1, which Distiller's checkpoints are of, knew only the older format.
@pytest.mark.parametrize("legacy", [True, False])
def test_distiller_checkpoint_of_classes_that_no_longer_exist(source, tmp_path, legacy):
    def checkpoint(quantizer, mode):
        instance = mode(bits=4)
        instance.name = "ASYMMETRIC_UNSIGNED"
        return {
            "epoch": 7,
            "arch": "resnet20",
            "state_dict": quantized_names(source.state_dict()),
            "optimizer_type": torch.optim.SGD,
            "compression_sched": {"masks_dict": {"module.conv1.weight": torch.ones(16, 3, 3, 3)}},
            "quantizer_metadata": {"type": quantizer, "params": {"mode": instance, "keys": {1}}},
            "extras": {"best_top1": 91.5},
        }

    path = tmp_path / "best.pth.tar"
    save_with_fake_modules(checkpoint, path, legacy=legacy)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    assert_loads(path, source)


def test_masters_of_masters_win(source, tmp_path):
    state = source.state_dict()
    resumed = dict(state)
    resumed["fc.float_weight"] = torch.zeros_like(state["fc.weight"])
    resumed["fc.float_float_weight"] = state["fc.weight"]
    resumed["fc.weight"] = torch.ones_like(state["fc.weight"])
    torch.save(resumed, tmp_path / "resumed.pth")
    assert_loads(tmp_path / "resumed.pth", source)


class Payload:
    """Pickles as a call, which any ordinary unpickler makes."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("attack", ["system", "eval", "exec", "import", "load_from_bytes"])
def test_no_code_of_a_file_is_run(source, tmp_path, attack, legacy):
    trace = tmp_path / "trace"
    code = f"open({str(trace)!r}, 'w')"
    inner = pickle.dumps(Payload(eval, code))
    payload = {
        "system": Payload(os.system, f"touch {trace}"),
        "eval": Payload(eval, code),
        "exec": Payload(exec, code),
        "import": Payload(importlib.import_module, "this"),
        "load_from_bytes": Payload(torch.storage._load_from_bytes, inner),
    }[attack]
    path = tmp_path / "weights.pth"
    found = {"state_dict": source.state_dict(), "payload": payload}
    torch.save(found, path, _use_new_zipfile_serialization=not legacy)
    imported = "this" in sys.modules
    assert_loads(path, source)
    assert not trace.exists()
    assert ("this" in sys.modules) == imported


def test_a_file_cannot_change_the_functions_that_rebuild_tensors():
    # By hand: name the function, make a dictionary, set it as the function's state.
    program = b"ctorch._utils\n_rebuild_tensor_v2\n}(Vpoked\nI1\nub."
    pickle.loads(program)
    assert torch._utils._rebuild_tensor_v2.poked == 1
    del torch._utils._rebuild_tensor_v2.poked
    found = weights._RestrictedPickle.load(io.BytesIO(program), encoding="utf-8")
    assert callable(found)
    assert not hasattr(torch._utils._rebuild_tensor_v2, "poked")


def test_another_architecture_is_named_by_its_first_odd_tensor(source, tmp_path):
    path = tmp_path / "resnet20.pth"
    torch.save(source.state_dict(), path)
    assert_refused(path, r"'layer1\.3\.conv1\.weight' is absent there", arch="resnet32")
    bigger = tmp_path / "resnet32.pth"
    torch.save(architectures.create_model("resnet32", 10).state_dict(), bigger)
    assert_refused(bigger, r"'layer1\.3\.conv1\.weight' is .* and absent in CifarResNet")
    hundred = tmp_path / "hundred.pth"
    torch.save(architectures.create_model("resnet20", 100).state_dict(), hundred)
    assert_refused(hundred, r"'fc\.weight' is \(100, 64\) there and \(10, 64\)")


@pytest.mark.parametrize("kind", ["new.pth", "legacy.pth", "classes.pth.tar", "x.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_cut_files(source, tmp_path, kind, share):
    path = tmp_path / kind
    state = source.state_dict()
    if kind == "x.safetensors":
        safetensors.torch.save_file(state, path)
    elif kind == "classes.pth.tar":
        found = {"state_dict": state, "optimizer_type": torch.optim.SGD}
        torch.save(found, path, _use_new_zipfile_serialization=False)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "new.pth")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert_refused(path, "cut short or damaged")


def test_files_that_are_no_weights(tmp_path):
    assert_refused(tmp_path / "none.pth", "there is no weights file")
    assert_refused(tmp_path / "weights.onnx", "of no known kind")
    text = tmp_path / "text.pt"
    text.write_text("not a pickle at all")
    assert_refused(text, "cut short or damaged")
    for index, found in enumerate([{"epoch": 3}, [torch.zeros(3)], {"state_dict": {}}]):
        path = tmp_path / f"{index}.pth"
        torch.save(found, path)
        assert_refused(path, "holds no weights")


def test_a_network_that_asks_for_the_version_of_its_weights(tmp_path):
    first, second = (architectures.create_model("mnasnet0_5", 10) for _ in range(2))
    torch.save(dict(first.state_dict()), tmp_path / "w.pth")
    architectures.load_weights(second, tmp_path / "w.pth")
    assert all(torch.equal(v, second.state_dict()[k]) for k, v in first.state_dict().items())
