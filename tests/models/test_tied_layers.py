"""One module under several names is one layer."""

import csv

import pytest
import torch
import torch.nn.functional as F
import yaml
from efficientnet_pytorch.utils import MemoryEfficientSwish
from torch import nn

import micronet.score as score
from micronet import report
from micronet.cli import summary
from micronet.models import architectures, custom, shared_layers
from micronet.pruning import prune
from micronet.quantization import conversion, quantize
from micronet.quantization.deterministic_layers import FloatConv2d
from micronet.quantization.layers import QuantizedConv2d
from micronet.quantization.sync_batch_norm import SyncBatchNorm, synchronized
from micronet.recipe import layer_patterns
from micronet.recipe.schema import (
    ActivationPrecision,
    PruneGroup,
    PruneSection,
    QuantizeOverride,
    QuantizeSection,
    WeightPrecision,
)
from micronet.runs import checkpoint, directory
from micronet.train import main
from micronet.utils.errors import UserError
from tied_networks import BITS, SOURCE, convert, pruning, section
from user_modules import importable

SMALL = ["--image-size", "16", "--batch-size", "250", "--threads", "1", "--epochs", "1"]
QUANTIZE = {"weights": {"bits": 4}, "activations": {"bits": 4}}
ONE_MODULE = {
    "Shared": ["convs.0", "convs.1"],
    "Alias": ["convs.0", "again"],
    "Listed": ["convs.0"],
    "sequential": ["2", "4"],
    "block": ["2.0", "3.0"],
}


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """The name of an importable module with the networks of SOURCE."""
    with importable(SOURCE, tmp_path, monkeypatch, request) as name:
        yield name


@pytest.fixture
def build(module):
    custom.allow(*(f"{module}:{net}" for net in [*ONE_MODULE, "Tied"]))
    return lambda net: custom.build(f"{module}:{net}", 10)


def calls_of(model, layer):
    """Count what a layer is called in one forward pass, and whether all of it was rounded."""
    count = []
    hook = layer.register_forward_hook(lambda *_: count.append(1))
    model(torch.randn(2, 3, 16, 16))
    hook.remove()
    return len(count)


@pytest.mark.parametrize("net", ONE_MODULE)
def test_conversion_reaches_every_name(net, build):
    model, names = build(net), ONE_MODULE[net]
    before = dict(model.named_parameters())
    assert shared_layers.all_names(model)[names[0]] == names
    convert(model)
    layer = model.get_submodule(names[0])
    assert isinstance(layer, QuantizedConv2d)
    assert all(model.get_submodule(name) is layer for name in names)
    assert calls_of(model, layer) == 2
    after = {n: p for n, p in model.named_parameters() if n in before}
    assert {n: id(p) for n, p in after.items()} == {n: id(p) for n, p in before.items()}
    assert not any(type(m) is nn.Conv2d for m in model.modules())


def test_layers_in_float_are_replaced_under_every_name(build):
    model = build("Shared")
    quantize.convert_(model, {"stem": BITS})
    assert type(model.convs[0]) is FloatConv2d and model.convs[0] is model.convs[1]


def test_a_network_that_is_one_layer():
    conv = nn.Conv2d(3, 4, 3)
    quantize.convert_(conv, {"": BITS})
    assert isinstance(conv, QuantizedConv2d)
    assert conv(torch.randn(2, 3, 8, 8)).shape == (2, 4, 6, 6)


def test_hooks_and_mode_stay():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval()
    seen = []
    handle = model[0].register_forward_hook(lambda *_: seen.append(1))
    quantize.convert_(model, {"0": BITS})
    assert not model[0].training and not model[0].input_quantizer.training
    model[0].input_quantizer.start_from(-1.0, 1.0, batches=1)
    model(torch.randn(1, 3, 4, 4))
    handle.remove()
    model(torch.randn(1, 3, 4, 4))
    assert seen == [1]


