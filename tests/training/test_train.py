"""The trainer as a user runs it: stages, chaining, resuming."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from image_folders import make_folder
from micronet.compression.compression import Compression
from micronet.models import architectures
from micronet.pruning import prune
from micronet.quantization import quantize
from micronet.recipe.schema import TrainSection
from micronet.runs import checkpoint, directory
from micronet.train import main
from micronet.training import loop
from micronet.training.optimizer import clip_gradients
from micronet.training.plan import StepLocation, TrainingPlan
from micronet.training.steps import step
from shared_runs import SMALL
from small_recipes import PRUNE, QUANTIZE, plan


def tensors(run, name="last"):
    return checkpoint.load(Path(run) / f"{name}.safetensors").tensors


def test_fit_lowers_the_loss_and_leaves_a_run(fitted):
    records = [json.loads(line) for line in (fitted / "metrics.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in records] == [0, 1]
    assert records[1]["train_loss"] < records[0]["train_loss"]
    names = {p.name for p in fitted.iterdir()}
    files = {"config.json", "schedule.yaml", "metrics.jsonl", "summary.csv"}
    checkpoints = {f"{n}.{e}" for n in ("last", "best") for e in ("json", "safetensors")}
    assert names == files | checkpoints


@pytest.mark.slow
def test_chain_prune_then_qat_with_distillation(shallow, tmp_path, capsys):
    pruned, quantized = tmp_path / "prune", tmp_path / "qat"
    schedule = plan(tmp_path, train={"epochs": 3, "lr": 0.05}, prune=PRUNE)
    start = ["prune", "--from", str(shallow), "--schedule", schedule]
    assert main([*start, "--out", str(pruned), *SMALL]) == 0
    schedule = plan(tmp_path, train={"epochs": 2, "lr": 0.02}, quantize=QUANTIZE, distill={})
    start = ["qat", "--from", str(pruned), "--schedule", schedule, "--teacher", str(shallow)]
    assert main([*start, "--out", str(quantized), *SMALL]) == 0
    assert "of their weights, compute in integers" in capsys.readouterr().out
    assert (quantized / "layers.csv").read_text().startswith("layer,kind,weights")
    loaded = directory.load(quantized)
    for name, layer in architectures.layers(loaded.model).items():
        zeros, numel = int((layer.weight == 0).sum()), layer.weight.numel()
        assert zeros == (int(0.6 * numel) if name.startswith("layer") else 0)
    assert quantize.uninitialized(loaded.model) == []
    capsys.readouterr()
    assert main(["eval", str(quantized), "--json", "--threads", "1"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["split"] == "test" and result["total"] == len_test()
    assert 0 < result["correct"] <= result["total"]


def len_test():
    from micronet.data.datasets import open_data

    return open_data("digits", image_size=8, batch_size=64, seed=0).test_size


@pytest.mark.slow
def test_resume_repeats_the_undisturbed_run_bit_for_bit(shallow, tmp_path, monkeypatch):
    """Prune and quantize in one schedule, stopped after every epoch and in the middle of one."""
    section = {"epochs": 4, "lr": 0.05, "weight_decay": 1e-4, "nesterov": True}
    schedule = plan(
        tmp_path, train=section, prune=PRUNE, quantize={**QUANTIZE, "start_epoch": 1}, distill={}
    )
    start = ["qat", "--from", str(shallow), "--schedule", schedule, "--teacher", str(shallow)]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main([*start, "--out", str(whole), *SMALL]) == 0

    real_step, steps = torch.optim.SGD.step, iter(range(10**6))

    def interrupted(self, *args, **kwargs):
        if next(steps) % 5 == 4:
            raise KeyboardInterrupt
        return real_step(self, *args, **kwargs)

    command = [*start, "--out", str(stopped), *SMALL]
    monkeypatch.setattr(torch.optim.SGD, "step", interrupted)
    assert main(command) == 130
    monkeypatch.setattr(torch.optim.SGD, "step", real_step)
    original = loop.Epoch

    def one_epoch(state, plan, data, epoch, *rest):
        if state.epoch > one_epoch.begun:
            raise KeyboardInterrupt
        return original(state, plan, data, epoch, *rest)

    monkeypatch.setattr(loop, "Epoch", one_epoch)
    for begun in range(3):
        one_epoch.begun = begun
        assert main([*command, "--resume"]) == 130
    monkeypatch.setattr(loop, "Epoch", original)
    assert main(["qat", "--out", str(stopped), "--resume", "--threads", "1"]) == 0

    for name in ("last", "best"):
        one, two = tensors(whole, name), tensors(stopped, name)
        assert one.keys() == two.keys()
        differing = [key for key in one if not torch.equal(one[key], two[key])]
        assert differing == []
    drop = {"seconds", "images_per_second"}
    logs = [directory.RunDirectory(run).metrics() for run in (whole, stopped)]
    kept = [[{k: v for k, v in r.items() if k not in drop} for r in log] for log in logs]
    assert kept[0] == kept[1]


def test_next_stage_takes_the_data_of_the_run_it_starts_from(tmp_path):
    root = make_folder(tmp_path / "pets", 32, parts=("train",), count=10)
    first, second = tmp_path / "a", tmp_path / "b"
    options = ["--epochs", "1", "--batch-size", "8", "--threads", "1"]
    start = ["fit", "--arch", "resnet20", "--data", str(root), "--holdout", "0.2"]
    assert main([*start, "--out", str(first), *options]) == 0
    assert main(["fit", "--from", str(first), "--out", str(second), *options]) == 0
    config = directory.RunDirectory(second).config()
    assert (config["data"], config["holdout"], config["image_size"]) == (str(root), 0.2, 32)
    assert config["images"] == {"train": 16, "validation": 4, "test": 0}


def test_stop_between_record_and_checkpoint_leaves_no_hole_in_the_log(
    resnet8, tmp_path, monkeypatch
):
    out = tmp_path / "fit"
    command = ["fit", "--arch", resnet8, "--epochs", "2", "--out", str(out)]
    real = checkpoint.save

    def stopped(path, tensors, meta):
        if meta["epoch"] == 2:
            raise KeyboardInterrupt
        real(path, tensors, meta)

    monkeypatch.setattr(checkpoint, "save", stopped)
    assert main([*command, *SMALL]) == 130
    monkeypatch.setattr(checkpoint, "save", real)
    assert main([*command, *SMALL, "--resume"]) == 0
    assert [r["epoch"] for r in directory.RunDirectory(out).metrics()] == [0, 1]


def test_best_is_the_highest_top1_at_the_target(tmp_path, shallow):
    out = tmp_path / "prune"
    schedule = plan(tmp_path, train={"epochs": 4, "lr": 0.05}, prune={**PRUNE, "end_epoch": 3})
    command = ["prune", "--from", str(shallow), "--schedule", schedule, "--out", str(out)]
    assert main([*command, *SMALL]) == 0
    records = directory.RunDirectory(out).metrics()
    eligible = [r for r in records if r["at_target"]]
    assert [r["epoch"] for r in eligible] == [2, 3]
    best = max(eligible, key=lambda r: (r["validation_top1"], -r["epoch"]))
    meta = checkpoint.load(out / "best.safetensors").meta
    assert meta["best_epoch"] == meta["metrics"]["epoch"] == best["epoch"]
    assert meta["metrics"]["validation_top1"] == best["validation_top1"]
    assert prune.shown_sparsity(directory.load(out).model) > 0.59


def test_accumulated_gradients_are_those_of_the_batch(shallow, tmp_path):
    """Without batch norm's batch statistics: a network in which the parts do not interact."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
    images, labels = torch.randn(12, 3, 2, 2), torch.randint(5, (12,))
    gradients = []
    for parts in (1, 4):
        plan = TrainingPlan("fit", TrainSection(accumulate=parts))
        state = loop.start(model, plan, prune.Masks())
        where = StepLocation("fit", 0, 0, "")
        batch = step.Batch(images, labels, labels)
        loss, correct, _, _ = step.backward(state, model, plan, batch, None, where)
        gradients.append(model[1].weight.grad.double().clone())
        whole = torch.nn.functional.cross_entropy(model(images).detach(), labels)
        assert loss == pytest.approx(float(whole))
        assert correct == int((model(images).argmax(1) == labels).sum())
    torch.testing.assert_close(*gradients)


