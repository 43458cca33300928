"""A network that is moved while a compression knows it: what the compression keeps goes along."""

import pytest
import torch
import torch.nn.functional as F

import micronet
from compressed import PRUNE, Small, recipe, small
from devices import DEVICE
from micronet.quantization.faults import LearnedWatch
from micronet.training import optimizer
from micronet.utils.errors import UserError

pytestmark = pytest.mark.device

PRECISION = {"bits": 4, "step": "learned"}
IMAGE = {"layers": ["first.0"], "weights": {"bits": 8}, "activations": {"step": "image"}}
QUANTIZE = {"weights": PRECISION, "activations": PRECISION, "overrides": [IMAGE]}
LATER = {**PRUNE["groups"][0], "criterion": "second-order"}
RECIPES = {
    "average": {"train": {"model_ema": 0.9, "epochs": 3}, "prune": PRUNE},
    "second order": {"prune": {"start_epoch": 1, "end_epoch": 3, "groups": [LATER]}},
    "oscillations": {
        "quantize": {**QUANTIZE, "oscillations": {"momentum": 0.5, "freeze": 0.1, "dampen": 0.1}}
    },
}


def begun(plan, model=None):
    model = model or small()
    return model, micronet.compress(model, plan, mean=[0.5] * 3, std=[0.25] * 3)


def trained(model, compression, batches, kept=None):
    """Train for two epochs where the network is, from an optimizer's state or none."""
    sgd = torch.optim.SGD(compression.parameter_groups(), lr=0.01, momentum=0.9)
    if kept is not None:
        sgd.load_state_dict(kept)
    place, first = optimizer.device_of(model), max(compression.epoch, 0)
    model.train()
    for epoch in (first, first + 1):
        compression.begin_epoch(epoch, sgd)
        for images, labels in batches:
            sgd.zero_grad()
            logits = model(images.to(place))
            loss = F.cross_entropy(logits, labels.to(logits.device))
            with optimizer.convolutions(deterministic=True):
                (loss + compression.dampening_loss()).backward()
            sgd.step()
            compression.step()
    return sgd.state_dict()


def kept_of(compression):
    """All that a compression keeps, by kind and layer."""
    state = compression.state_dict()
    kinds = ("masks", "average", "oscillations", "curvature")
    return {f"{kind}/{name}": t for kind in kinds for name, t in state[kind].items()}


@pytest.mark.parametrize("moved", ["after its state", "after its weights", "in an epoch"])
@pytest.mark.parametrize("name", RECIPES)
def test_what_is_kept_of_a_network_goes_where_it_is_moved(name, moved, batches):
    plan = recipe(**RECIPES[name])
    model, compression = begun(plan)
    steps = trained(model, compression, batches)
    weights, state = model.state_dict(), compression.state_dict()
    found = []
    for when in ("before its state", moved):
        other, continued = begun(plan)
        if when == "before its state":
            other.to(DEVICE)
        continued.load_state_dict(state)
        if when == "after its state":
            other.to(DEVICE)
        other.load_state_dict(weights)
        if when == "in an epoch":
            continued.begin_epoch(continued.epoch)
        other.to(DEVICE)
        trained(other, continued, batches, steps)
        found.append(other.state_dict() | kept_of(continued))
    first, second = found
    assert first.keys() == second.keys() and len(kept_of(continued)) > 0
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key]), key
        # Bits of masks are copied to where they are needed.
        assert key.startswith("masks/") or second[key].device.type == DEVICE.type, key


def test_steps_that_are_learned_are_looked_at_where_they_are_moved(monkeypatch):
    model, compression = begun(recipe(quantize={"weights": PRECISION, "activations": None}))
    compression.begin_epoch(0)
    watch = LearnedWatch()
    watch.look(model, 1)
    # CUDA's parameters stay the same objects by themselves.
    monkeypatch.setattr(torch.__future__, "_swap_module_params_on_conversion", True)
    model.to(DEVICE)
    watch.look(model, 2)
    with torch.no_grad():
        model.fc.weight_step[1] = -1.0
    with pytest.raises(UserError, match=r"weights of layer 'fc' is -1.0 after step 3, but"):
        for number in range(3, 100):
            watch.look(model, number)


class InTwoPlaces(Small):
    """Its second block, and all after it, are on the device."""

    def __init__(self):
        super().__init__()
        self.second.to(DEVICE), self.fc.to(DEVICE)

    def forward(self, x):
        return self.fc(self.second(self.first(x).to(DEVICE)).mean((2, 3)))


@pytest.mark.parametrize("name", ["together", *RECIPES])
def test_layers_may_lie_on_several_devices(name, batches):
    together = {**PRUNE, "groups": [{**PRUNE["groups"][0], "scope": "group"}]}
    plan = recipe(**({"prune": together} if name == "together" else RECIPES[name]))
    found = []
    for kind in (Small, InTwoPlaces):
        torch.manual_seed(0)
        model, compression = begun(plan, kind())
        # A batch: rounding makes large differences of small ones in more steps than two.
        trained(model, compression, batches[:1])
        found.append(model.state_dict() | kept_of(compression))
    one, two = found
    assert one.keys() == two.keys() and two["first.0.weight"].device.type == "cpu"
    assert two["fc.weight"].device.type == DEVICE.type
    for key, tensor in one.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(two[key].cpu(), tensor, rtol=1e-3, atol=1e-4, msg=key)
        elif key.startswith("masks/"):
            assert torch.equal(two[key].cpu(), tensor), key
