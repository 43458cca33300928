"""Sixty malformed inputs and more: one sentence, exit code 2, and nothing written."""

import json
import struct

import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image

from micronet.runs import checkpoint
from micronet.train import main
from paths import ROOT
from shared_runs import SMALL

GROUP = {"layers": ["layer1*"], "final_sparsity": 0.5}

# Sections of a recipe that `prune` is given, and what its answer names.
RECIPES = {
    "empty file": ("", ["holds no sections"]),
    "a list": ("- 1", ["holds no sections"]),
    "a scalar": ("prune", ["holds no sections"]),
    "a tab": ("train:\n\tepochs: 1", ["not valid YAML", "line 2"]),
    "an open bracket": ("train: {epochs: 1", ["not valid YAML"]),
    "a python object": ("train: !!python/object/apply:os.getcwd []", ["not valid YAML"]),
    "an unknown anchor": ("train: *x", ["not valid YAML"]),
    "nested too deeply": ("[" * 1500, ["not valid YAML"]),
    "an unknown section": ("prunes: {}", ["prunes", "did you mean 'prune'"]),
    "a section that is a list": ("prune: [1]", ["prune must be a mapping"]),
    "no groups": ("prune: {end_epoch: 1}", ["prune.groups", "missing"]),
    "an unknown key": ("prune: {end_epoc: 1, groups: []}", ["prune.end_epoc", "'end_epoch'"]),
    "text for a number": ("train: {lr: fast}", ["train.lr", "fast"]),
    "a number for text": ("train: {lr_schedule: 3}", ["train.lr_schedule", "3"]),
    "a fraction of an epoch": ("train: {epochs: 1.5}", ["train.epochs", "1.5"]),
    "true for a number": ("train: {batch_size: true}", ["train.batch_size", "true"]),
    "not a number": ("train: {lr: .nan}", ["train.lr", "nan"]),
    "infinite decay": ("train: {weight_decay: .inf}", ["train.weight_decay", "inf"]),
    "a huge seed": ("train: {seed: 99999999999999999999}", ["train.seed"]),
    "negative warm-up": ("train: {warmup_epochs: -1}", ["train.warmup_epochs -1"]),
    "sparsity of one": (
        {"prune": {"end_epoch": 1, "groups": [{**GROUP, "final_sparsity": 1.0}]}},
        ["final_sparsity 1.0"],
    ),
    "a layer that is not there": (
        {"prune": {"end_epoch": 1, "groups": [{**GROUP, "layers": ["layer9"]}]}},
        ["layer9", "no layer"],
    ),
    "a pattern that means none": (
        {"prune": {"end_epoch": 1, "groups": [{**GROUP, "layers": ["bn*"]}]}},
        ["bn*", "no layer"],
    ),
    "an unknown structure": (
        {"prune": {"end_epoch": 1, "groups": [{**GROUP, "structure": "rows"}]}},
        ["structure 'rows'"],
    ),
    "a structure that does not fit": (
        {
            "prune": {
                "end_epoch": 1,
                "groups": [{"layers": ["conv1"], "structure": "2:4", "initial_sparsity": 0}],
            }
        },
        ["conv1", "3 input channels"],
    ),
    "no epoch left": (
        {"train": {"epochs": 2}, "prune": {"end_epoch": 9, "groups": [GROUP]}},
        ["prune.end_epoch", "epoch 2"],
    ),
    "distiller's statistics": (
        "conv1:\n  output: {min: 0, max: 1}",
        ["no schedule but statistics", "see 'PostTrainLinearQuantizer", "docs/from_distiller.md"],
    ),
    "distiller's post-training": (
        {"quantizers": {"q": {"class": "PostTrainLinearQuantizer"}}},
        ["quantizers.q is of class PostTrainLinearQuantizer", "has no counterpart"],
    ),
    "a distiller class": ({"policies": [{"pruner": {"instance_name": "x"}}]}, ["'x'", "pruners"]),
}


def written(tmp_path, content, name="recipe.yaml"):
    path = tmp_path / name
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    path.write_text(text)
    return path


