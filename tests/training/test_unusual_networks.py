"""Networks that fit, but not as usual: views, linear layers alone, wrappers, batches of one."""

import json

import pytest
import torch
from torch import nn

import micronet.score as score
from image_folders import make_folder
from micronet import report
from micronet.pruning import prune
from micronet.runs import checkpoint, directory
from micronet.train import main
from micronet.training import optimizer
from trial_networks import QUANTIZE, SMALL, half, refused, written


@pytest.mark.parametrize("flag", ["--channels-last", "--no-channels-last"])
def test_a_network_that_views_gets_contiguous_images_everywhere(flag, nets, tmp_path, capsys):
    """It raises on any other image, in training, validation, evaluation and sensitivity."""
    spec, out = f"{nets}:View", str(tmp_path / "run")
    assert main(["fit", "--arch", spec, *SMALL, flag, "--model-ema", "0.9", "--out", out]) == 0
    noted = f"{spec} gets contiguous images, as with --no-channels-last" in capsys.readouterr().out
    assert noted == (flag == "--channels-last")
    assert (
        json.loads((tmp_path / "run/config.json").read_text())["recipe"]["train"]["channels_last"]
        is False
    )
    assert directory.load(out).channels_last is False
    assert main(["fit", "--out", out, "--resume", "--own", spec]) == 0
    assert main(["eval", out, "--own", spec]) == 0
    scan = ["sensitivity", out, "--own", spec, "--levels", "0.5", "--out", str(tmp_path / "scan")]
    assert main(scan) == 0
    assert "note" not in capsys.readouterr().out
    # What a checkpoint cannot say is found out.
    weights = ["--arch", spec, "--weights", f"{out}/best.safetensors", "--image-size", "16"]
    assert main(["eval", *weights]) == 0
    assert report.main([out, "--own", spec]) == 0


