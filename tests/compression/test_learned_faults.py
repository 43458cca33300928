"""Steps and offsets that an optimizer has taken to where they are none: nothing goes on."""

import pytest
import torch
from torch import nn

import micronet
from compressed import LEARNED, recipe, small
from micronet.quantization.faults import Learned, LearnedWatch
from micronet.utils.errors import UserError

OFFSET = {"weights": LEARNED, "activations": {**LEARNED, "offset": True}}
STEPS = [0.0, -0.25, 1e-39, torch.inf, torch.nan]
FAULTS = [
    *[("weight_step", value, "the learned step of the weights of layer") for value in STEPS],
    *[("input_quantizer.step_size", v, "the learned step of the input of layer") for v in STEPS],
    *[
        ("input_quantizer.offset", v, "the learned offset of the input of layer")
        for v in (torch.inf, -torch.inf, torch.nan)
    ],
]
IMAGES, LABELS = torch.randn(4, 3, 9, 9), torch.tensor([0, 1, 2, 3])


def begun():
    """A network of learned steps after one step of a loop."""
    model = small()
    compression = micronet.compress(model, recipe(quantize=OFFSET))
    optimizer = torch.optim.SGD(compression.parameter_groups(), lr=0.01)
    compression.begin_epoch(0, optimizer)
    one_step(model, compression, optimizer)
    return model, compression, optimizer


def one_step(model, compression, optimizer):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model.train()(IMAGES), LABELS).backward()
    optimizer.step()
    compression.step()


def break_(model, name, value):
    with torch.no_grad():
        model.get_parameter(f"second.0.{name}").view(-1)[-1] = value
    return str(torch.tensor(value).item())


def each_refuses(uses, sentence, value):
    for use in uses:
        with pytest.raises(UserError, match=rf"{sentence} 'second\.0' is ") as refused:
            use()
        assert value in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "value", "sentence"), FAULTS)
def test_nothing_is_computed_or_written_of_it(name, value, sentence, tmp_path):
    model, compression, _ = begun()
    shown = break_(model, name, value)
    for training in (False, True):
        logits = model.train(training)(IMAGES)
        assert logits.isnan().all(), training
    uses = [
        lambda: micronet.evaluate(model, [(IMAGES, LABELS)]),
        lambda: micronet.score(model, image_size=9),
        lambda: micronet.reestimate_(model.train(), [IMAGES]),
        lambda: micronet.export(model, tmp_path / "packed", image_size=9),
        lambda: micronet.export(model, tmp_path / "torch", image_size=9, format="torch"),
        compression.verify,
        compression.begin_epoch,
    ]
    each_refuses(uses, sentence, shown)
    with pytest.raises(UserError, match=rf"'second\.0\.{name}' holds"):
        micronet.save(compression, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "value", "sentence"), FAULTS)
def test_the_step_of_a_loop_that_made_it_is_named(name, value, sentence):
    model, compression, optimizer = begun()
    one_step(model, compression, optimizer)
    real = optimizer.step

    def broken():
        real()
        break_(model, name, value)

    optimizer.step = broken
    with pytest.raises(UserError, match=rf"{sentence} 'second\.0' is .* after step 3, but must"):
        one_step(model, compression, optimizer)


def test_a_rate_that_is_too_high_ends_a_loop_in_one_sentence():
    model, compression, _ = begun()
    optimizer = torch.optim.SGD(compression.step_groups(), lr=1e4)
    sentence = r"the learned (step|offset) of the .* after step \d+, but must stay"
    with pytest.raises(UserError, match=sentence):
        for _ in range(20):
            one_step(model, compression, optimizer)


def test_weights_that_are_not_finite_are_not_rounded_away(tmp_path):
    model, _, _ = begun()
    with torch.no_grad():
        model.second[0].weight[3, 1, 0, 0] = torch.nan
    assert model.eval()(IMAGES).isnan().all() and model.train()(IMAGES).isnan().all()
    named = r"the weights of layer 'second\.0' hold values that are not finite"
    for use in (
        lambda: micronet.score(model, image_size=9),
        lambda: micronet.export(model, tmp_path / "torch", image_size=9, format="torch"),
    ):
        with pytest.raises(UserError, match=named):
            use()


def test_the_first_fault_is_told_however_late_it_is_found(monkeypatch):
    """As on a device, whose steps travel together: later ones are worse, and not what is told."""
    model, _, _ = begun()
    monkeypatch.setattr("micronet.quantization.faults.Deferred", _Late)
    watch = LearnedWatch()
    watch.look(model, 1)
    break_(model, "weight_step", -0.5)
    watch.look(model, 2)
    for part in (*Learned.of(model).steps.values(), *Learned.of(model).offsets.values()):
        part.detach().fill_(torch.nan)
    with pytest.raises(UserError, match=r"weights of layer 'second\.0' is -0\.5 after step 2"):
        watch.look(model, 3)


class _Late:
    """Hands rows over three at a time."""

    def __init__(self, every):
        assert every == 1
        self.rows = []

    def add(self, given, row):
        self.rows.append((given, row.tolist()))
        return self.rows if len(self.rows) == 3 else []


def test_a_network_goes_on_once_it_is_sound_again():
    model, compression, optimizer = begun()
    kept, state = {k: v.clone() for k, v in model.state_dict().items()}, compression.state_dict()
    break_(model, "weight_step", 0.0)
    with pytest.raises(UserError, match=r"'second\.0' is 0\.0"):
        compression.step()
    compression.load_state_dict(state)
    model.load_state_dict(kept)
    one_step(model, compression, optimizer)