@pytest.fixture
def refuses(tmp_path, capsys):
    """A function that holds one command to the answer that a mistake gets."""

    def check(arguments, parts):
        before = {p: p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("*"))}
        capsys.readouterr()
        assert main([str(a) for a in arguments]) == 2
        message = capsys.readouterr().err.strip()
        assert message.startswith("error: ") and "\n" not in message, message
        assert "Traceback" not in message
        for part in parts:
            assert part in message, (part, message)
        assert {p: p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("*"))} == before

    return check


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name, fitted, tmp_path, refuses):
    content, parts = RECIPES[name]
    path = written(tmp_path, content)
    start = ["prune", "--from", fitted, "--schedule", path, "--out", tmp_path / "out", *SMALL]
    refuses(start, ["recipe.yaml", *parts])


def test_a_running_stage_names_the_line_too(fitted, tmp_path, refuses):
    """Names are held to the network after the recipe was read, and recorded."""
    lines = [
        "prune:",
        "  end_epoch: 1",
        "  groups:",
        "    - final_sparsity: 0.5",
        "      layers: []",
    ]
    start = ["--from", fitted, "--out", tmp_path / "out", *SMALL]
    for layers, part in (("[layr1*]", "'layer1.*'"), ('["re:conv"]', "'re:conv' is no layer")):
        path = written(tmp_path, "\n".join(lines).replace("[]", layers))
        command = ["prune", *start, "--schedule", path]
        refuses(command, ["recipe.yaml:5: prune.groups[0].layers", part])
    text = "quantize:\n  weights: {bits: 4}\n  activations: null\n  start_epoch: 99\n"
    command = ["qat", *start, "--schedule", written(tmp_path, text)]
    refuses(command, ["recipe.yaml:4: quantize.start_epoch 99"])
    text = "train: {accumulate: 2}\n" + text.replace("99", "0")
    command = ["qat", *start, "--schedule", written(tmp_path, text), "--batch-size", "5"]
    refuses(command, ["command line: train.accumulate 2 does not divide train.batch_size 5"])


def test_colons_and_exponents_mean_what_they_say(fitted, tmp_path):
    """YAML 1.1 reads 2:4 as 124, and 1e-2 as text."""
    text = "prune:\n  end_epoch: 1\n  groups:\n    - {layers: ['layer1*'], structure: 2:4}\n"
    path, out = written(tmp_path, f"train: {{epochs: 1, lr: 1e-2}}\n{text}"), tmp_path / "run"
    command = ["prune", "--from", fitted, "--schedule", path, "--out", out, *SMALL]
    assert main([str(a) for a in command]) == 0
    recipe = json.loads((out / "config.json").read_text())["recipe"]
    assert recipe["train"]["lr"] == 0.01 and recipe["prune"]["groups"][0]["structure"] == "2:4"


def cut(share):
    return lambda content: content[: int(share * len(content))]


def flip(at):
    def change(content):
        changed = bytearray(content)
        changed[int(at * len(content))] ^= 0x10
        return bytes(changed)

    return change


# What is done to the bytes of a good checkpoint.
CHECKPOINTS = {
    "empty": cut(0),
    "one byte": lambda content: content[:1],
    "only the length": lambda content: content[:8],
    "half the header": lambda content: content[:300],
    "half": cut(0.5),
    "all but a byte": lambda content: content[:-1],
    "a byte too many": lambda content: content + b"x",
    "a bit of the length": flip(0.0),
    "a bit of the header": lambda content: flip(40 / len(content))(content),
    "a bit of a weight": flip(0.7),
    "the last bit": lambda content: flip((len(content) - 1) / len(content))(content),
    "an endless header": lambda content: struct.pack("<Q", 2**62) + content[8:],
    "text": lambda content: b"this is no checkpoint\n" * 100,
    "a pickle": lambda content: b"\x80\x04\x95" + content[3:],
    "a zip": lambda content: b"PK\x03\x04" + content[4:],
}


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("use", ["start", "teacher", "eval"])
def test_checkpoint(name, use, fitted, tmp_path, refuses):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(CHECKPOINTS[name]((fitted / "best.safetensors").read_bytes()))
    out = ["--out", tmp_path / "out", *SMALL]
    commands = {
        "start": ["fit", "--from", path, *out],
        "teacher": ["fit", "--from", fitted, "--teacher", path, *out],
        "eval": ["eval", path],
    }
    refuses(commands[use], ["bad.safetensors"])