@pytest.mark.parametrize("net", ["group_norm", "group_norm_of_a_pixel"])
def test_a_network_whose_gradient_would_end_the_process(net, nets, tmp_path, capsys):
    """The GroupNorm of torch 2.11 does so where it reads the images, channels last."""
    out = str(tmp_path / "run")
    assert main(["fit", "--arch", f"{nets}:{net}", *SMALL, "--out", out]) == 0
    said = capsys.readouterr().out
    assert "gets contiguous images" in said and "GroupNorm has no gradient" in said
    model = directory.load(out).model
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_flag_holds_for_every_image_of_a_run(nets, tmp_path, monkeypatch):
    seen = []
    forward = nn.Conv2d.forward

    def watched(self, x):
        seen.append(x.is_contiguous())
        return forward(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", watched)
    common = ["--arch", f"{nets}:convolutions", *SMALL]
    assert main(["fit", *common, "--no-channels-last", "--out", str(tmp_path / "a")]) == 0
    assert all(seen)
    assert main(["eval", str(tmp_path / "a"), "--own", f"{nets}:convolutions"]) == 0
    assert all(seen)
    seen.clear()
    assert main(["fit", *common, "--out", str(tmp_path / "b")]) == 0
    assert not any(seen)


def test_a_last_image_alone_is_evaluated_and_trained(nets, tmp_path, capsys):
    """``squeeze`` takes its batch axis away, and the layer after it gives back a vector."""
    folder = make_folder(tmp_path / "data", 16, count=5)
    spec, out = f"{nets}:squeezed", str(tmp_path / "run")
    options = ["--data", str(folder), "--image-size", "16", "--epochs", "1", "--threads", "1"]
    start = ["fit", "--arch", spec, *options]
    assert main([*start, "--batch-size", "11", "--out", out]) == 0
    assert main(["eval", out, "--own", spec, "--batch-size", "11", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["total"] == 12
    record = directory.RunDirectory(tmp_path / "run").metrics()[-1]
    assert found["top1"] == record["validation_top1"]
    assert main([*start, "--batch-size", "1", "--out", str(tmp_path / "one")]) == 0


def test_a_batch_of_one_where_the_last_of_a_split_batch_is(nets, tmp_path, capsys):
    """Ten images in four parts of three: the last is alone."""
    folder = make_folder(tmp_path / "data", 16, count=5)
    spec = f"{nets}:normalized_at_one_pixel"
    command = ["fit", "--arch", spec, "--data", folder, "--image-size", "16", "--epochs", "1"]
    command += ["--batch-size", "16", "--accumulate", "4", "--out", tmp_path / "run"]
    message = refused(main, command, capsys)
    assert "more than 1 value per channel" in message and "two images" in message
    command[command.index("--accumulate") + 1] = "2"
    assert main([str(word) for word in command]) == 0


def test_linear_layers_alone(nets, tmp_path, capsys):
    spec = f"{nets}:mlp"
    fit, pruned, qat = (str(tmp_path / name) for name in ("fit", "prune", "qat"))
    small = ["--image-size", "8", "--batch-size", "250", "--threads", "1", "--epochs", "1"]
    assert main(["fit", "--arch", spec, *small, "--out", fit]) == 0
    own = ["--own", spec]
    common = ["--from", fit, *own, *small]
    assert main(["prune", *common, "--schedule", written(tmp_path, half()), "--out", pruned]) == 0
    assert "sparsity 50.0 %" in capsys.readouterr().out
    assert directory.RunDirectory(tmp_path / "prune").metrics()[-1]["sparsity"] == 0.5
    common[1] = pruned
    assert main(["qat", *common, "--schedule", written(tmp_path, QUANTIZE), "--out", qat]) == 0
    # Rounding makes zeros; what pruning made is what is kept in the weights.
    assert directory.RunDirectory(tmp_path / "qat").metrics()[-1]["sparsity"] == 0.5
    for out in (fit, pruned, qat):
        assert main(["eval", out, *own]) == 0
        assert main(["summary", out, *own]) == 0
        assert score.main([out, *own]) == 0
        assert report.main([out, *own]) == 0
        assert main(["sensitivity", out, *own, "--levels", "0.5", "--out", f"{out}/scan"]) == 0
    capsys.readouterr()
    assert main(["summary", pruned, *own]) == 0
    assert "14,656  50.00 %         14,656" in capsys.readouterr().out
    assert score.main([pruned, *own]) == 0
    assert "11040" in capsys.readouterr().out
    plan = ["--arch", spec, "--num-classes", "10", "--image-size", "8"]
    for rules in ("micronet", "seed", "ist-final"):
        assert score.main([*plan, "--rules", rules]) == 0
    assert score.main([*plan, "--schedule", written(tmp_path, half() | QUANTIZE)]) == 0


def test_the_log_counts_convolutions_and_what_is_pruned():
    model = nn.Sequential(nn.Conv2d(1, 1, 2), nn.Linear(2, 2), nn.Linear(2, 4))
    with torch.no_grad():
        for layer, zeros in zip(model, (1, 2, 8), strict=True):
            layer.weight.fill_(1.0).view(-1)[:zeros] = 0
    assert prune.shown_sparsity(model) == 1 / 4
    assert prune.shown_sparsity(model, ["1"]) == 3 / 8
    assert prune.shown_sparsity(model[1:]) == 0
    assert prune.shown_sparsity(model[1:], ["1", "2"]) == 10 / 12


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "net",
    ["compiled", "compiled_in_place", "compiled_part", "compiled_method", "decorated", "parallel"],
)
def test_wrappers_come_off(net, nets, tmp_path):
    """The layers keep their own names, and are those that train and that are quantized."""
    spec = f"{nets}:{net}"
    fit, pruned, qat = (str(tmp_path / name) for name in ("fit", "prune", "qat"))
    assert main(["fit", "--arch", spec, *SMALL, "--out", fit]) == 0
    names = {key for key in checkpoint.load(f"{fit}/last.safetensors").tensors}
    assert {"model/0.weight", "model/5.weight"} <= names
    assert not [name for name in names if "orig_mod" in name or "module." in name]
    common = ["--own", spec, *SMALL]
    recipe = written(tmp_path, half())
    assert main(["prune", "--from", fit, *common, "--schedule", recipe, "--out", pruned]) == 0
    recipe = written(tmp_path, QUANTIZE)
    assert main(["qat", "--from", pruned, *common, "--schedule", recipe, "--out", qat]) == 0
    model = directory.load(qat).model
    assert isinstance(model, nn.Sequential) and type(model[0]).__name__ == "QuantizedConv2d"


def test_a_constructor_that_computes_is_scored_too(nets, capsys):
    """On the meta device it cannot."""
    common = ["--arch", f"{nets}:depths", "--num-classes", "10", "--image-size", "16"]
    assert score.main(common) == 0
    assert main(["summary", *common]) == 0


@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (2, 1, 4, 4), (1, 3, 4, 1), (2, 3, 4, 5)])
def test_images_lie_in_an_order_by_their_strides(shape):
    for order in (torch.channels_last, torch.contiguous_format):
        wanted = torch.empty(shape, memory_format=order).stride()
        for now in (torch.channels_last, torch.contiguous_format):
            images = torch.empty(shape, memory_format=now).copy_(torch.rand(shape))
            ordered = optimizer.in_order(images, order)
            assert torch.equal(ordered, images) and ordered.stride() == wanted
