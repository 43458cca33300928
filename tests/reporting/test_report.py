"""The report: its numbers are the run's and the scorer's, and the page needs nothing but itself."""

import dataclasses
import functools
import importlib.util
import json
import random
import re
import shutil
import time
from html.parser import HTMLParser

import pytest
import resvg_py
import torch
import yaml
from PIL import Image, ImageFont

import micronet.score as scorer
from micronet import report
from micronet.models import architectures
from micronet.reporting import facts as report_facts
from micronet.reporting.page import page
from micronet.reporting.plotting import charts
from micronet.reporting.plotting.axis import label, ticks
from micronet.runs import directory
from micronet.scoring.count import DEFAULT_RULES
from micronet.scoring.rules.tracks import TRACKS
from micronet.train import main

SMALL = ["--image-size", "8", "--batch-size", "250", "--threads", "1"]
RECIPE = {
    "train": {"epochs": 3, "lr": 0.05},
    "prune": {"end_epoch": 2, "groups": [{"layers": ["layer*"], "final_sparsity": 0.6}]},
    "quantize": {
        "weights": {"bits": 4},
        "activations": {"bits": 4},
        "overrides": [{"layers": ["conv1"], "weights": None, "activations": None}],
    },
}
# Tags that are never closed.
VOID = {"meta", "path", "polyline", "circle", "br"}


