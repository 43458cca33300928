"""Runs that distill features, train steps by their own optimizer, and re-estimate statistics."""

import itertools

import pytest
import torch
import yaml
from torch import nn

import micronet
from micronet.compression.compression import Compression
from micronet.runs import checkpoint, directory
from micronet.train import main
from micronet.training import loop
from micronet.training.steps.step import Stepper
from shared_runs import SMALL, THREE_STEPS

LEARNED = {"bits": 4, "step": "learned"}
RECIPE = {
    "train": {
        "epochs": 3,
        "lr": 0.02,
        "step_optimizer": "adam",
        "step_lr": 0.001,
        "weight_decay": 1e-3,
        "clip_grad_norm": 1.0,
        "model_ema": 0.9,
        "reestimate_batches": 4,
    },
    "prune": {
        "end_epoch": 2,
        "groups": [{"layers": ["layer*"], "initial_sparsity": 0.2, "final_sparsity": 0.5}],
    },
    "quantize": {
        "start_epoch": 1,
        "weights": LEARNED,
        "activations": LEARNED,
        "overrides": [{"layers": ["layer3.*"], "weights": {"bits": 4}, "activations": {"bits": 4}}],
    },
    "distill": {"features": ["layer1", "layer3.*.bn2"], "feature_weight": 0.5},
}
# What a resumed or another run repeats, all but the time.
TIMES = {"seconds", "images_per_second"}


def command_of(shallow, folder, **train):
    schedule = folder / "recipe.yaml"
    schedule.write_text(yaml.safe_dump(RECIPE | {"train": RECIPE["train"] | train}))
    start = ["qat", "--from", str(shallow), "--teacher", str(shallow), "--schedule", str(schedule)]
    return [*start, *THREE_STEPS]


@pytest.fixture(scope="module")
def command(shallow, tmp_path_factory):
    """With what goes with it: parts of batches, bfloat16, mixed images."""
    return command_of(shallow, tmp_path_factory.mktemp("recipe"), accumulate=2, amp="bf16")


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert main([*command, "--out", str(out)]) == 0
    return out


def tensors(run, name="last"):
    return checkpoint.load(run / f"{name}.safetensors").tensors


def records(run):
    found = directory.RunDirectory(run).metrics()
    return [{k: v for k, v in record.items() if k not in TIMES} for record in found]


def test_both_optimizers_are_saved_under_the_names_of_parameters(whole):
    names = tensors(whole).keys()
    steps = {n for n in names if n.startswith("optimizer.exp_avg/")}
    assert all(n.endswith(("weight_step", "step_size")) for n in steps) and len(steps) == 12
    assert {n.replace("exp_avg", "exp_avg_sq") for n in steps} < names
    assert {n.replace("exp_avg", "step") for n in steps} < names
    momenta = {n.partition("/")[2] for n in names if n.startswith("momentum/")}
    model = micronet.create_model("resnet8", 10)
    assert momenta == {n for n, _ in model.named_parameters()}


@pytest.mark.slow
def test_the_log_has_both_rates(whole):
    for record in records(whole):
        assert record["step_lr"] == pytest.approx(record["lr"] / 20)


class Stop(BaseException):
    """Ends a process anywhere, as a power cut would."""


def stopping(monkeypatch, owner, name, calls):
    """Let the call of this number end the process."""
    real, numbers = getattr(owner, name), itertools.count(1)

    def counted(*args, **kwargs):
        if next(numbers) == calls:
            raise Stop
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)


# Three steps an epoch. Statistics are re-estimated after each, and as masks are chosen before the
# first two.
STOPS = {
    "in the first epoch": [(Stepper, "take", 3)],
    "in the first that is quantized": [(Stepper, "take", 6)],
    "before statistics": [(Compression, "reestimate_", 2)],
    "in them": [(loop, "in_order", 6)],
    "while it validates, twice": [(loop, "evaluate", 1), (loop, "evaluate", 2)],
}


@pytest.mark.slow
@pytest.mark.parametrize("where", STOPS)
def test_a_stopped_run_repeats_the_undisturbed_one_bit_for_bit(
    where, command, whole, tmp_path, monkeypatch
):
    out, resume = tmp_path / "run", []
    arguments = [*command, "--checkpoint-every", "2", "--out", str(out)]
    for owner, name, calls in STOPS[where]:
        with monkeypatch.context() as patch:
            stopping(patch, owner, name, calls)
            with pytest.raises(Stop):
                main([*arguments, *resume])
        resume = ["--resume"]
    assert main(["qat", "--out", str(out), "--resume", "--threads", "1"]) == 0
    for name in ("last", "best"):
        one, two = tensors(whole, name), tensors(out, name)
        assert one.keys() == two.keys()
        assert [key for key in one if not torch.equal(one[key], two[key])] == []
    assert records(whole) == records(out)


