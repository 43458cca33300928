"""A step that is not sound: nothing of it stays, and the run says what was wrong with it."""

import pytest
import torch

from guarded_steps import batch, everything, stepper, take
from micronet.training.plan import StepLocation
from micronet.training.steps.failure import step_error

DEFERRED = pytest.mark.parametrize("deferred", [False, True], ids=["read", "deferred"])


def with_nan(taker, monkeypatch):
    images = batch(3)
    # In the second of two parts.
    images.images[-1, 1, 2, 3] = torch.nan
    return images


def exploding(taker, monkeypatch):
    with torch.no_grad():
        taker.state.model.fc.bias.add_(torch.arange(10) * 1e6)
    return batch(3)


def with_infinite_range(taker, monkeypatch):
    """The forward pass leaves a range that no loss shows."""
    layer = taker.state.model.layer3[0].conv1

    def spoil(*_):
        layer.input_quantizer.range.fill_(torch.inf)

    layer.register_forward_hook(spoil)
    return batch(3)


def with_infinite_gradient(taker, monkeypatch):
    taker.state.model.fc.weight.register_hook(lambda grad: grad * torch.inf)
    return batch(3)


def with_negative_step(taker, monkeypatch):
    kind = type(taker.state.optimizer)
    real = kind.step

    def step(self, *args, **kwargs):
        real(self, *args, **kwargs)
        taker.state.model.layer2[0].conv2.weight_step.detach()[3] = -0.25

    monkeypatch.setattr(kind, "step", step)
    return batch(3)


def with_lost_offset(taker, monkeypatch):
    kind = type(taker.state.optimizer)
    real = kind.step

    def step(self, *args, **kwargs):
        real(self, *args, **kwargs)
        taker.state.model.layer2[0].conv2.input_quantizer.offset.detach().fill_(torch.nan)

    monkeypatch.setattr(kind, "step", step)
    return batch(3)


CASES = {
    with_nan: ["the loss is nan in qat", "the input of layer 'layer1.0.conv1' is the first"],
    exploding: ["the loss is ", "in qat epoch 1, step 3; the last"],
    with_infinite_range: ["range is not finite in", "the input of layer 'layer3.0.conv1'"],
    with_infinite_gradient: ["the gradient norm is nan in qat epoch 1, step 3; the last good"],
    with_negative_step: ["step of the weights of layer 'layer2.0.conv2' is -0.25 after qat"],
    with_lost_offset: ["offset of the input of layer 'layer2.0.conv2' is nan after qat"],
}


def sentence(taker, number, images):
    where = StepLocation("qat", 0, number - 1, "; the last good checkpoint is 'last'")
    taker.guard.forget(number)
    found = step_error(taker.guard, taker.state.model, taker.plan, where, lambda: images)
    return str(found)


@DEFERRED
@pytest.mark.parametrize("spoil", CASES, ids=lambda case: case.__name__)
def test_nothing_stays_and_the_message_is_whole(spoil, deferred, monkeypatch):
    taker = stepper(deferred)
    for number in (1, 2):
        assert float(take(taker, number)[3]) == 1
    images = spoil(taker, monkeypatch)
    before = everything(taker.state)
    assert float(take(taker, 3, images)[3]) == 0
    # A step after it, which the host takes before it knows, is as unsound.
    monkeypatch.undo()
    assert float(take(taker, 4)[3]) == 0
    assert everything(taker.state) == before
    said = sentence(taker, 3, images)
    for part in (*CASES[spoil], "epoch 1, step 3", "; the last good checkpoint is 'last'"):
        assert part in said, (part, said)
    assert everything(taker.state) == before


def test_batches_may_differ_in_their_parts_and_buffers_in_their_memory():
    """As where damaged images are left out; a buffer that is expanded cannot be written to."""
    taker = stepper(deferred=True, accumulate=4)
    taker.state.model.register_buffer("row", torch.ones(1).expand(3), persistent=False)
    for number, count in enumerate((12, 9, 7, 10), 1):
        assert float(take(taker, number, batch(number, count))[3]) == 1


@DEFERRED
def test_the_first_step_leaves_no_momentum_no_average_and_no_zero_point(deferred, monkeypatch):
    taker = stepper(deferred)
    before = everything(taker.state)
    images = with_nan(taker, monkeypatch)
    assert float(take(taker, 1, images)[3]) == 0
    assert "'layer1.0.conv1' is the first that is not finite" in sentence(taker, 1, images)
    assert everything(taker.state) == before
    assert not taker.state.optimizer.state and not taker.state.compression.average.tensors


def test_both_ways_train_alike():
    states = []
    for deferred in (False, True):
        taker = stepper(deferred)
        rows = [take(taker, number).tolist() for number in range(1, 5)]
        states.append((rows, everything(taker.state)))
    assert states[0] == states[1]