def test_what_a_network_keeps_on_a_layer_stays():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
    for layer in model:
        layer.gain = 0.5
        layer.gate = nn.Parameter(torch.ones(1))
        layer.register_buffer("seen", torch.zeros(1), persistent=False)
        layer.inner = nn.Identity()
    before = [name for name, _ in model.named_parameters()]
    quantize.convert_(model, {"0": BITS})
    for layer in model:
        assert layer.gain == 0.5 and isinstance(layer.inner, nn.Identity)
        assert isinstance(layer.gate, nn.Parameter) and "seen" in dict(layer.named_buffers())
    assert not any(key.endswith("seen") for key in model.state_dict())
    assert sorted(name for name, _ in model.named_parameters()) == sorted(before)


def test_swish_and_normalization_under_two_names():
    swish, norm = MemoryEfficientSwish(), nn.BatchNorm2d(4)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), norm, swish, nn.Conv2d(4, 4, 1), norm, swish)
    weight = norm.weight
    model = synchronized(model)
    assert type(model[1]) is SyncBatchNorm and model[1] is model[4]
    assert model[1].weight is weight
    assert type(model[2]) is nn.SiLU and model[2] is model[5]


def test_torchs_synchronized_normalization_under_two_names():
    norm = nn.SyncBatchNorm(4)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), norm, nn.ReLU(), norm)
    quantize.convert_(model, {"0": BITS})
    assert type(model[1]) is SyncBatchNorm and model[1] is model[3]


def test_a_normalization_with_a_forward_of_its_own_keeps_it():
    class Activated(nn.BatchNorm2d):
        def forward(self, x):
            return F.relu(super().forward(x))

    model = synchronized(nn.Sequential(Activated(4), nn.BatchNorm2d(4)))
    assert type(model[0]) is Activated and type(model[1]) is SyncBatchNorm


@pytest.mark.parametrize("pattern", ["convs.0", "convs.1", "*.1", "re:convs.[01]"])
def test_a_pattern_may_use_any_name(pattern, build):
    model = build("Shared")
    override = QuantizeOverride((pattern,), WeightPrecision(8))
    assert quantize.plan(model, section(override))["convs.0"].weight_bits == 8
    assert list(prune.layer_groups(model, pruning(pattern))) == ["convs.0"]


def test_two_names_with_two_precisions_are_an_error(build):
    overrides = [
        QuantizeOverride((f"convs.{i}",), WeightPrecision(bits)) for i, bits in ((0, 8), (1, 2))
    ]
    with pytest.raises(
        UserError, match=r"'convs\.0' and 'convs\.1' are names of one weight.*\[1\]"
    ):
        quantize.plan(build("Shared"), section(*overrides))
    same = [QuantizeOverride((f"convs.{i}",), WeightPrecision(8)) for i in (0, 1)]
    assert quantize.plan(build("Shared"), section(*same))["convs.0"].weight_bits == 8


@pytest.mark.parametrize("net", ["Shared", "Tied"])
def test_two_names_with_two_sparsities_are_an_error(net, build):
    groups = [PruneGroup((f"convs.{i}",), final_sparsity=s) for i, s in ((0, 0.5), (1, 0.25))]
    with pytest.raises(UserError, match=r"'convs\.0' and 'convs\.1' are names of one weight"):
        prune.layer_groups(build(net), PruneSection(tuple(groups), method="one-shot"))


def test_an_exact_name_beats_a_pattern_that_means_another_name():
    names = {"a": ["a", "b"], "c": ["c"]}
    patterns = {"first": ["*"], "second": ["b"]}
    assigned = layer_patterns.assign_layers(names, patterns, "x.yaml", lambda key: key)
    assert assigned == {"a": "second", "c": "first"}


