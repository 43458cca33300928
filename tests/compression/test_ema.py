"""The moving average of the weights: its formula, its masks, and which network a checkpoint is."""

import pytest
import torch
import torch._inductor.config
import yaml
from torch import nn

from micronet.compression.ema import ModelEma, averaged_tensors
from micronet.models import architectures
from micronet.pruning import prune
from micronet.recipe.schema import PruneGroup, PruneSection
from micronet.runs import checkpoint, directory
from micronet.train import main
from shared_runs import SMALL

PRUNE = {"groups": [{"layers": ["layer*"], "initial_sparsity": 0.2, "final_sparsity": 0.6}]}


def network():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4))


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_average_is_the_recursion_in_double_precision(decay):
    model, average = network(), ModelEma(decay)
    expected = {}
    for step in range(1, 40):
        with torch.no_grad():
            for tensor in averaged_tensors(model).values():
                tensor.add_(torch.randn(tensor.shape))
        average.update(model, step)
        now = {name: tensor.double() for name, tensor in averaged_tensors(model).items()}
        kept = min(decay, (1 + step) / (10 + step))
        expected = {n: kept * expected.get(n, t) + (1 - kept) * t for n, t in now.items()}
    assert average.tensors.keys() == expected.keys()
    assert {"0.weight", "1.running_var", "3.bias"} <= expected.keys()
    assert "1.num_batches_tracked" not in expected
    for name, tensor in expected.items():
        torch.testing.assert_close(average.tensors[name].double(), tensor, rtol=1e-5, atol=1e-5)


def test_average_stands_in_for_the_network_and_leaves_it_as_it_was():
    model, average = network(), ModelEma(0.9)
    average.update(model, 1)
    trained = torch.randn(model[0].weight.shape)
    with torch.no_grad():
        model[0].weight.copy_(trained)
    with pytest.raises(RuntimeError), average.in_place(model):
        assert torch.equal(model[0].weight, average.tensors["0.weight"])
        raise RuntimeError
    assert torch.equal(model[0].weight, trained)
    with ModelEma().in_place(model):
        assert torch.equal(model[0].weight, trained)


def test_what_masks_prune_is_zero_in_the_average_too():
    model, average, masks = network(), ModelEma(0.9), prune.Masks()
    average.update(model, 1)
    section = PruneSection((PruneGroup(("0",), final_sparsity=0.5),), method="one-shot")
    masks.update(model, section, prune.layer_groups(model, section), 0)
    assert int((average.tensors["0.weight"] == 0).sum()) == 0
    average.prune(masks)
    assert torch.equal(average.tensors["0.weight"] == 0, model[0].weight == 0)
    assert int((model[0].weight == 0).sum()) == model[0].weight.numel() // 2


def test_what_is_no_real_number_is_not_averaged():
    model, average = network(), ModelEma(0.9)
    model.order = nn.Parameter(torch.arange(3), requires_grad=False)
    for step in (1, 2):
        average.update(model, step)
    with average.in_place(model):
        assert model.order.tolist() == [0, 1, 2] and "order" not in average.tensors


@pytest.fixture(scope="module")
def averaged(shallow, tmp_path_factory):
    """A pruned run that keeps an average."""
    folder = tmp_path_factory.mktemp("averaged")
    sections = {"train": {"epochs": 3, "lr": 0.05, "model_ema": 0.8}}
    sections["prune"] = {**PRUNE, "end_epoch": 2}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(sections))
    command = ["prune", "--from", str(shallow), "--schedule", str(folder / "recipe.yaml")]
    assert main([*command, *SMALL, "--out", str(folder / "prune")]) == 0
    return folder / "prune"


def test_checkpoint_is_the_average_and_resume_the_trained_network(averaged):
    last = averaged / "last.safetensors"
    found = checkpoint.load(last)
    trained, average = found.group("model"), found.group("average")
    assert average.keys() <= trained.keys()
    differing = [name for name in average if not torch.equal(average[name], trained[name])]
    assert len(differing) > 0.9 * len(average)
    loaded = {
        flag: directory.load(last, averaged=flag).model.state_dict() for flag in (True, False)
    }
    assert all(torch.equal(loaded[True][name], average[name]) for name in average)
    assert all(torch.equal(loaded[False][name], trained[name]) for name in trained)


def test_average_is_what_was_validated_and_it_is_pruned(averaged, capsys):
    record = directory.RunDirectory(averaged).metrics()[-1]
    last = str(averaged / "last.safetensors")
    assert main(["eval", last, "--split", "validation", "--json", "--threads", "1"]) == 0
    told = yaml.safe_load(capsys.readouterr().out.splitlines()[-1])
    assert told["top1"] == record["validation_top1"]
    model = directory.load(last).model
    assert prune.shown_sparsity(model) == record["sparsity"] > 0.59


def test_weights_option_takes_the_average(averaged, resnet8):
    last = averaged / "last.safetensors"
    model = architectures.create_model(resnet8, 10)
    architectures.load_weights(model, str(last))
    average = checkpoint.load(last).group("average")
    assert torch.equal(model.state_dict()["conv1.weight"], average["conv1.weight"])


@pytest.mark.slow
def test_compiled_steps_train_and_validation_does_not_use_them(averaged, tmp_path, monkeypatch):
    """Of torch.compile itself only the tracing, which takes seconds, not its code generator."""
    graphs, real = [], torch.compile

    def traced(graph, inputs):
        graphs.append(torch.is_grad_enabled())
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda model: real(model, backend=traced))
    fit = ["fit", "--from", str(averaged), *SMALL, "--epochs", "1", "--lr", "0.01"]
    assert main([*fit, "--out", str(tmp_path / "eager")]) == 0
    assert graphs == []
    assert main([*fit, "--compile", "--out", str(tmp_path / "compiled")]) == 0
    assert graphs and all(graphs)
    one, two = (
        checkpoint.load(tmp_path / name / "last.safetensors").tensors
        for name in ("eager", "compiled")
    )
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_images_in_either_order_train_alike(averaged, tmp_path):
    losses = []
    for order in ("--channels-last", "--no-channels-last"):
        out = tmp_path / order
        fit = ["fit", "--from", str(averaged), *SMALL, "--epochs", "1", "--lr", "0.01", order]
        assert main([*fit, "--out", str(out)]) == 0
        losses.append(directory.RunDirectory(out).metrics()[0]["train_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_what_cannot_be_compiled_is_said_before_a_run_begins(averaged, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    precision = {"weights": {"bits": 4}, "activations": {"bits": 4}}
    recipe.write_text(yaml.safe_dump({"train": {"epochs": 1}, "quantize": precision}))
    out = ["--out", str(tmp_path / "run"), "--compile", "--from", str(averaged), *SMALL]
    assert main(["qat", "--schedule", str(recipe), *out]) == 2
    assert "qat cannot be compiled" in capsys.readouterr().err
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        assert main(["fit", *out]) == 2
    assert "needs a C++ compiler" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
