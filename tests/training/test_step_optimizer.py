"""Learned steps with a rate and an optimizer of their own: groups, updates, schedules, refusals."""

import pytest
import torch
import yaml
from torch import nn

import micronet
from compressed import LEARNED, recipe, small
from guarded_steps import batch, everything, stepper, take
from micronet.compression.parameters import learned_by_quantizers
from micronet.train import main
from micronet.training.optimizer import make_optimizer, set_learning_rate
from micronet.training.steps.graph import WARM_UP, GraphedStepper
from micronet.utils.errors import UserError

BOTH = {"weights": LEARNED, "activations": LEARNED}
KINDS = ("sgd", "adam", "adamw", "rmsprop")


def compressed(start=0, **train):
    """A small network whose steps are learned from an epoch on, and its compression."""
    model = small()
    plan = recipe(train={"epochs": 3, "lr": 0.1, **train}, quantize={"start_epoch": start, **BOTH})
    return model, micronet.compress(model, plan), plan.train


def steps_of(optimizer):
    (group,) = [group for group in optimizer.param_groups if "lr_scale" in group]
    return group


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("weights", KINDS)
@pytest.mark.parametrize("steps", KINDS)
def test_each_optimizer_takes_its_own_parameters(weights, steps, start):
    """The updates are those of the two optimizers of torch alone, to the bit."""
    train = {"optimizer": weights, "step_optimizer": steps, "step_lr": 0.001, "weight_decay": 0.1}
    model, compression, section = compressed(start, **train)
    optimizer = make_optimizer(compression, section)
    for epoch in range(start + 1):
        compression.begin_epoch(epoch, optimizer)
    learned = learned_by_quantizers(model)
    others = [p for p in model.parameters() if all(p is not step for step in learned)]
    copies = [[nn.Parameter(p.detach().clone()) for p in part] for part in (others, learned)]
    options = {
        "sgd": (torch.optim.SGD, {"momentum": 0.9}),
        "adam": (torch.optim.Adam, {}),
        "adamw": (torch.optim.AdamW, {}),
        "rmsprop": (torch.optim.RMSprop, {"momentum": 0.9}),
    }
    alone = [
        options[kind][0](own, lr=rate, weight_decay=decay, **options[kind][1])
        for kind, own, rate, decay in zip(
            (weights, steps), copies, (0.1, 0.001), (0.1, 0.0), strict=True
        )
    ]
    for number in range(3):
        torch.manual_seed(number)
        for parameter, copy in zip(others + learned, copies[0] + copies[1], strict=True):
            parameter.grad = torch.randn_like(parameter)
            copy.grad = parameter.grad.clone()
        for each in (optimizer, *alone):
            each.step()
    for parameter, copy in zip(others + learned, copies[0] + copies[1], strict=True):
        assert torch.equal(parameter, copy)
    assert set(optimizer.state) == set(model.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("step_optimizer", [None, "sgd", "adam"])
@pytest.mark.parametrize("start", [0, 1])
def test_rates_of_steps_keep_their_proportion(step_optimizer, start):
    train = {"step_lr": 0.004, "step_optimizer": step_optimizer, "lr_min": 0.001}
    _, compression, section = compressed(start, **train)
    optimizer = make_optimizer(compression, section)
    for epoch in range(start + 1):
        compression.begin_epoch(epoch, optimizer)
    assert steps_of(optimizer)["lr"] == 0.004 and steps_of(optimizer)["weight_decay"] == 0
    for progress in (0, 1.5, 3):
        rate = micronet.learning_rate(section, progress)
        set_learning_rate(optimizer, rate)
        rates = {group["lr"] for group in optimizer.param_groups}
        assert rates == {rate, rate * (0.004 / 0.1)}


@pytest.mark.parametrize("deferred", [False, True])
def test_an_unsound_step_leaves_no_trace_in_either(deferred):
    taker = stepper(deferred, step_optimizer="adam", step_lr=0.001)
    assert {len(state) for state in taker.state.optimizer.state.values()} == set()
    for number in (1, 2):
        assert float(take(taker, number)[3]) == 1
    before, images = everything(taker.state), batch(3)
    assert {"momentum", "optimizer.exp_avg"} <= {name.split("/")[0] for name in before}
    images.images[-1, 1, 2, 3] = torch.nan
    assert float(take(taker, 3, images)[3]) == 0
    assert everything(taker.state) == before


@pytest.mark.slow
def test_replayed_steps_are_the_steps_of_both():
    settings = {"step_optimizer": "adam", "step_lr": 0.001, "cuda_graph": True, "model_ema": 0.0}
    plain, twin = (stepper(True, **settings) for _ in range(2))
    graphed = GraphedStepper(twin, lambda take: take)
    rates = [group["lr"] for group in twin.state.optimizer.param_groups]
    for number in range(1, WARM_UP + 3):
        for each in (plain, twin):
            set_learning_rate(each.state.optimizer, 0.01 * number)
        assert take(plain, number).tolist() == take(graphed, number).tolist()
    assert everything(plain.state) == everything(twin.state)
    # In the memory that a graph reads.
    now = [group["lr"] for group in twin.state.optimizer.param_groups]
    assert all(rate is before for rate, before in zip(now, rates, strict=True))
    assert float(now[-1]) == pytest.approx(0.01 * number * 0.001 / 0.02)


def test_a_rate_of_late_steps_lies_on_the_device_too():
    _, compression, section = compressed(1, step_lr=0.01, cuda_graph=True)
    optimizer = make_optimizer(compression, section)
    for epoch in range(2):
        compression.begin_epoch(epoch, optimizer)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert all(isinstance(rate, torch.Tensor) for rate in rates) and rates[0] is not rates[-1]
    assert float(rates[-1]) == pytest.approx(0.01)


@pytest.mark.parametrize("key,value", [("step_lr", 0.01), ("step_optimizer", "adam")])
def test_a_key_of_steps_needs_learned_steps(key, value, fitted, tmp_path, capsys):
    ranges = {"weights": {"bits": 4}, "activations": {"bits": 4}}
    plan = recipe(train={key: value}, quantize=ranges)
    with pytest.raises(UserError, match=f"train.{key} {value} is of no use: the step of no quanti"):
        micronet.compress(small(), plan)
    # Of a network that has some already, it is of use.
    model = small()
    micronet.quantize_(model, micronet.WeightPrecision(4, "learned"), None)
    micronet.compress(model, recipe(train={key: value}))
    schedule = tmp_path / "recipe.yaml"
    schedule.write_text(yaml.safe_dump({"train": {"epochs": 1, key: value}, "quantize": ranges}))
    command = ["qat", "--from", str(fitted), "--schedule", str(schedule), "--threads", "1"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "recipe.yaml:" in said and f"train.{key}" in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert main(["schedule", str(schedule), "--arch", "resnet20"]) == 2
    assert f"train.{key} {value} is of no use" in capsys.readouterr().err


def test_a_stage_that_does_not_quantize_leaves_out_the_keys_of_steps(tmp_path):
    """So that one file can hold the recipe of all stages."""
    train = {"epochs": 1, "batch_size": 500, "step_lr": 0.01, "step_optimizer": "adam"}
    schedule = tmp_path / "recipe.yaml"
    schedule.write_text(yaml.safe_dump({"train": train, "quantize": BOTH}))
    fit = ["fit", "--arch", "resnet20", "--image-size", "8", "--schedule", str(schedule)]
    assert main([*fit, "--threads", "1", "--out", str(tmp_path / "run")]) == 0
    recorded = yaml.safe_load((tmp_path / "run" / "schedule.yaml").read_text())
    assert recorded["train"].keys().isdisjoint({"step_lr", "step_optimizer"})
