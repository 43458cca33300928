"""What a user may get wrong: one sentence each, exit code 2, and nothing written."""

import pytest
import torch

from image_folders import make_folder
from micronet.models import architectures
from micronet.train import main
from shared_runs import SMALL
from small_recipes import PRUNE, QUANTIZE, plan


def bad_commands(tmp_path, fitted):
    """Yield (name, arguments, parts of the one sentence that answers them)."""
    out = ["--out", tmp_path / "out"]
    fit = ["fit", "--arch", "resnet20", *out]
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((fitted / "last.safetensors").read_bytes()[:5000])
    two = make_folder(tmp_path / "two", 32, parts=("train",), count=4)
    yield "unknown arch", ["fit", "--arch", "resnet21", *out], ["resnet21", "did you mean"]
    yield "no arch", ["fit", *out], ["--arch"]
    yield "unknown command", ["fitt", *out], ["fitt"]
    yield "unknown option", [*fit, "--frobnicate"], ["--frobnicate"]
    yield "wrong epochs", [*fit, "--epochs", "0"], ["0"]
    yield "wrong holdout", [*fit, "--holdout", "1.5"], ["1.5"]
    yield "negative rate", [*fit, "--lr", "-1"], ["lr"]
    yield "cut checkpoint", ["fit", "--from", cut, *out], ["cut.safetensors"]
    yield "weights of another network", [*fit, "--weights", weights(tmp_path)], ["w.pth"]
    yield "no checkpoint", ["fit", "--from", tmp_path / "no", *out], ["no run or checkpoint"]
    yield "eval of nothing", ["eval"], ["eval needs"]
    yield "eval of no run", ["eval", tmp_path / "no"], ["no run or checkpoint"]
    yield "other classes", ["eval", fitted, "--data", two], ["classes"]
    yield "occupied", ["fit", "--arch", "resnet20", "--out", fitted], ["not empty"]
    yield "resume otherwise", ["fit", "--resume", "--out", fitted, "--lr", "9"], ["--lr", "9"]
    yield "resume of no run", ["fit", "--resume", *out], ["no run directory"]
    yield "prune without weights", ["prune", "--arch", "resnet20", *out], ["prune"]


def bad_data(tmp_path, fitted):
    fit = ["fit", "--arch", "resnet20", "--out", tmp_path / "out"]
    empty, corrupt = (
        make_folder(tmp_path / name, 32, parts=("train",), count=4) for name in ("empty", "corrupt")
    )
    (empty / "train" / "owl").mkdir()
    (corrupt / "train" / "ant" / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 this is no image")
    yield "no folder", [*fit, "--data", tmp_path / "none"], ["none"]
    yield "empty class folder", [*fit, "--data", empty], ["owl"]
    yield "corrupt image", [*fit, "--data", corrupt], ["bad.jpg"]
    yield "no train", [*fit, "--data", make_folder(tmp_path / "v", 32, parts=("val",))], ["train"]


def bad_schedules(tmp_path, fitted):
    start = ["--from", fitted, *SMALL, "--out", tmp_path / "out", "--schedule"]

    def pruning(name, **changes):
        group = {**PRUNE["groups"][0], **changes}
        sections = {"train": {"epochs": 3}, "prune": {**PRUNE, "groups": [group]}}
        return ["prune", *start, plan(tmp_path, f"{name}.yaml", **sections)]

    where = ["prune.groups[0].layers", "glob.yaml"]
    late = plan(tmp_path, "late.yaml", train={"epochs": 1}, prune=PRUNE)
    distils = plan(tmp_path, "d.yaml", quantize=QUANTIZE, distill={})
    qat = ["qat", *start, distils]
    yield "no schedule", ["prune", *start[:-1]], ["prune"]
    yield "no such schedule", ["prune", *start, "none.yaml"], ["none.yaml"]
    yield "pattern", pruning("glob", layers=["layr1*"]), ["layr1*", *where]
    yield "layer", pruning("layer", layers=["layer1.0.conv3"]), ["did you mean 'layer1.0.conv"]
    yield (
        "key",
        pruning("key", final_sparsty=0.5),
        ["final_sparsty", "'final_sparsity'", "key.yaml"],
    )
    yield "below initial", pruning("below", final_sparsity=0.1), ["0.1", "initial_sparsity"]
    nothing = pruning("nothing", final_sparsity=0.00001, initial_sparsity=0)
    yield "prunes nothing", nothing, ["prunes no weight", "nothing.yaml"]
    yield "ends early", ["prune", *start, late], ["end_epoch", "late.yaml"]
    yield "other arch", [*pruning("arch"), "--arch", "resnet32"], ["resnet32", "resnet20"]
    yield "no teacher", qat, ["--teacher"]
    yield "untrained teacher", [*qat, "--teacher", "resnet20"], ["--teacher-weights"]


def weights(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(architectures.create_model("resnet32", 10).state_dict(), path)
    return path


@pytest.mark.parametrize("cases", [bad_commands, bad_data, bad_schedules])
def test_bad_input_is_one_sentence_and_exit_code_2(cases, fitted, tmp_path, capsys):
    checked = 0
    for name, arguments, parts in cases(tmp_path, fitted):
        assert main([str(a) for a in arguments]) == 2, name
        captured = capsys.readouterr()
        message = captured.err.strip()
        assert message.startswith("error: ") and "\n" not in message, (name, message)
        for part in parts:
            assert part in message, (name, part, message)
        assert not (tmp_path / "out").exists(), name
        checked += 1
    assert checked >= 4


def test_eval_of_weights_of_another_architecture(tmp_path, capsys):
    command = ["eval", "--arch", "resnet20", "--weights", str(weights(tmp_path)), *SMALL]
    assert main(command) == 2
    assert "w.pth" in capsys.readouterr().err