def headers():
    """Whole checkpoints whose headers say what does not fit."""
    yield "no architecture", {"arch": None}, ["arch"]
    yield "an unknown architecture", {"arch": "resnet21"}, ["resnet21"]
    yield "fewer classes", {"num_classes": 3}, ["bad.safetensors"]
    yield "classes that are text", {"num_classes": "ten"}, ["bad.safetensors"]
    yield "bits of a layer that is not there", {"bits": {"x": {}}}, ["bad.safetensors"]
    yield "bits that are a list", {"bits": [1]}, ["bad.safetensors"]


@pytest.mark.parametrize(
    "name,changes,parts", list(headers()), ids=lambda v: v if type(v) is str else ""
)
def test_header(name, changes, parts, fitted, tmp_path, refuses):
    good = checkpoint.load(fitted / "best.safetensors")
    meta = {k: v for k, v in {**good.meta, **changes}.items() if k != "format" and v is not None}
    checkpoint.save(tmp_path / "bad.safetensors", good.tensors, meta)
    refuses(["eval", tmp_path / "bad.safetensors"], parts)


def test_resume_from_a_network_without_a_position(fitted, tmp_path, refuses):
    out = tmp_path / "run"
    assert main(["fit", "--from", str(fitted), "--epochs", "1", "--out", str(out), *SMALL]) == 0
    good = checkpoint.load(out / "last.safetensors")
    for key in ("epoch", "progress", "plateau", "best_top1", "metrics"):
        meta = {k: v for k, v in good.meta.items() if k not in (key, "format")}
        checkpoint.save(out / "last.safetensors", good.tensors, meta)
        refuses(["fit", "--out", out, "--resume"], ["last.safetensors", key])


def test_resume_with_other_images(fitted, tmp_path, refuses):
    out = tmp_path / "run"
    assert main(["fit", "--from", str(fitted), "--epochs", "1", "--out", str(out), *SMALL]) == 0
    config = json.loads((out / "config.json").read_text())
    config["images"]["train"] += 1
    (out / "config.json").write_text(json.dumps(config))
    refuses(["fit", "--out", out, "--resume"], ["1295 train images now", "began with 1296"])


def test_weights_that_execute_code(tmp_path, refuses):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    arguments = ["fit", "--arch", "resnet20", "--weights", tmp_path / "evil.pth"]
    refuses([*arguments, "--out", tmp_path / "out", *SMALL], ["evil.pth"])
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content,part",
    [
        ({"epoch": 3, "history": [0.1, {"best": None}]}, "holds no weights"),
        ({"net": {"module.stem.weight": torch.zeros(3)}}, "none of its names"),
        ({"net": {"module.fc.bias": torch.zeros(7)}}, "under 'net' are of another architecture"),
        (
            {"a": {"fc.bias": torch.zeros(10)}, "b": {"fc.bias": torch.ones(10)}},
            "(1 of 97 tensors fit)",
        ),
    ],
)
def test_weights_that_do_not_fit(content, part, tmp_path, refuses):
    torch.save(content, tmp_path / "odd.pth")
    arguments = ["fit", "--arch", "resnet20", "--weights", tmp_path / "odd.pth"]
    refuses([*arguments, "--out", tmp_path / "out", *SMALL], ["odd.pth", part])


def test_safetensors_of_another_program(tmp_path, refuses):
    safetensors.torch.save_file({"w": torch.zeros(2)}, tmp_path / "other.safetensors")
    refuses(["eval", tmp_path / "other.safetensors"], ["other.safetensors", "not a micronet"])


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), (9, 99, 50)).save(path)


IMAGES = {
    "empty": b"",
    "text": b"no image",
    "cut": None,
    "a bomb": b"P6\n99999 99999\n255\n" + b"\0" * 64,
    "floats": b"Pf\n2 2\n-1.0\n" + bytes(16),
    "only a header": b"\x89PNG\r\n\x1a\n",
}