def test_reports_have_one_row_with_all_names(build):
    model = build("Shared")
    rows = conversion.report(model, quantize.plan(model, section()))
    assert [(row.layer, row.other_names) for row in rows] == [
        ("stem", ""), ("convs.0", "convs.1"), ("fc", ""),
    ]  # fmt: skip
    text = summary.layer_table(convert(model), build("Shared").to("meta"), 16).splitlines()
    (row,) = [line for line in text if line.startswith("convs")]
    assert row.startswith("convs.0 (= convs.1) ") and row.split()[-3:] == ["73,728", "4", "4"]


def run_of(tmp_path, name):
    return str(tmp_path / name)


def written(path, content):
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize("net", ["Shared", "block", "Tied"])
def test_from_fit_to_score(net, module, tmp_path, capsys):
    spec = f"{module}:{net}"
    recipe = {
        "prune": {"method": "one-shot", "groups": [{"layers": ["*"], "final_sparsity": 0.5}]},
        "quantize": QUANTIZE,
    }
    schedule = written(tmp_path / "recipe.yaml", recipe)
    fit, pruned, qat = (run_of(tmp_path, stage) for stage in ("fit", "prune", "qat"))
    averaged = ["--model-ema", "0.9"]
    own = ["--own", spec]
    assert main(["fit", "--arch", spec, *SMALL, "--out", fit, *averaged]) == 0
    common = ["--schedule", schedule, *own, *SMALL[2:], *averaged]
    assert main(["prune", "--from", fit, "--out", pruned, *common]) == 0
    assert main(["qat", "--from", pruned, "--out", qat, *common]) == 0
    for run in (fit, pruned, qat):
        assert main(["eval", *own, run]) == 0
        assert main(["summary", *own, run]) == 0
        assert score.main([*own, run]) == 0
    assert report.main([fit, pruned, qat, *own, "--out", str(tmp_path / "page.html")]) == 0
    assert main(["qat", "--out", qat, "--resume", *own]) == 0
    loaded = directory.load(qat).model
    weight = loaded.get_submodule("2.0" if net == "block" else "convs.0").weight
    # The average that is loaded is pruned too.
    assert int((weight == 0).sum()) == weight.numel() // 2
    keys = checkpoint.load(directory.find_checkpoint(qat)).group("model")
    state = loaded.state_dict()
    pointers = {tensor.data_ptr() for tensor in state.values()}
    assert len(keys) == len(pointers) and keys.keys() <= state.keys()
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("net", [*ONE_MODULE, "Tied"])
def test_a_run_scores_as_its_plan(net, build):
    bits = {"weights": WeightPrecision(4), "activations": ActivationPrecision(4)}
    plan = quantize.plan(build(net), QuantizeSection(**bits))
    with torch.device("meta"):
        planned = score.score_model(build(net), 16, bits=plan, sparsities={})
    model = convert(build(net))
    model(torch.randn(8, 3, 16, 16))
    with torch.no_grad():
        for layer in architectures.layers(model).values():
            # No weight that rounds to zero, so that nothing but the network decides.
            layer.weight.copy_(torch.where(layer.weight < 0, -1.0, 1.0))
    actual = score.score_model(model.eval(), 16, bits=plan)
    assert actual.operations == planned.operations
    assert actual.storage == planned.storage
    assert len(actual.subject.layers) == (4 if net == "Tied" else 3)


def test_layers_csv_names_all(module, tmp_path, capsys):
    spec, fit, qat = f"{module}:Shared", run_of(tmp_path, "fit"), run_of(tmp_path, "qat")
    schedule = written(tmp_path / "q.yaml", {"quantize": QUANTIZE})
    assert main(["fit", "--arch", spec, *SMALL, "--out", fit]) == 0
    command = ["qat", "--from", fit, "--schedule", schedule, "--own", spec, *SMALL[2:]]
    assert main([*command, "--out", qat]) == 0
    rows = list(csv.DictReader((tmp_path / "qat" / "layers.csv").read_text().splitlines()))
    assert [row["other_names"] for row in rows] == ["", "convs.1", ""]
    assert "3 of 3 layers" in capsys.readouterr().out
