"""Networks on the emulated device: the bits of the CPU, and gradients that are no other.

All but our kernels is the CPU's there, so that what a step computes and what it keeps is the same
to the bit. Gradients go through torch's own convolutions, whose sums are of another order.
"""

import copy
import json
import random
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import micronet_kernels as kernels
from block_networks import Gated, chain, images
from devices import DEVICE
from guarded_steps import batch, stepper, take
from lazy_networks import STATES, TAILS, State, Tail
from micronet.cli import stage, train_commands, train_main
from micronet.models import architectures
from micronet.quantization import quantize
from micronet.quantization.precision import LayerBits
from micronet.runs import checkpoint
from micronet.train import main
from micronet.training import network_trial, optimizer
from micronet.training.state import pack
from shared_runs import THREE_STEPS, qat_command
from small_recipes import PRUNE, QUANTIZE

pytestmark = pytest.mark.emulated

LEARNED = {"weight_step": "learned", "activation_step": "learned"}
PRECISIONS = [
    LayerBits(4, 4),
    LayerBits(4, 4, **LEARNED),
    LayerBits(4, 4, **LEARNED, offset=True),
    LayerBits(8, 8),
    LayerBits(8, 8, symmetric=True),
    LayerBits(5, 3, activation_step="learned"),
]
NETWORKS = ["resnet20", "mobilenetv2_cifar", "efficientnet-micro", "timm:mobilenetv3_small_050"]
# Of a gradient's largest element; what a faulty kernel errs by is as large as the gradient itself.
APART = 1e-4
# Of the length of all gradients, where two bytes round sums of another order to the number beside.
APART_IN_TWO_BYTES = 0.05


def assert_same_bits(here, there):
    assert here.dtype == there.dtype and here.shape == there.shape
    assert there.device.type == DEVICE.type and torch.equal(here, there.cpu())


def assert_near(all_here, all_there, dtype):
    """Gradients by gradients, of which some may be None on both."""
    pairs = []
    for here, there in zip(all_here, all_there, strict=True):
        assert (there is None) == (here is None)
        if here is not None:
            assert there.device.type == DEVICE.type and here.dtype == there.dtype
            pairs.append((here.flatten(), there.cpu().flatten()))
    if dtype == torch.float32:
        for here, there in pairs:
            assert float((here - there).abs().max()) <= APART * max(float(here.abs().max()), 1e-6)
    else:
        here, there = (torch.cat(gradients) for gradients in zip(*pairs, strict=True))
        assert float((here - there).norm()) <= APART_IN_TWO_BYTES * float(here.norm())


def converted(model, bits, x):
    """A quantized network that has seen a batch, and its twin on the device."""
    quantize.convert_(model, dict.fromkeys(architectures.layers(model), bits))
    model.train()(x)
    return model, copy.deepcopy(model).to(DEVICE)


def assert_steps_agree(model, twin, x, dtype=torch.float32):
    """Of a step: the values, the gradients of parameters and images, and the state it leaves."""
    found = []
    for network, device in ((model, "cpu"), (twin, DEVICE.type)):
        given = x.detach().to(device).requires_grad_()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype != torch.float32):
            y = network.train()(given)
        slopes = torch.linspace(-1, 1, y.numel()).view(y.shape).to(device)
        (y.float() * slopes).sum().backward()
        found.append((y.detach(), given.grad))
    (y, grad), (same_y, same_grad) = found
    assert_same_bits(y, same_y)
    here, there = ([p.grad for p in network.parameters()] for network in (model, twin))
    assert_near([grad, *here], [same_grad, *there], dtype)
    for here, there in zip(model.buffers(), twin.buffers(), strict=True):
        assert_same_bits(here, there)


def assert_evaluations_agree(model, twin, x):
    with torch.no_grad():
        assert_same_bits(model.eval()(x), twin.eval()(x.to(DEVICE)))


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("state", STATES)
def test_what_waits_for_its_reader(state, tail, rng):
    x = images(rng, (2, 6, 9, 7))
    model, twin = converted(nn.Sequential(State(state), Tail(tail)), LayerBits(4, 4), x)
    assert_steps_agree(model, twin, x)
    assert_evaluations_agree(model, twin, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bits", PRECISIONS, ids=str)
@pytest.mark.parametrize("make", [chain, Gated])
def test_blocks_of_every_precision(make, bits, dtype, rng):
    x = images(rng, (2, 16, 12, 12))
    model, twin = converted(make(), bits, x)
    assert_steps_agree(model, twin, x, dtype)
    with kernels.recompute_in_backward():
        assert_steps_agree(model, twin, x, dtype)
    assert_evaluations_agree(model, twin, x)


@pytest.mark.parametrize("arch", NETWORKS)
def test_whole_networks(arch, rng):
    model = architectures.create_model(arch, 10)
    x = images(rng, (4, 3, 32, 32))
    bits = random.Random(arch).choice(PRECISIONS)
    model, twin = converted(model, bits, x)
    assert_evaluations_agree(model, twin, x)
    sgds = [torch.optim.SGD(m.parameters(), 0.01, momentum=0.9) for m in (model, twin)]
    model.train(), twin.train()
    losses = []
    for network, sgd, device in zip((model, twin), sgds, ("cpu", DEVICE), strict=True):
        for _ in range(2):
            sgd.zero_grad()
            labels = torch.arange(4, device=device)
            loss = F.cross_entropy(network(x.to(device)), labels)
            loss.backward()
            sgd.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_whole_step_of_training():
    """Distilled, pruned, dampened, with an average, in parts: what stays is on the device."""
    here, there = stepper(True), stepper(True, device=DEVICE)
    for number in (1, 2):
        take(here, number, batch(number))
        take(there, number, batch(number))
    kept, on_device = (pack(s.state, {})[0] for s in (here, there))
    assert kept.keys() == on_device.keys()
    for name, tensor in kept.items():
        other = on_device[name].cpu()
        if tensor.is_floating_point():
            torch.testing.assert_close(other, tensor, rtol=1e-3, atol=1e-4, msg=name)
        else:
            assert torch.equal(tensor, other), name


@contextmanager
def commands_on_the_device():
    with pytest.MonkeyPatch.context() as patch:
        for module in (optimizer, network_trial, stage, train_commands, train_main):
            patch.setattr(module, "device", lambda: DEVICE)
        yield


def test_commands_from_fit_to_evaluation(tmp_path, resnet8, capsys):
    """Networks and images are moved, what is written comes back, and the CPU evaluates the same."""
    recipe = {"train": {"epochs": 2, "model_ema": 0.9}, "quantize": QUANTIZE, "prune": PRUNE}
    fitted, out = tmp_path / "fit", tmp_path / "qat"
    with commands_on_the_device():
        fit = ["fit", "--arch", resnet8, "--epochs", "1", "--out", str(fitted), *THREE_STEPS]
        assert main(fit) == 0
        qat = qat_command(fitted, tmp_path, recipe, [*THREE_STEPS, "--out", str(out)])
        assert main(qat) == 0
        capsys.readouterr()
        assert main(["eval", str(out), "--json"]) == 0
        there = json.loads(capsys.readouterr().out)
    assert main(["eval", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == there and there["total"] > 300
    assert all(
        value.device.type == "cpu"
        for value in checkpoint.load(out / "last.safetensors").tensors.values()
    )
