"""Steps captured as a graph: which are, from which memory they read, and who is refused."""

import pytest
import torch
import yaml

from guarded_steps import batch, everything, stepper, take
from micronet.compression.compression import Compression
from micronet.compression.ema import ModelEma
from micronet.compression.plan import CompressionPlan
from micronet.recipe.schema import TrainSection
from micronet.runs import checkpoint
from micronet.train import main
from micronet.training.optimizer import convolutions, make_optimizer, set_learning_rate
from micronet.training.steps.graph import WARM_UP, GraphedStepper


class Recorder:
    """Stands for a CUDA graph: takes the step again, from the memory that it was captured with."""

    def __init__(self):
        self.captured, self.replayed = 0, 0

    def __call__(self, take):
        self.captured += 1

        def again():
            self.replayed += 1
            return take()

        return again


def both():
    """A stepper, and its twin whose steps are captured."""
    plain, twin = (stepper(True, cuda_graph=True, model_ema=0.0) for _ in range(2))
    recorder = Recorder()
    return plain, twin, GraphedStepper(twin, recorder), recorder


@pytest.mark.slow
def test_replayed_steps_are_the_steps():
    plain, twin, graphed, recorder = both()
    for number in range(1, WARM_UP + 4):
        for each in (plain, twin):
            set_learning_rate(each.state.optimizer, 0.01 * number)
        assert take(plain, number).tolist() == take(graphed, number).tolist()
    assert (recorder.captured, recorder.replayed) == (1, 3)
    # A batch of another size, as where damaged images are left out, is not what was captured.
    assert take(plain, 20, batch(1, 10)).tolist() == take(graphed, 20, batch(1, 10)).tolist()
    assert recorder.replayed == 3
    assert everything(plain.state) == everything(twin.state)


def test_an_unsound_step_that_is_replayed_leaves_no_trace():
    _, twin, graphed, recorder = both()
    for number in range(1, WARM_UP + 2):
        assert float(take(graphed, number)[3]) == 1
    before, images = everything(twin.state), batch(9)
    images.images[0, 0, 0, 0] = torch.inf
    assert float(take(graphed, 20, images)[3]) == 0
    assert float(take(graphed, 21)[3]) == 0
    assert recorder.replayed == 3
    assert everything(twin.state) == before


def test_the_share_of_an_average_may_lie_on_the_device():
    model = torch.nn.Linear(4, 3)
    averages = ModelEma(0.99), ModelEma(0.99)
    for step in range(1, 30):
        with torch.no_grad():
            model.weight.add_(torch.randn(3, 4))
        averages[0].update(model, step)
        averages[1].update(model, step, torch.tensor(averages[1].share(step)))
    one, two = (average.tensors["weight"] for average in averages)
    # Each step rounds the difference, its share and the sum: three roundings of values below 16.
    assert float((one - two).abs().max()) <= 29 * 3 * 16 * 2.0**-24


def test_a_rate_on_the_device_is_filled_in():
    model = torch.nn.Linear(2, 2)
    section = TrainSection(cuda_graph=True)
    optimizer = make_optimizer(Compression(model, CompressionPlan(), section), section)
    rate = optimizer.param_groups[0]["lr"]
    set_learning_rate(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"] is rate and float(rate) == 0.25


def test_the_switch_holds_while_it_is_asked_for():
    before = torch.backends.cudnn.deterministic
    with convolutions(True):
        assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    with convolutions(False):
        assert torch.backends.cudnn.deterministic == before
    assert torch.backends.cudnn.deterministic == before


REFUSALS = {
    "needs a CUDA device, and this machine has none": (False, {}),
    "does not go with train.compile": (True, {"compile": True}),
}


@pytest.mark.parametrize("problem", REFUSALS)
def test_what_cannot_be_captured_is_said_before_a_run_begins(
    problem, tmp_path, capsys, monkeypatch
):
    available, more = REFUSALS[problem]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"train": {"cuda_graph": True, **more}}))
    fit = ["fit", "--arch", "resnet20", "--schedule", str(recipe), "--out", str(tmp_path / "run")]
    assert main(fit) == 2
    said = capsys.readouterr().err
    assert f"train.cuda_graph {problem}" in said and "recipe.yaml:" in said
    assert said.count("\n") == 1 and not (tmp_path / "run").exists()


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_run_repeats_to_the_bit_on_a_device(cuda_graph, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    train = {"epochs": 1, "cuda_graph": cuda_graph, "deterministic": True, "model_ema": 0.9}
    recipe.write_text(yaml.safe_dump({"train": train}))
    fit = ["fit", "--arch", "resnet20", "--image-size", "8", "--schedule", str(recipe)]
    for name in "ab":
        assert main([*fit, "--out", str(tmp_path / name)]) == 0
    one, two = (checkpoint.load(tmp_path / name / "last.safetensors").tensors for name in "ab")
    assert all(torch.equal(one[name], two[name]) for name in one)
