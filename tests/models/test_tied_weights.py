"""Two modules that hold one weight: one mask, one precision, one set of steps, stored once."""

import pytest
import torch
from torch import nn

import micronet_kernels as kernels
from micronet.compression import parameters
from micronet.compression.ema import ModelEma, averaged_tensors
from micronet.models import architectures, shared_layers
from micronet.pruning import prune
from micronet.quantization import quantize
from micronet.quantization.layers import QuantizedLayer
from micronet.recipe.schema import (
    ActivationPrecision,
    QuantizeOverride,
    QuantizeSection,
    WeightPrecision,
)
from micronet.training import optimizer
from micronet.utils.errors import UserError
from tied_networks import BITS, convert, pruning, section


def pair(second=None, **options):
    """Two convolutions that hold one weight, behind a stem."""
    first = nn.Conv2d(8, 8, 3, padding=1, **options)
    second = second or nn.Conv2d(8, 8, 3, padding=1)
    second.weight = first.weight
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), first, nn.ReLU(), second)


@pytest.mark.parametrize("patterns", [("2",), ("4",), ("2", "4"), ("*",)])
@pytest.mark.parametrize("scope", ["layer", "group"])
def test_a_tied_weight_is_pruned_by_one_mask(patterns, scope):
    model, masks = pair(), prune.Masks()
    s = pruning(*patterns, scope=scope)
    masks.update(model, s, prune.layer_groups(model, s), 0)
    assert set(masks.bits) == ({"0", "2"} if patterns == ("*",) else {"2"})
    if scope == "layer":
        assert int((model[4].weight == 0).sum()) == 8 * 8 * 9 // 2
        expected = {"2": 0.5, "4": 0.5} | ({"0": 0.5} if patterns == ("*",) else {})
        assert prune.final_sparsities(model, s) == expected
    # The weight counts once.
    zeros = sum(int((model[i].weight == 0).sum()) for i in (0, 2))
    assert prune.sparsity(model) == zeros / (8 * 3 * 9 + 8 * 8 * 9)
    quantize.convert_(model, dict.fromkeys(architectures.layers(model), BITS), masks.bits)
    assert torch.equal(model[4].mask, model[2].mask) and model[4].mask.numel()


def test_tied_weights_of_two_precisions_are_an_error():
    override = QuantizeOverride(("4",), WeightPrecision(8))
    with pytest.raises(UserError, match=r"'2' and '4' hold one weight.* 4 bits .* 8 bits"):
        quantize.plan(pair(), section(override))
    with pytest.raises(UserError, match=r"'2' and '4' hold one weight.* float in the other"):
        quantize.convert_(pair(), {"2": BITS})
    # The inputs are each layer's own.
    only_inputs = QuantizeOverride(("4",), activations=None)
    assert quantize.plan(pair(), section(only_inputs))["4"].activation_bits is None


def test_learned_steps_are_tied_too():
    model = convert(pair(), step="learned")
    assert model[2].weight_step is model[4].weight_step
    assert torch.equal(model[2].weight_zero_point, model[4].weight_zero_point)
    steps = quantize.learned_steps(model)
    assert len({id(step) for step in steps.values()}) == len(steps) == 5
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    sgd = torch.optim.SGD(model.parameters(), lr=1e-3)  # steps stay positive
    before = model[2].quantized_weight()
    group = parameters.step_group(model, {})
    torch.optim.SGD([model[0].weight], lr=0.1).add_param_group(group)
    sgd.step()
    assert torch.equal(model[2].quantized_weight(), model[4].quantized_weight())
    assert not torch.equal(model[2].quantized_weight(), before)


