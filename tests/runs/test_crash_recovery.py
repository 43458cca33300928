"""What a stopped, killed or crowded-out run keeps: everything up to its last checkpoint."""

import json
import os
import random
import resource
import signal
import subprocess
import threading
import time

import pytest
import torch

import killed_runs
from micronet.compression.compression import Compression
from micronet.runs import checkpoint, directory
from micronet.train import main
from micronet.training import checkpoint_saver
from micronet.training.signals import Stopped, StopRequest
from micronet.utils.errors import UserError

SMALL = ["--image-size", "8", "--batch-size", "128", "--threads", "1"]
FIT = ["fit", "--arch", "resnet20", "--epochs", "2", "--lr", "0.1", *SMALL]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run of two epochs of ten steps."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main([*FIT, "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_like_the_undisturbed_run(fitted, tmp_path):
    seed = time.time_ns() % 10**6
    print(f"seed {seed}")
    shared = killed_runs.shared_command(tmp_path, fitted)
    whole = tmp_path / "whole"
    killed_runs.finish(killed_runs.started([*shared, "--out", whole]))
    kills = killed_runs.run_killed(shared, tmp_path / "killed", random.Random(seed), most=4)
    assert kills > 0
    assert killed_runs.differences(whole, tmp_path / "killed") == []


@pytest.mark.slow
def test_stopping_after_any_step_loses_no_step(whole, tmp_path, monkeypatch, capsys):
    """Ctrl-C and SIGTERM leave a checkpoint of the step in hand, which is continued exactly."""
    real, taken = torch.optim.SGD.step, []

    def step(self, *args, **kwargs):
        taken.append(0)
        if len(taken) in (1, 5, 6, 11, 12, 20):
            signal.raise_signal(signal.SIGTERM if len(taken) % 2 else signal.SIGINT)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    out, codes = tmp_path / "run", []
    while not codes or codes[-1] != 0:
        resume = ["--resume"] if codes else []
        codes.append(main([*FIT, "--out", str(out), *resume]))
    assert codes == [143, 143, 130, 143, 130, 130, 0]
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("continuing")]
    assert len(said) == 6 and said[0].endswith("last.safetensors' after 1 steps of epoch 1")
    assert said[-1].endswith("after 10 steps of epoch 2"), "its validation is left"
    records = directory.RunDirectory(whole).metrics()
    per_epoch = len(taken) // 2
    assert len(taken) == 2 * per_epoch, "a step was taken twice, or not at all"
    assert killed_runs.differences(whole, out) == []
    timed = {"seconds", "images_per_second"}
    logs = [
        [{k: v for k, v in r.items() if k not in timed} for r in log]
        for log in (records, directory.RunDirectory(out).metrics())
    ]
    assert logs[0] == logs[1]


@pytest.mark.slow
def test_checkpoint_every_step_changes_nothing(whole, tmp_path):
    out = tmp_path / "run"
    assert main([*FIT, "--out", str(out), "--checkpoint-every", "1", "--keep", "1"]) == 0
    assert killed_runs.differences(whole, out) == []
    assert [p.name for p in directory.RunDirectory(out).kept_epochs()] == ["epoch-0002.safetensors"]
    assert not (out / "epoch-0001.json").exists()


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "10h", "", "m", "x"])
def test_every_that_is_neither_steps_nor_time(text, tmp_path, capsys):
    assert main([*FIT, "--out", str(tmp_path / "run"), "--checkpoint-every", text]) == 2
    assert repr(text) in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_every(monkeypatch):
    assert checkpoint_saver.parse_every("500") == checkpoint_saver.Every(steps=500)
    assert checkpoint_saver.parse_every("90s") == checkpoint_saver.Every(seconds=90)
    assert checkpoint_saver.parse_every("10m") == checkpoint_saver.Every(seconds=600)
    clock = iter([0.0, 59.0, 60.0])
    monkeypatch.setattr(checkpoint_saver.time, "monotonic", lambda: next(clock))
    saver = checkpoint_saver.CheckpointSaver(
        directory.RunDirectory, {}, checkpoint_saver.Every(seconds=60)
    )
    assert [saver.is_due(step) for step in (1, 2)] == [False, True]


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
def test_damaged_last_is_passed_over_for_the_epoch_before(whole, tmp_path, capsys):
    out = tmp_path / "run"
    command = [*FIT, "--out", str(out), "--keep", "2"]
    assert main(command) == 0
    (out / "epoch-0002.safetensors").unlink()
    damage(out / "last.safetensors")
    assert main([*command, "--resume"]) == 0
    printed = capsys.readouterr().out
    assert "last.safetensors' is damaged" in printed and "epoch-0001.safetensors" in printed
    assert killed_runs.differences(whole, out) == []
    damage(out / "last.safetensors")
    for path in directory.RunDirectory(out).kept_epochs():
        damage(path)
    assert main([*command, "--resume"]) == 2
    assert "no older checkpoint" in capsys.readouterr().err