class Page(HTMLParser):
    """What a page holds, and whether its tags are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.cells, self.svgs, self.attributes, self.words = [], [], 0, [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, *pair) for pair in attributes]
        self.svgs += tag == "svg"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += [(tag, *pair) for pair in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)
        if self.open and self.open[-1] == "td":
            self.cells.append(text)


@pytest.fixture(scope="module")
def stages(shallow, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    fit, qat = folder / "fit", folder / "qat"
    shutil.copytree(shallow, fit)
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    start = ["qat", "--from", str(fit), "--schedule", str(recipe), "--out", str(qat)]
    assert main([*start, *SMALL]) == 0
    return fit, qat


def test_numbers_are_those_of_the_run_and_the_scorer(stages, tmp_path, capsys):
    fit, qat = stages
    out = tmp_path / "report.html"
    assert report.main([str(fit), str(qat), "--out", str(out)]) == 0
    found = Page(out.read_text())
    for run in stages:
        counted = scorer.score_subject(scorer.from_run(str(run), DEFAULT_RULES))
        assert f"{float(counted.score):.6f}" in found.cells
        assert f"{float(counted.storage):,.0f}" in found.cells
        records = [r for r in directory.RunDirectory(run).metrics() if r["at_target"]]
        assert f"{max(r['validation_top1'] for r in records):.2f} %" in found.cells
    layers = architectures.layers(directory.load(qat).model)
    for name, layer in layers.items():
        zeros = float((layer.weight == 0).double().mean())
        at = len(found.cells) - found.cells[::-1].index(f"{layer.weight.numel():,}")
        assert name in found.cells and found.cells[at].endswith("%")
        assert any(abs(float(c[:-2]) - 100 * zeros) < 0.06 for c in found.cells if c.endswith(" %"))
    # Five of curves, two of each score, weights of both runs, codes and ranges of one.
    assert found.svgs == 5 + 2 * 2 + 2 * len(layers) + len(layers) - 1 + 1


def test_nothing_is_fetched_or_executed(stages, tmp_path):
    fit, _ = stages
    assert report.main([str(fit)]) == 0
    text = (fit / "report.html").read_text()
    found = Page(text)
    assert not re.search(r"https?:|url\(|@import|<script|<link|<img", text)
    assert {name for _, name, _ in found.attributes}.isdisjoint(
        {"src", "href", "onload", "onclick"}
    )


def test_what_files_say_is_text(stages, tmp_path):
    run = tmp_path / "<script>alert(1)</script>"
    shutil.copytree(stages[0], run)
    config = json.loads((run / "config.json").read_text())
    config["data"] = '"><img src=x>'
    (run / "config.json").write_text(json.dumps(config))
    text = page([report_facts.read(str(run))])
    assert "<script" not in text and "<img" not in text
    assert '"><img src=x>' in Page(text).cells


def test_what_is_missing_is_said(stages, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(stages[0], run)
    for name in ("best.safetensors", "last.safetensors", "metrics.jsonl"):
        (run / name).unlink()
    words = " ".join(Page(page([report_facts.read(str(run))])).words)
    assert "no epoch has been finished yet" in words and "there is no checkpoint" in words


def test_sparsity_of_the_schedule_is_that_of_the_run(stages):
    facts = report_facts.read(str(stages[1]))
    measured = [record["sparsity"] for record in facts.records]
    assert len(facts.targets) == 3
    assert measured == pytest.approx(facts.targets, abs=2e-3)


def test_pictures_count_every_weight_and_code(stages):
    model = directory.load(stages[1]).model
    for picture in report_facts.read(str(stages[1])).layers:
        layer = architectures.layers(model)[picture.layer]
        assert picture.zeros == int((layer.weight == 0).sum())
        assert sum(picture.counts) + picture.zeros == layer.weight.numel()
        assert (picture.codes is None) == (picture.layer == "conv1")
        if picture.codes is not None:
            assert len(picture.codes) == 16 and sum(picture.codes) == layer.weight.numel()


def test_learned_steps_have_codes_and_ranges(shallow, tmp_path):
    learned = {"bits": 4, "step": "learned"}
    recipe = {"train": {"epochs": 1, "lr": 0.01}, "quantize": {"weights": learned}}
    recipe["quantize"]["activations"] = learned
    path, out = tmp_path / "recipe.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(recipe))
    start = ["qat", "--from", str(shallow), "--schedule", str(path), "--out", str(out)]
    assert main([*start, *SMALL]) == 0
    model = directory.load(out).model
    for picture in report_facts.read(str(out)).layers:
        layer = architectures.layers(model)[picture.layer]
        values = layer.quantized_weight().flatten(1) / layer.weight_step[:, None]
        multiples = values.round().long().flatten() + 8
        assert picture.codes == multiples.bincount(minlength=16).tolist()
        step = float(layer.input_quantizer.step_size.detach())
        low, high = picture.input_range
        assert high - low == pytest.approx(15 * step) and low <= 0 <= high
    words = Page(page([report_facts.read(str(out))])).words
    assert "What inputs are rounded to" in words


def test_ranges_are_drawn_on_one_scale():
    text = charts.spans("x", [("a", -1.0, 3.0), ("b", 0.0, 1.0)])
    drawn = [float(width) for width in re.findall(r"M[\d.]+ \d+h([\d.]+)v13", text)]
    starts = [float(start) for start in re.findall(r"M([\d.]+) \d+h", text)]
    assert drawn[0] == pytest.approx(4 * drawn[1], abs=0.02)
    assert starts[1] - starts[0] == pytest.approx(drawn[0] / 4, abs=0.1)
    assert charts.spans("x", [("a", 0.0, 0.0)]).count("<path") == 2


def test_constant_weights_and_numbers_that_are_none():
    layer = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(layer.weight, 0.5)
    assert sum(report_facts.picture("x", layer).counts) == 4
    assert charts.lines("x", [charts.Line("a", [])]) == ""
    points = [(0, 1), (1, float("nan")), (2, 1)]
    text = charts.lines("x", [charts.Line("a", points)])
    assert text.count("<circle") == 2 and "nan" not in text


@pytest.mark.parametrize(
    "arguments,part",
    [
        (["a", "--rules", "sead"], "did you mean 'seed'"),
        (["a", "--track", "imagnet"], "did you mean 'imagenet'"),
        ([], "RUN"),
        (["nowhere"], "nowhere"),
        (["a", "a"], "twice"),
        (["a", "--frob"], "frob"),
    ],
)
def test_mistakes(arguments, part, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert report.main(arguments) == 2
    message = capsys.readouterr().err
    assert part in message and message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_rules_and_track_are_the_ones_asked_for(stages, tmp_path):
    out, rules, track = tmp_path / "r.html", scorer.RULES["seed"], TRACKS["cifar100"]
    command = [str(stages[1]), "--rules", "seed", "--track", "cifar100", "--out", str(out)]
    assert report.main(command) == 0
    counted = scorer.score_subject(scorer.from_run(str(stages[1]), rules), rules, track)
    found = Page(out.read_text())
    assert f"{float(counted.score):.6f}" in found.cells
    assert "Counted by rule set seed, track cifar100." in " ".join(found.words)


@pytest.mark.parametrize("logarithmic", [False, True])
def test_ticks_are_round_and_hold_every_number(logarithmic):
    generator = random.Random(time.time_ns())
    for close in (False, True) * 250:
        low, high = sorted(10.0 ** generator.uniform(-9, 9) for _ in range(2))
        high = low * (1 + 10.0 ** generator.uniform(-12, -1)) if close else high
        marks = ticks(low, high, logarithmic)
        assert marks[0] <= low * (1 + 1e-9) and marks[-1] >= high * (1 - 1e-9)
        assert 2 <= len(marks) <= 10 and marks == sorted(set(marks))
        texts = [label(mark, marks) for mark in marks]
        assert len(set(texts)) == len(texts) and max(map(len, texts)) <= 9
    assert ticks(0.0, 0.0)[0] < 0 < ticks(0.0, 0.0)[-1]


def test_loss_is_logarithmic_where_it_can_be_and_the_schedule_lies_below():
    line = charts.Line("loss", [(1, 0.01), (2, 10.0)])
    drawn = [charts.lines("Loss", [line], logarithmic=flag) for flag in (True, False)]
    assert ">0.1<" in drawn[0] and ">0.1<" not in drawn[1]
    zero = charts.Line("loss", [(1, 0.0), (2, 10.0)])
    assert charts.lines("Loss", [zero], logarithmic=True) == charts.lines("Loss", [zero])


def test_bars_say_their_shares_of_all():
    text = charts.bars("x", [("a", [0.3, 0.1]), ("b" * 40, [0.6, 0.0])], ["s", "o"])
    assert ">40.0 %<" in text and ">60.0 %<" in text and "…" + "b" * 26 in text


def draw_with(monkeypatch, **fonts):
    """Let pictures be drawn with these fonts alone, whatever the machine has."""
    real = resvg_py.svg_to_bytes
    drawn = functools.partial(real, skip_system_fonts=True, **fonts)
    monkeypatch.setattr(resvg_py, "svg_to_bytes", drawn)


def test_pictures_of_the_page_become_png(stages, tmp_path, monkeypatch, capsys):
    font = ImageFont.load_default(10)
    (tmp_path / "font.ttf").write_bytes(font.font_bytes)
    name, files = font.getname()[0], [str(tmp_path / "font.ttf")]
    draw_with(monkeypatch, font_files=files, sans_serif_family=name)
    folder = tmp_path / "png"
    out = tmp_path / "report.html"
    assert report.main([str(stages[1]), "--out", str(out), "--png", str(folder)]) == 0
    files = sorted(folder.iterdir())
    assert len(files) == Page(out.read_text()).svgs
    assert f"{len(files)} pictures" in capsys.readouterr().out
    assert files[0].name == "001-loss.png" and any("-weights-conv1" in f.name for f in files)
    loss = Image.open(files[0]).convert("RGB")
    assert loss.width == 3 * charts.WIDTH
    colors = {color for _, color in loss.getcolors(2**20)}
    line, title = (tuple(bytes.fromhex(text)) for text in ("3b7dd8", "1c2430"))
    assert {(255, 255, 255), line, title} <= colors


def test_png_needs_its_package_and_a_font(stages, tmp_path, monkeypatch, capsys):
    command = [str(stages[0]), "--out", str(tmp_path / "r.html"), "--png", str(tmp_path / "png")]
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        assert report.main(command) == 2
    assert not (tmp_path / "r.html").exists()
    draw_with(monkeypatch)
    assert report.main(command) == 2
    assert "finds no font" in capsys.readouterr().err
    assert not (tmp_path / "png").exists()


def test_settings_are_those_that_are_not_the_defaults(stages):
    run = report_facts.read(str(stages[1]))
    assert ("train.epochs", "3") in run.settings and ("train.lr", "0.05") in run.settings
    assert all(not key.startswith("train.momentum") for key, _ in run.settings)
    found = Page(page([run])).cells
    assert found[found.index("train.lr") + 1] == "0.05"
    config = dict(run.config)
    config["recipe"] = {"train": {"step_lr": 0.001}, "distill": {}, "augment": {"mixup": 0.5}}
    assert report_facts.settings(config) == [("train.step_lr", "0.001"), ("augment.mixup", "0.5")]


def test_the_rate_of_learned_steps_has_a_curve(stages):
    run = report_facts.read(str(stages[1]))
    assert "learned steps" not in Page(page([run])).words
    records = [record | {"step_lr": record["lr"] / 10} for record in run.records]
    assert "learned steps" in Page(page([dataclasses.replace(run, records=records)])).words
