"""Two processes that train one network; torchrun starts them where one of them is killed."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout

import pytest
import torch
import yaml

from micronet.data.datasets import Data
from micronet.runs import checkpoint, directory
from micronet.train import main
from micronet.training import loop
from two_processes import spawn_two

pytestmark = pytest.mark.slow

SMALL = ["--image-size", "8", "--batch-size", "128", "--threads", "1"]
RECIPE = {
    "train": {"epochs": 2, "lr": 0.001, "lr_schedule": "constant", "model_ema": 0.9},
    "prune": {
        "end_epoch": 1,
        "groups": [{"layers": ["layer*"], "initial_sparsity": 0.3, "final_sparsity": 0.3}],
    },
    "quantize": {
        "weights": {"bits": 4},
        "activations": {"bits": 4},
        "overrides": [{"layers": ["conv1"], "weights": None, "activations": None}],
    },
}


def torchrun(arguments, *options):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    return [*command, "--standalone", *options, "-m", "micronet.train", *map(str, arguments)]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


# Images of a batch. Of quantized training one step alone is compared with another order of sums:
# after it weights differ by rounding, and one that lies between two codes may take either.
BATCH = {"fit": 400, "qat": 1200, "qat of three steps": 400}


def arguments_of(kind, fitted, tmp_path):
    """A few steps, pruned and quantized or in float."""
    batch = str(BATCH[kind])
    common = ["--from", str(fitted), *SMALL, "--batch-size", batch, "--epochs", "1"]
    if kind == "fit":
        return ["fit", *common, "--lr", "0.01"]
    schedule = tmp_path / "recipe.yaml"
    schedule.write_text(yaml.safe_dump(RECIPE))
    return ["qat", *common, "--schedule", str(schedule)]


def join(rank, port):
    """Make this process one of two, as torchrun would."""
    os.environ.update(environment())
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def process(rank, port, arguments, answers):
    """One of two processes; leaves its whole state."""
    join(rank, port)
    real, found = loop.train, {}

    def watched(*args):
        state = real(*args)
        found.update({f"model/{k}": v.clone() for k, v in state.model.state_dict().items()})
        found.update({f"mask/{k}": v.clone() for k, v in state.compression.masks.bits.items()})
        average = state.compression.average.tensors
        found.update({f"average/{k}": v.clone() for k, v in average.items()})
        return state

    loop.train = watched
    assert main(arguments) == 0
    answers[rank] = found


def command(rank, port, arguments, answers):
    """One of two processes that run a command; leaves its exit code, output and errors."""
    join(rank, port)
    output, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(errors):
        code = main(arguments)
    answers[rank] = code, output.getvalue(), errors.getvalue()


def distance(one, two):
    """Root of the sum of squared differences of all weights."""
    keys = [key for key in one if key.startswith("model/") and key.endswith("weight")]
    return sum(float((one[k].double() - two[k].double()).pow(2).sum()) for k in keys) ** 0.5


def whole_images(share, total):
    """The images that a percentage of ``total`` is; fails where they are no whole number."""
    hits = share * total / 100
    assert hits == pytest.approx(round(hits), abs=1e-6), "an image counted twice or not at all"
    return round(hits)


def check_agreement(kind, out, first, second):
    """Hold two processes' weights, masks, ranges and averages to each other, to the last bit."""
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
    assert any(key.startswith("mask/") for key in first) == kind.startswith("qat")
    assert any(key.endswith(".range") for key in first) == kind.startswith("qat")
    written = checkpoint.load(out / "last.safetensors").tensors
    assert all(torch.equal(written[key], first[key]) for key in first)
    (record,), images = (
        directory.RunDirectory(out).metrics(),
        directory.RunDirectory(out).config()["images"],
    )
    assert whole_images(record["validation_top1"], images["validation"]) > 0
    whole = images["train"] // BATCH[kind] * BATCH[kind]
    assert whole_images(record["train_top1"], whole) > 0


def test_two_processes_agree_after_three_quantized_steps(fitted, tmp_path):
    kind, out = "qat of three steps", tmp_path / "two"
    start = arguments_of(kind, fitted, tmp_path)
    check_agreement(kind, out, *spawn_two(process, [*start, "--out", str(out)]))