def test_one_flipped_bit_anywhere_is_found(tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, {"model/w": torch.randn(5, 7), "mask/w": torch.ones(2).byte()}, {"a": 1})
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            found = checkpoint.load(path)
        except UserError as error:
            assert "x.safetensors" in str(error)
        else:
            # Padding and JSON white space carry nothing.
            assert found.meta == {"a": 1, "format": checkpoint.FORMAT}


def limited(limit):
    """Return a function that lets a process write files of at most ``limit`` bytes."""

    def limit_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return limit_files


@pytest.mark.slow
def test_full_disk_is_one_sentence_and_the_previous_checkpoint_stays(whole, tmp_path):
    out = tmp_path / "run"
    arguments = [*FIT[:4], "1", *FIT[5:], "--out", out]
    assert main([str(a) for a in arguments]) == 0
    before = (out / "last.safetensors").read_bytes()
    config = json.loads((out / "config.json").read_text())
    config["recipe"]["train"]["epochs"] = 2
    config["epochs"] = 2
    (out / "config.json").write_text(json.dumps(config))
    result = subprocess.run(
        killed_runs.command(["fit", "--out", out, "--resume", "--threads", "1"]),
        preexec_fn=limited(len(before) // 2),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: cannot write") and result.stderr.count("\n") == 1
    assert (out / "last.safetensors").read_bytes() == before
    assert not list(out.glob("*.tmp"))


def test_disk_that_takes_no_writes(tmp_path, capsys, monkeypatch):
    real = open

    def read_only(path, mode="r", *args, **kwargs):
        if "w" in mode and str(path).startswith(str(tmp_path)):
            raise OSError(30, os.strerror(30))
        return real(path, mode, *args, **kwargs)

    monkeypatch.setattr("builtins.open", read_only)
    assert main([*FIT, "--out", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: cannot write") and "Read-only file system" in message
    monkeypatch.undo()
    assert main([*FIT, "--out", "/proc/run"]) == 2
    assert "cannot make run directory" in capsys.readouterr().err


def test_second_interrupt_is_at_once_and_handlers_are_restored():
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signum == signal.SIGINT
        with pytest.raises(Stopped):
            list(stop.watch([1]))
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_signals_are_left_alone_outside_the_main_thread():
    failures = []

    def enter():
        try:
            with StopRequest() as stop:
                assert list(stop.watch([1, 2])) == [1, 2]
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert failures == []


def test_exploding_loss_is_stopped_as_nan_is(whole, tmp_path, capsys, monkeypatch):
    real, calls = Compression.distillation_loss, iter(range(100))

    def exploding(*args):
        return real(*args) * (1e6 if next(calls) == 15 else 1)

    monkeypatch.setattr(Compression, "distillation_loss", exploding)
    out = tmp_path / "run"
    assert main([*FIT, "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert "epoch 2, step 6" in message and "last.safetensors" in message
    assert checkpoint.load(out / "last.safetensors").meta["epoch"] == 1
