"""A training step asks the device for nothing, and hands what it gave over later."""

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from devices import DEVICE
from guarded_steps import batch, stepper, take
from micronet.compression.features import FeaturePlan
from micronet.runs import checkpoint
from micronet.train import main
from micronet.training.optimizer import device_of
from micronet.training.steps import epoch
from micronet.training.steps.step import Batch
from micronet.utils.deferred import Deferred

# Operators whose result, or its size, the host has to wait for.
READS = {
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "nonzero"),
    *("masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive", "bincount"),
    *("nonzero_static", "repeat_interleave"),
}
COPIES = {"_to_copy", "copy_", "_copy_from", "_copy_from_and_resize"}


class NoReads(TorchDispatchMode):
    """Raises where the host would read a device, as if the CPU's tensors were on one."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.overloadpacket.__name__, kwargs or {}
        self.seen.add(name)
        assert name not in READS, f"{function} reads the device"
        if name in ("index", "index_put_", "index_put"):
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            assert not masks, f"{function} reads a mask"
        result = function(*args, **kwargs)
        if name in COPIES:
            devices = {t.device for t in (*args, result) if isinstance(t, torch.Tensor)}
            assert len(devices) == 1, f"{function} copies from {devices}"
        return result

    def __enter__(self):
        self.seen = set()
        return super().__enter__()


@pytest.fixture
def no_reads(monkeypatch):
    """A mode that forbids what is dispatched, and what reads memory without it."""

    def refuse(self, *args):
        raise AssertionError("the memory of a tensor is read")

    with monkeypatch.context() as patch:
        for name in ("tolist", "numpy", "__array__"):
            patch.setattr(torch.Tensor, name, refuse)
        with NoReads() as mode:
            yield mode


# What a device's tensors go through is not all that the CPU's do.
DEVICES = ["cpu", pytest.param(DEVICE, marks=pytest.mark.device)]


@pytest.fixture(params=DEVICES, ids=str)
def taken(request):
    """A step is behind it: the first one sets what learned quantizers know on the host."""
    taker = stepper(deferred=True, device=request.param)
    take(taker, 1)
    return taker


@pytest.fixture
def batches(taken):
    """Images by the number of the step, where the network is."""
    place = device_of(taken.state.model)
    return {number: Batch(*(t.to(place) for t in batch(number))) for number in (2, 3)}


def test_a_step_reads_nothing(taken, batches, no_reads):
    rows = [take(taken, number, images) for number, images in batches.items()]
    # Quantization, distillation, clipping, momentum, masks, averages, and the choice at the end.
    expected = {"_log_softmax", "masked_fill_", "lerp_", "linalg_vector_norm", "where", "argmax"}
    assert expected <= {name.removeprefix("_foreach_") for name in no_reads.seen}
    assert {"fake_quant_learned_step", "move_range_"} <= no_reads.seen
    assert all(row.shape == (4,) for row in rows)


def test_a_step_that_distills_features_reads_nothing(taken, batches, request):
    plan = taken.state.compression.plan
    features = FeaturePlan(("layer1", "layer2.0.conv1"), 0.5, "features")
    taken.state.compression.plan = dataclasses.replace(plan, features=features)
    no_reads = request.getfixturevalue("no_reads")
    assert take(taken, 2, batches[2]).shape == (4,)
    assert {"mse_loss", "clone"} <= no_reads.seen


READERS = {
    "float": float,
    "bool": bool,
    "tolist": lambda tensor: tensor.tolist(),
    "numpy": lambda tensor: tensor.numpy(),
    "nonzero": torch.nonzero,
    "mask": lambda tensor: tensor[tensor > 0],
    "copy": lambda tensor: tensor.to("meta"),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_what_reads_is_noticed(no_reads, read):
    with pytest.raises(AssertionError):
        read(torch.ones(1))


def test_rows_are_handed_over_in_order_while_later_ones_are_computed():
    results, learned = Deferred(every=3), []
    for number in range(8):
        learned += results.add(number, torch.tensor([number, 0.5], dtype=torch.float64))
        # What was sent last is under way until the next is sent.
        assert len(learned) == (3 if number >= 5 else 0)
    learned += results.flush()
    assert learned == [(number, [number, 0.5]) for number in range(8)]
    assert list(results.flush()) == []


def test_rows_are_handed_over_at_once_where_the_host_need_not_wait():
    results = Deferred(every=1)
    for number in range(3):
        assert list(results.add(number, torch.ones(2))) == [(number, [1.0, 1.0])]


def test_a_run_that_reads_later_leaves_the_same_bits(tmp_path, monkeypatch):
    """Averaged, with a checkpoint between two reads."""
    fit = ["fit", "--arch", "resnet20", "--image-size", "8", "--batch-size", "200"]
    fit += ["--threads", "1", "--epochs", "1", "--model-ema", "0.9", "--checkpoint-every", "4"]
    found = []
    for ahead in (False, True):
        monkeypatch.setattr(epoch, "runs_ahead", lambda device, ahead=ahead: ahead)
        out = tmp_path / str(ahead)
        assert main([*fit, "--out", str(out)]) == 0
        found.append(checkpoint.load(out / "last.safetensors"))
    one, two = found
    assert one.tensors.keys() == two.tensors.keys()
    assert all(torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)
    drop = {"seconds", "images_per_second"}
    kept = [{k: v for k, v in each.meta["metrics"].items() if k not in drop} for each in found]
    assert kept[0] == kept[1]