@pytest.mark.parametrize("name", IMAGES)
def test_image(name, tmp_path, refuses):
    for label in "ab":
        for index in range(4):
            picture(tmp_path / "data" / "train" / label / f"{index}.png")
    bad = tmp_path / "data" / "train" / "b" / "9.png"
    content = IMAGES[name]
    bad.write_bytes((bad.parent / "0.png").read_bytes()[:60] if content is None else content)
    fit = ["fit", "--arch", "resnet20", "--data", tmp_path / "data", "--batch-size", "2"]
    refuses([*fit, "--out", tmp_path / "out", "--threads", "1"], ["9.png"])


FIT = ["fit", "--arch", "resnet20", "--out", "{out}"]
DEMO = str(ROOT / "schedules" / "demo_fit.yaml")
ARGUMENTS = {
    "no command": ([], ["command"]),
    "unknown command": (["train"], ["train"]),
    "no out": (["fit", "--arch", "resnet20"], ["--out"]),
    "no value": ([*FIT, "--epochs"], ["--epochs"]),
    "epochs of text": ([*FIT, "--epochs", "ten"], ["ten"]),
    "negative epochs": ([*FIT, "--epochs", "-3"], ["--epochs"]),
    "fraction of a batch": ([*FIT, "--batch-size", "1.5"], ["1.5"]),
    "no threads": ([*FIT, "--threads", "0"], ["0"]),
    "rate of text": ([*FIT, "--lr", "fast"], ["fast"]),
    "infinite rate": ([*FIT, "--lr", "inf"], ["train.lr", "inf"]),
    "an average of nothing": ([*FIT, "--model-ema", "1"], ["--model-ema", "1 is not between"]),
    "an unknown plan": ([*FIT, "--plan", "no.yaml"], ["no.yaml"]),
    "a plan that is a schedule": ([*FIT, "--plan", DEMO], ["has no key 'arch'"]),
    "unknown amp": ([*FIT, "--amp", "fp8"], ["fp8"]),
    "accumulate that does not divide": ([*FIT, "--accumulate", "3"], ["train.accumulate 3"]),
    "checkpoint every day": ([*FIT, "--checkpoint-every", "1d"], ["1d"]),
    "keep of text": ([*FIT, "--keep", "all"], ["all"]),
    "hold out all": ([*FIT, "--holdout", "1"], ["1"]),
    "unknown data": ([*FIT, "--data", "cifar11"], ["cifar11", "did you mean 'cifar10'"]),
    "weights that are not there": ([*FIT, "--weights", "no.pth"], ["no.pth"]),
    "a teacher without weights": ([*FIT, "--teacher", "resnet32"], ["--teacher-weights"]),
    "weights without a teacher": ([*FIT, "--teacher-weights", "x.pth"], ["--teacher ARCH"]),
    "resume of nothing": (["fit", "--resume", "--out", "{out}"], ["no run directory"]),
    "a schedule that is a folder": ([*FIT, "--schedule", "."], ["schedule '.'"]),
    "out below a file": (["fit", "--arch", "resnet20", "--out", "/dev/null/x"], ["/dev/null/x"]),
    "an option twice removed": ([*FIT, "--lr=0.1", "--lrate=1"], ["--lrate=1"]),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(name, tmp_path, refuses, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, parts = ARGUMENTS[name]
    refuses([a.replace("{out}", str(tmp_path / "out")) for a in arguments], parts)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"recipe": 3}', '{"stage": "fit"}'])
def test_damaged_configuration_of_a_run(content, fitted, tmp_path, refuses):
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.json").write_text(content)
    refuses(["fit", "--out", out, "--resume"], [str(out)])


def test_damaged_log_of_a_run(fitted, tmp_path, refuses):
    out = tmp_path / "run"
    assert main(["fit", "--from", str(fitted), "--epochs", "1", "--out", str(out), *SMALL]) == 0
    config = json.loads((out / "config.json").read_text())
    config["recipe"]["train"]["epochs"] = 2
    (out / "config.json").write_text(json.dumps(config))
    (out / "metrics.jsonl").write_text("{\n")
    refuses(["fit", "--out", out, "--resume", "--threads", "1"], ["metrics.jsonl"])
