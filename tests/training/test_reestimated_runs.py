"""Runs whose statistics are re-estimated: what is validated and saved, and what training sees."""

import itertools

import pytest
import torch
import yaml

import micronet
from micronet.compression.compression import Compression
from micronet.data.datasets import open_data
from micronet.runs import checkpoint, directory
from micronet.train import main
from micronet.training.evaluation import evaluate
from shared_runs import SMALL
from trial_networks import refused, written

PRUNE = {
    "end_epoch": 2,
    "groups": [{"layers": ["layer*"], "initial_sparsity": 0.2, "final_sparsity": 0.5}],
}
QUANTIZE = {"weights": {"bits": 4}, "activations": {"bits": 4}}
STATISTICS = ("running_mean", "running_var")
BATCHES = 8


def run(shallow, out, **train):
    """Five batches an epoch, of which eight are more."""
    settings = {"epochs": 2, "lr": 0.02, **train}
    recipe = {"train": settings, "prune": PRUNE, "quantize": QUANTIZE}
    schedule = out.parent / f"{out.name}.yaml"
    schedule.write_text(yaml.safe_dump(recipe))
    command = ["qat", "--from", str(shallow), "--schedule", str(schedule), *SMALL]
    assert main([*command, "--out", str(out)]) == 0
    return checkpoint.load(out / "last.safetensors").tensors


@pytest.mark.slow
@pytest.mark.parametrize("model_ema", [0.0, 0.9])
def test_what_is_saved_is_reestimated_and_training_is_the_same(model_ema, shallow, tmp_path):
    plain = run(shallow, tmp_path / "plain", model_ema=model_ema)
    found = run(shallow, tmp_path / "new", model_ema=model_ema, reestimate_batches=BATCHES)
    assert plain.keys() == found.keys()
    others = {key for key in plain if not torch.equal(plain[key], found[key])}
    part = "average/" if model_ema else "model/"
    statistics = {k for k in plain if k.startswith(part) and k.endswith(STATISTICS)}
    assert others == statistics and len(others) == 2 * 7
    # Once more from what is saved, over the batches that training would take next.
    loaded = directory.load(tmp_path / "new" / "last.safetensors")
    data = open_data("digits", image_size=8, batch_size=250, seed=0)
    batches = itertools.chain(data.train(2), data.train(3))
    micronet.reestimate_(loaded.model.train(), itertools.islice(batches, BATCHES))
    state = loaded.model.state_dict()
    assert all(torch.equal(state[key.removeprefix(part)], found[key]) for key in statistics)
    record = directory.RunDirectory(tmp_path / "new").metrics()[-1]
    validated = evaluate(loaded.model, data.validation())
    assert validated.top1 == record["validation_top1"]
    assert validated.loss == record["validation_loss"]


def test_statistics_follow_masks_before_an_epoch_and_quantized_layers_once_they_have_ranges(
    shallow, tmp_path, monkeypatch
):
    calls, real = [], Compression.reestimate_

    def noted(self, *args, **kwargs):
        calls.append((self.epoch, bool(self.bits), self.stale))
        assert self.model.training
        real(self, *args, **kwargs)

    monkeypatch.setattr(Compression, "reestimate_", noted)
    run(shallow, tmp_path / "run", epochs=3, reestimate_batches=1)
    # Of the first epoch at its end alone: at its start no batch has set a range yet.
    assert calls == [(0, True, False), (1, True, True), (1, True, True), (2, True, False)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_network_without_statistics_is_refused(nets, tmp_path, capsys):
    recipe = written(tmp_path, {"train": {"epochs": 1, "reestimate_batches": 2}})
    command = ["fit", "--arch", f"{nets}:mlp", "--schedule", recipe, *SMALL]
    message = refused(main, [*command, "--out", tmp_path / "run"], capsys)
    for part in ("recipe.yaml:", "train.reestimate_batches is of no use", "mlp"):
        assert part in message
    assert not (tmp_path / "run").exists()
