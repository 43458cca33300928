"""What is said of a conversion, held to the layers that it makes."""

import csv
import io
from itertools import product

import pytest
import torch
from torch import nn

from micronet.models import architectures
from micronet.quantization import conversion, quantize
from micronet.quantization.layers import QuantizedLayer
from micronet.quantization.quantize import LayerBits
from micronet.recipe.schema import ActivationPrecision, QuantizeSection, WeightPrecision

PRECISIONS = [
    LayerBits(weights, inputs, 0.99, weight_step, input_step)
    for weights, inputs in product((None, 2.4, 4, 7, 8), (None, 4, 5))
    for weight_step, input_step in product(("range", "learned"), repeat=2)
]


@pytest.mark.parametrize("bits", PRECISIONS, ids=str)
def test_the_arithmetic_is_the_layers_own(bits):
    model = architectures.create_model("resnet20", 10)
    layers = dict.fromkeys(architectures.layers(model), bits)
    rows = conversion.report(model, layers)
    quantize.convert_(model, layers)
    assert [row.layer for row in rows] == list(layers)
    for row in rows:
        layer = model.get_submodule(row.layer)
        quantized = isinstance(layer, QuantizedLayer)
        exact = quantized and layer.is_exact
        expected = "integer" if exact else "rounded float" if quantized else "float"
        assert row.arithmetic == expected and bool(row.reason) == (not exact)
        assert row.weights == layer.weight.numel()


@pytest.mark.parametrize(
    "bits, reason",
    [
        (LayerBits(None, None), "the schedule leaves it in float"),
        (LayerBits(4, None), "its input stays in float"),
        (LayerBits(None, 4), "its weights stay in float"),
        (LayerBits(4, 4, 0.99, "learned"), ""),
        (LayerBits(4, 4, 0.99, "range", "learned", offset=True), ""),
        (LayerBits(8, 8, symmetric=True), ""),
        (LayerBits(4, 4), ""),
    ],
)
def test_reasons(bits, reason):
    model = architectures.create_model("resnet20", 10)
    (row, *_) = conversion.report(model, dict.fromkeys(architectures.layers(model), bits))
    assert row.reason == reason


def test_sums_beyond_32_bits_stay_in_float():
    """255 * 255 * 33,025 is the last below 2^31."""
    model = nn.Sequential(nn.Linear(33_025, 1), nn.Linear(33_026, 1))
    rows = conversion.report(model, {"0": LayerBits(8, 8), "1": LayerBits(8, 8)})
    assert rows[0].arithmetic == conversion.INTEGER
    assert rows[1].arithmetic == conversion.ROUNDED
    assert "33026 products of 256 by 256 levels need more than 32 bits" in rows[1].reason
    quantize.convert_(model, {"0": LayerBits(8, 8), "1": LayerBits(8, 8)})
    assert model[0].is_exact and not model[1].is_exact
    x = torch.rand(3, 33_026)
    assert model[1](x).isfinite().all() and model.eval()[1](x).isfinite().all()


def test_totals_and_exceptions():
    model = architectures.create_model("resnet20", 10)
    bits = dict.fromkeys(architectures.layers(model), LayerBits(4, 4))
    bits |= {"conv1": LayerBits(None, None), "fc": LayerBits(2.5, None)}
    rows = conversion.report(model, bits)
    total = sum(row.weights for row in rows)
    first, *others = conversion.as_text(rows).splitlines()
    share = (total - 3 * 16 * 9 - 640) / total
    assert first == (
        f"{len(rows) - 2} of {len(rows)} layers, {share:.1%} of their weights, compute in integers "
        "(weights of 16 levels, inputs of 16 levels)"
    )
    assert others[:2] == [
        "  float, the schedule leaves it in float: conv1",
        "  rounded float, its input stays in float (weights of 5 levels): fc",
    ]
    table = list(csv.DictReader(io.StringIO(conversion.as_csv(rows))))
    assert [row["layer"] for row in table] == list(bits)
    assert table[0]["kind"] == "3x3 convolution 3 -> 16" and table[-1]["weight_levels"] == "5"


def test_kinds():
    model = architectures.create_model("efficientnet-b0", 10)
    rows = conversion.report(model, dict.fromkeys(architectures.layers(model), LayerBits(4, 4)))
    kinds = {row.layer: row.kind for row in rows}
    assert kinds["_blocks.1._depthwise_conv"] == "3x3 depthwise 96 -> 96"
    assert kinds["_fc"] == "linear 1280 -> 10"


def test_the_layers_of_torchs_attention_say_why_they_stay_in_float():
    model = nn.Sequential(nn.Linear(8, 8), nn.MultiheadAttention(8, 2))
    section = QuantizeSection(WeightPrecision(4.0), ActivationPrecision(4.0))
    rows = conversion.report(model, quantize.plan(model, section))
    found = {row.layer: (row.arithmetic, row.reason) for row in rows}
    assert found["0"] == (conversion.INTEGER, "")
    assert found["1.out_proj"][0] == conversion.FLOAT
    assert "attention multiplies by its weight" in found["1.out_proj"][1]
    assert "and attention compute in float32" in conversion.as_text(rows)