def batches_from(data, epoch):
    return itertools.chain.from_iterable(map(data.train, itertools.count(epoch)))


def plain_loop(shallow, recipe):
    """What a user writes who has a loop of their own."""
    train, model = recipe.train, micronet.load(shallow / "best.safetensors").model
    data = micronet.open_data("digits", image_size=8, batch_size=400, seed=train.seed)
    teacher = micronet.Teacher(micronet.load(shallow / "best.safetensors").model)
    for network in (model, teacher.model):
        network.to(memory_format=torch.channels_last)
    compression = micronet.compress(model, recipe, steps_per_epoch=data.steps_per_epoch)
    weights = torch.optim.SGD(
        compression.parameter_groups(steps=False), lr=train.lr, momentum=train.momentum
    )
    steps = torch.optim.Adam(compression.step_groups(), lr=train.lr)

    def forward(batch):
        return model(batch[0].contiguous(memory_format=torch.channels_last))

    for epoch in range(train.epochs):
        compression.begin_epoch(epoch, steps)
        model.train()
        if compression.stale:
            compression.reestimate_(batches_from(data, epoch), forward=forward)
        for images, labels in data.train(epoch):
            rate = micronet.learning_rate(train, compression.progress)
            for optimizer in (weights, steps):
                micronet.set_learning_rate(optimizer, rate)
                optimizer.zero_grad()
            with compression.features(teacher):
                logits = forward((images, labels))
                taught = teacher(images.contiguous(memory_format=torch.channels_last))
                compression.distillation_loss(logits, taught, labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), train.clip_grad_norm)
            weights.step()
            steps.step()
            compression.step()
        compression.reestimate_(batches_from(data, epoch + 1), forward=forward)
    return model, compression


@pytest.mark.slow
def test_a_plain_loop_and_the_command_line_agree(shallow, tmp_path):
    command, out = command_of(shallow, tmp_path), tmp_path / "run"
    assert main([*command, "--out", str(out)]) == 0
    recipe = micronet.Recipe.load(tmp_path / "recipe.yaml")
    model, compression = plain_loop(shallow, recipe)
    found = checkpoint.load(out / "last.safetensors")
    for part, own in (
        ("model", model.state_dict()),
        ("mask", compression.masks.bits),
        ("average", compression.average.tensors),
    ):
        kept = found.group(part)
        assert [name for name in kept if not torch.equal(kept[name], own[name])] == []
        assert kept.keys() == own.keys()


def test_features_that_cannot_be_compared_are_refused_before_a_run(fitted, tmp_path, capsys):
    torch.manual_seed(0)
    weights = tmp_path / "resnet18.pth"
    torch.save(micronet.create_model("resnet18", 10).state_dict(), weights)
    cases = {
        "conv1": "module 'conv1' gives (2, 16, 8, 8) in the student, (2, 64, 4, 4) in the teacher",
        "layer1.2": "the teacher has no module 'layer1.2'",
        "layr1": "'layr1' is no layer; did you mean 'layer1'",
    }
    for name, sentence in cases.items():
        schedule = tmp_path / "recipe.yaml"
        distill = {"features": [name], "feature_weight": 1.0, "teacher": "resnet18"}
        distill["teacher_weights"] = str(weights)
        schedule.write_text(yaml.safe_dump({"train": {"epochs": 1}, "distill": distill}))
        out = tmp_path / "run"
        start = ["fit", "--from", str(fitted), "--schedule", str(schedule), "--out", str(out)]
        assert main([*start, *SMALL]) == 2
        said = capsys.readouterr().err
        assert "recipe.yaml:" in said and "distill.features" in said, said
        assert sentence in said and said.count("\n") == 1, said
        assert not out.exists()
        if name == "layr1":
            assert main(["schedule", str(schedule), "--arch", "resnet20"]) == 2
            assert sentence in capsys.readouterr().err
        if name == "conv1":
            assert main([*start, *SMALL, "--compile"]) == 2
            assert "distill.features does not go with train.compile" in capsys.readouterr().err


def test_the_loss_of_a_step_has_the_distance_in_it(shallow, tmp_path, monkeypatch):
    """Where the student is its teacher, and in training mode all the same, it is not 0."""
    added, real = [], Compression.distillation_loss

    def noted(self, student, teacher, labels):
        whole = real(self, student, teacher, labels)
        soft = micronet.distillation_loss(
            student.float(), teacher, labels, temperature=2.0, student_weight=0.3
        )
        added.append(float((whole - soft).detach()))
        return whole

    monkeypatch.setattr(Compression, "distillation_loss", noted)
    command = command_of(shallow, tmp_path, epochs=2, lr=0.001, step_lr=0.0001)
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    assert len(added) == 6 and all(value > 0 for value in added)
