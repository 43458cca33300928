"""The table of families: ten held to what it says, and a driver that nothing stops."""

import json
import os
import time

import pytest
import torch

from benchmarks.coverage import __main__ as bench
from benchmarks.coverage import examination, networks, table
from benchmarks.coverage.examination import STEPS, Coverage
from micronet.models import architectures
from micronet.quantization import conversion, quantize
from micronet.recipe import schema
from micronet.scoring.count import score_model

TEN = [
    "mobilenetv3_small_050",
    "mixnet_s",
    "ghostnet_050",
    "tf_efficientnet_lite0",
    "resnet10t",
    "regnety_002",
    "mnasnet_small",
    "mobilenetv4_conv_small_050",
    "semnasnet_075",
    "hardcorenas_a",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", TEN)
def test_ten_families_compute_in_integers(name):
    """Nearly all of them, in training and to the same logits whatever the batch and threads."""
    model = architectures.create_model(f"timm:{name}", 2)
    precision = schema.WeightPrecision(4), schema.ActivationPrecision(4)
    bits = quantize.plan(model, schema.QuantizeSection(*precision))
    rows = conversion.report(model, bits)
    assert {row.arithmetic for row in rows} == {conversion.INTEGER}
    with torch.device("meta"):
        structure = architectures.create_model(f"timm:{name}", 2)
    assert score_model(structure, 64, bits={}, sparsities={}).score > 0
    quantize.convert_(model, bits)
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    threads = torch.get_num_threads()
    try:
        examination.check_exact(model.eval(), 64)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_one_network_by_the_commands():
    found = examination.examine("timm:resnet10t", "resnet")
    assert not found.refusals and not found.crashes and not found.left
    assert found.works == dict.fromkeys(STEPS, True)
    assert (found.size, found.integer_layers, found.integer_macs) == (64, found.layers, 1.0)


def test_what_a_network_says_is_kept(monkeypatch):
    found = examination.examine("timm:no_such_network", "none")
    assert "there is no architecture" in found.refusals["building"] and not found.crashes

    def fail(*_):
        raise IndexError("out of luck")

    monkeypatch.setattr(examination, "_smallest", fail)
    found = examination.examine("resnet18", "resnet")
    assert found.crashes == {"building": "IndexError: out of luck"} and not found.refusals


def test_the_table_has_every_figure_and_sentence():
    names = list(networks.every())
    good = Coverage(names[0], "good", 64, 5, 5, 0.96, works=dict.fromkeys(STEPS, True))
    bad = Coverage(names[1], "bad", 64, 5, 1, 0.2, left={"why (1x1)": 4})
    bad.works, bad.refusals = {"training": False}, {"training": "layer 'x' cannot be y"}
    text = table.markdown([good, bad], {"cores": "2"})
    assert f"| `{names[0]}` | good | 64 | 5 of 5 | 96.0% | yes | yes | yes | yes | yes |" in text
    assert f"| `{names[1]}` | bad | 64 | 1 of 5 | 20.0% | - | no | - | - | - |" in text
    assert f"- `{names[1]}`: 4 layers, why (1x1)" in text
    assert f"- `{names[1]}`, training: layer 'x' cannot be y" in text
    assert table.totals([good, bad])["cnn_families_95_percent_in_integers"] == 1


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda: os._exit(3), "it ended with code 3"),
        (lambda: time.sleep(60), "not done after 3 s"),
    ],
)
def test_no_network_stops_the_others(act, text, monkeypatch, tmp_path, capsys):
    first, second = list(networks.every())[:2]

    def examine(name, family):
        if name == first:
            act()
        return Coverage(name, family, works=dict.fromkeys(STEPS, True))

    monkeypatch.setattr(bench, "examine", examine)
    options = ["--only", first, second, "--limit", "3", "--results", str(tmp_path)]
    assert bench.main(options) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1].removeprefix("RESULT "))
    assert (result["networks"], result["crashes"], result["everything_works"]) == (2, 1, 1)
    record = json.loads((tmp_path / "coverage.json").read_text())
    assert text in record["rows"][0]["crashes"]["process"]
    assert record["rows"][1]["works"] == dict.fromkeys(STEPS, True)


def test_an_unknown_network_is_one_sentence(capsys):
    assert bench.main(["--only", "resnet19"]) == 2
    assert "'resnet19' is not in the table; did you mean" in capsys.readouterr().err


def test_every_network_of_the_table_exists():
    known = set(architectures.architectures())
    for name in networks.every():
        assert name in known or architectures.default_image_size(name) > 0