def test_clipped_gradients_and_bf16_train(shallow, tmp_path):
    out = tmp_path / "run"
    train = {"epochs": 1, "lr": 0.01, "clip_grad_norm": 0.5, "loss_limit": 100.0, "momentum": 0.0}
    schedule = plan(tmp_path, train=train)
    command = ["fit", "--from", str(shallow), "--schedule", schedule, "--amp", "bf16"]
    assert main([*command, "--accumulate", "2", "--out", str(out), *SMALL]) == 0
    config = directory.RunDirectory(out).config()["recipe"]["train"]
    assert (config["amp"], config["accumulate"]) == ("bf16", 2)
    model = torch.nn.Linear(3, 2)
    model(torch.full((4, 3), 100.0)).sum().backward()
    clip_gradients(model, TrainSection(clip_grad_norm=0.5))
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert float(norm) == pytest.approx(0.5, rel=1e-4)


def test_distils_from_the_epoch_and_teacher_of_the_schedule(shallow, tmp_path, monkeypatch):
    seen, real = [], Compression.distillation_loss

    def watched(self, logits, taught, labels):
        seen.append(taught is not None)
        return real(self, logits, taught, labels)

    monkeypatch.setattr(Compression, "distillation_loss", watched)
    distill = {"start_epoch": 1, "teacher": str(shallow), "distill_weight": 0.5}
    schedule = plan(tmp_path, train={"epochs": 2, "lr": 0.01}, distill=distill)
    command = ["fit", "--from", str(shallow), "--schedule", schedule]
    assert main([*command, "--out", str(tmp_path / "run"), *SMALL]) == 0
    half = len(seen) // 2
    assert seen == [False] * half + [True] * half


def test_nan_loss_names_epoch_step_and_checkpoint(shallow, tmp_path, capsys, monkeypatch):
    real = Compression.distillation_loss
    calls = iter(range(100))

    def broken(*args):
        return real(*args) * (float("nan") if next(calls) == 7 else 1)

    monkeypatch.setattr(Compression, "distillation_loss", broken)
    out = tmp_path / "run"
    command = ["fit", "--from", str(shallow), "--epochs", "3", "--lr", "0.01", "--out", str(out)]
    assert main([*command, *SMALL]) == 2
    message = capsys.readouterr().err
    assert "loss is nan" in message and "epoch 2" in message and "last.safetensors" in message
    assert all(torch.isfinite(t.float()).all() for t in tensors(out).values())


def test_eval_from_a_moved_run(fitted, tmp_path, capsys):
    shutil.copytree(fitted, tmp_path / "moved")
    assert main(["eval", str(tmp_path / "moved"), "--threads", "1"]) == 0
    assert " correct" in capsys.readouterr().out
