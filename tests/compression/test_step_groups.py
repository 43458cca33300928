"""Learned steps in groups of their own: what is in them, their rates, and who trains them."""

import pytest
import torch
from torch import nn

import micronet
from compressed import LEARNED, epoch_of, recipe, small
from micronet.compression.compression import Compression
from micronet.compression.parameters import learned_by_quantizers
from micronet.quantization import quantize
from micronet.quantization.quantizers.inputs import InputQuantizer
from micronet.utils.errors import UserError

BOTH = {"weights": LEARNED, "activations": LEARNED}


def compressed(start=0, **train):
    """A small network whose steps are learned from an epoch on, and its compression."""
    model = small()
    plan = recipe(train={"epochs": 3, "lr": 0.1, **train}, quantize={"start_epoch": start, **BOTH})
    return model, micronet.compress(model, plan)


def test_what_quantizers_learn_has_one_list():
    """In the order of the layers; of an input the offset too, where a quantizer has one."""
    model, compression = compressed(step_lr=0.01)
    assert learned_by_quantizers(model) == []
    compression.begin_epoch(0)
    expected = list(quantize.learned_steps(model).values())
    found = learned_by_quantizers(model)
    assert [id(p) for p in found] == [id(p) for p in expected] and len(found) == 6
    quantizer = next(m for m in model.modules() if isinstance(m, InputQuantizer))
    quantizer.register_parameter("offset", nn.Parameter(torch.zeros(1)))
    offset = quantizer.offset
    assert any(p is offset for p in learned_by_quantizers(model))
    groups = compression.parameter_groups()
    assert [any(p is offset for p in g["params"]) for g in groups] == [False, True]
    assert groups[1]["weight_decay"] == 0 and groups[1]["lr"] == 0.01


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12),
        lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step),
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 12),
    ],
)
def test_a_schedule_of_torch_moves_late_steps_in_proportion(schedule, batches):
    model, compression = compressed(1, step_lr=2e-4)
    optimizer = torch.optim.AdamW(compression.parameter_groups(), lr=0.1)
    scheduler = schedule(optimizer)
    began = optimizer.param_groups[0]["initial_lr"]
    for epoch in range(2):
        compression.begin_epoch(epoch, optimizer, scheduler)
        for images, labels in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model.train()(images), labels).backward()
            optimizer.step()
            compression.step()
            scheduler.step()
            if epoch:
                first, last = (optimizer.param_groups[i]["lr"] for i in (0, -1))
                assert last / 2e-4 == pytest.approx(first / began)


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("kind", ["SGD", "AdamW", "RMSprop", "Adagrad", "NAdam"])
def test_a_loop_may_have_an_optimizer_for_steps(kind, start, batches):
    model, compression = compressed(start, step_lr=0.001)
    weights = torch.optim.SGD(compression.parameter_groups(steps=False), lr=0.01)
    own = getattr(torch.optim, kind)(compression.step_groups(), lr=1.0)
    weights.register_step_post_hook(lambda *_: own.step())
    for epoch in range(start + 1):
        compression.begin_epoch(epoch, own)
        began = [step.detach().clone() for step in learned_by_quantizers(model)]
        for images, labels in batches:
            model.zero_grad()
            nn.functional.cross_entropy(model.train()(images), labels).backward()
            weights.step()
            compression.step()
    (group,) = own.param_groups
    assert group["lr"] == 0.001 and group["params"] == learned_by_quantizers(model)
    moved = [not torch.equal(a, b) for a, b in zip(began, group["params"], strict=True)]
    assert len(moved) == 6 and all(moved)


def test_steps_that_no_optimizer_has_are_noticed(batches):
    model, compression = compressed()
    compression.begin_epoch(0)
    weights = torch.optim.SGD(compression.parameter_groups(steps=False), lr=0.01)
    with pytest.raises(UserError, match="no optimizer trains the network's learned steps"):
        compression.step()
    epoch_of(model, compression, weights, batches, 0)
    assert len(weights.param_groups) == 2


def test_without_a_train_section_steps_have_no_rate():
    compression = Compression(small(), micronet.compress(small(), recipe(quantize=BOTH)).plan)
    assert compression.step_groups() == [{"params": [], "weight_decay": 0.0}]