def test_two_processes_choose_the_same_masks_of_second_order(fitted, tmp_path):
    """Each computes gradients of its own images; the masks follow those of all."""
    group = {"layers": ["layer*"], "final_sparsity": 0.5, "criterion": "second-order"}
    plan = {"train": {"epochs": 2}, "prune": {"start_epoch": 1, "end_epoch": 2, "groups": [group]}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(plan))
    start = ["prune", "--from", str(fitted), *SMALL, "--schedule", str(tmp_path / "recipe.yaml")]
    first, second = spawn_two(process, [*start, "--out", str(tmp_path / "two")])
    assert first.keys() == second.keys() and any(key.startswith("mask/") for key in first)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_two_processes_agree_on_learned_steps_features_and_statistics(fitted, tmp_path):
    kind, out, learned = "qat of three steps", tmp_path / "two", {"bits": 4, "step": "learned"}
    more = {"step_optimizer": "adam", "step_lr": 0.001, "reestimate_batches": 2}
    recipe = RECIPE | {
        "train": RECIPE["train"] | more,
        "quantize": {
            **{"weights": learned, "activations": learned},
            "overrides": [
                {"layers": ["layer3.*"], "activations": {"bits": 4}},
                {"layers": ["conv1"], "activations": {"step": "image"}},
            ],
        },
        "distill": {"features": ["layer1"], "feature_weight": 0.5, "teacher": str(fitted)},
    }
    start = arguments_of(kind, fitted, tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    check_agreement(kind, out, *spawn_two(process, [*start, "--out", str(out)]))


@pytest.mark.parametrize("kind", ["fit", "qat"])
def test_two_processes_train_like_one(kind, fitted, tmp_path, monkeypatch):
    """As far from one process as the same batches in another order within themselves are."""
    start = arguments_of(kind, fitted, tmp_path)
    one, two, turned = tmp_path / "one", tmp_path / "two", tmp_path / "turned"
    assert main([*start, "--out", str(one)]) == 0
    real = Data.train

    def reversed_within(self, epoch, start_step=0):
        for images, labels in real(self, epoch, start_step):
            yield images.flip(0), labels.flip(0)

    monkeypatch.setattr(Data, "train", reversed_within)
    assert main([*start, "--out", str(turned)]) == 0
    check_agreement(kind, two, *spawn_two(process, [*start, "--out", str(two)]))
    written = {out: checkpoint.load(out / "last.safetensors").tensors for out in (one, two, turned)}
    rounding = distance(written[one], written[turned])
    assert 0 < distance(written[one], written[two]) <= 4 * rounding
    losses = [directory.RunDirectory(out).metrics()[0]["train_loss"] for out in (one, two)]
    # The most that the order of a sum of so many losses can change.
    assert losses[0] == pytest.approx(losses[1], rel=BATCH[kind] * 2.0**-24)


def test_two_processes_evaluate_each_image_once(fitted, tmp_path, capsys):
    """And scan layers, with the numbers of one process."""
    capsys.readouterr()
    scan = ["sensitivity", fitted, "--layers", "conv1", "fc", "--levels", "0.5"]
    both, alone = (
        [["eval", fitted, "--json"], [*scan, "--out", tmp_path / name]] for name in ("two", "one")
    )
    printed = []
    for shared, single in zip(both, alone, strict=True):
        assert main([*map(str, single), "--threads", "1"]) == 0
        one = capsys.readouterr().out
        codes, outputs, _ = zip(
            *spawn_two(command, [*map(str, shared), "--threads", "1"]), strict=True
        )
        assert codes == (0, 0)
        printed.append((one, "".join(outputs)))
    records = [json.loads(text) for text in printed[0]]
    losses = [record.pop("loss") for record in records]
    assert records[0] == records[1] and records[0]["total"] == 359
    assert losses[0] == pytest.approx(losses[1], rel=359 * 2.0**-24)
    tables = [(tmp_path / name / "search.csv").read_text() for name in ("one", "two")]
    assert tables[0] == tables[1] and len(tables[0].splitlines()) == 3


def started(arguments, out, *options):
    process = subprocess.Popen(
        torchrun(arguments, *options),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    deadline = time.monotonic() + 120
    while not (out / "last.safetensors").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def children(process):
    listed = subprocess.run(
        ["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True, check=True
    )
    return [int(pid) for pid in listed.stdout.split()]


def test_killed_rank_ends_the_other_with_a_sentence_and_restarts_resume(fitted, tmp_path):
    out = tmp_path / "run"
    fit = ["fit", "--from", fitted, *SMALL, "--epochs", "2", "--lr", "0.01", "--out", out]
    process = started([*fit, "--checkpoint-every", "2"], out, "--max-restarts", "1")
    os.kill(children(process)[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    sentence = next(line for line in errors.splitlines() if line.startswith("error: process"))
    assert "lost another one" in sentence and "last.safetensors" in sentence
    assert "Traceback" not in errors
    records = directory.RunDirectory(out).metrics()
    assert [r["epoch"] for r in records] == list(range(2))
    # The batches of both processes, those before the stop too, count in each epoch.
    images = directory.RunDirectory(out).config()["images"]["train"] // 128 * 128
    assert all(whole_images(record["train_top1"], images) > 0 for record in records)


def test_batch_that_two_cannot_share(fitted, tmp_path):
    out = tmp_path / "run"
    arguments = ["fit", "--from", str(fitted), "--batch-size", "127", "--out", str(out)]
    for code, _, errors in spawn_two(command, arguments):
        assert code == 2
        assert "2 processes cannot share a batch of 127 images" in errors
    assert not out.exists()