def test_a_weight_that_is_something_else_too_is_refused():
    model = nn.ModuleDict({"embed": nn.Embedding(10, 8), "fc": nn.Linear(8, 10)})
    model["fc"].weight = model["embed"].weight
    with pytest.raises(UserError, match=r"layer 'fc' is parameter 'embed\.weight' too"):
        quantize.plan(model, section())
    assert (
        quantize.plan(model, QuantizeSection(None, ActivationPrecision(4)))["fc"].weight_bits
        is None
    )
    s, masks, average = pruning("fc"), prune.Masks(), ModelEma(0.9)
    average.update(model, 1)
    masks.update(model, s, prune.layer_groups(model, s), 0)
    average.prune(masks)
    with average.in_place(model):
        assert int((model["embed"].weight == 0).sum()) == 40


def test_overlapping_weights_are_refused_by_name():
    first, second = nn.Linear(8, 12), nn.Linear(12, 8)
    second.weight = nn.Parameter(first.weight.data.t())
    model = nn.Sequential(first, second)
    for act in (
        lambda: prune.layer_groups(model, pruning("0")),
        lambda: quantize.plan(model, section()),
        lambda: optimizer.to_device(model),
    ):
        with pytest.raises(UserError, match=r"'0\.weight' and '1\.weight' overlap in memory"):
            act()


def test_halves_of_one_memory_are_two_weights():
    whole = torch.randn(2, 8, 8)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    for layer, half in zip(model, whole, strict=True):
        layer.weight = nn.Parameter(half)
    assert list(prune.layer_groups(model, pruning("*"))) == ["0", "1"]
    assert list(quantize.plan(model, section())) == ["0", "1"]


@pytest.mark.parametrize("channels_last", [True, False])
def test_two_parameters_of_one_memory_stay_one_tensor(channels_last):
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    model[1].weight = nn.Parameter(model[0].weight.data)
    model = optimizer.to_device(model, channels_last=channels_last)
    assert model[1].weight is not model[0].weight
    assert model[1].weight.data_ptr() == model[0].weight.data_ptr()
    assert shared_layers.owners(model) == {"0": "0", "1": "0"}
    assert len(averaged_tensors(model)) == 3


@pytest.mark.parametrize("structure, fits", [("element", True), ("filter", False), ("2:4", False)])
def test_outputs_that_are_inputs_elsewhere(structure, fits):
    model = pair(nn.ConvTranspose2d(8, 8, 3, padding=1))
    group = {"final_sparsity": None} if structure == "2:4" else {}
    s = pruning("2", structure=structure, **group)
    if fits:
        assert list(prune.layer_groups(model, s)) == ["2"]
        return
    with pytest.raises(UserError, match=r"'2' and '4' hold one weight"):
        prune.layer_groups(model, s)


def test_a_file_may_leave_out_all_names_but_one(tmp_path):
    model, other = pair(), pair()
    path = tmp_path / "w.pth"
    state = {k: v for k, v in model.state_dict().items() if k != "2.weight"}
    torch.save(state, path)
    architectures.load_weights(other, path)
    assert torch.equal(other[2].weight, model[2].weight)
    torch.save({**state, "2.weight": torch.zeros(8, 8, 3, 3)}, path)
    with pytest.raises(UserError, match=r"'2\.weight' and '4\.weight' are one tensor"):
        architectures.load_weights(other, path)


def test_conversion_that_fails_changes_nothing():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 4, 1))
    with pytest.raises(UserError, match=r"layer '1' \(ConvTranspose2d\) cannot be quantized"):
        quantize.convert_(model, {"0": BITS, "1": BITS})
    assert not any(isinstance(m, QuantizedLayer) for m in model.modules())


def test_equal_masks_mean_equal_products():
    model, masks = pair(bias=False), prune.Masks()
    s = pruning("4", structure="filter")
    masks.update(model, s, prune.layer_groups(model, s), 0)
    quantize.convert_(model, dict.fromkeys(architectures.layers(model), BITS), masks.bits)
    for index in (2, 4):
        rounded = model[index].quantized_weight()
        assert int((rounded.abs().sum((1, 2, 3)) == 0).sum()) == 4
    keep = kernels.unpack_bits(masks.bits["2"], 8 * 8 * 9).view(8, 8, 3, 3)
    assert bool((model[2].weight[~keep] == 0).all())
