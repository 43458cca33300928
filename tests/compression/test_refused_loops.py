"""What a compression refuses, since it would go wrong without a word."""

import pytest
import torch
from torch import nn

import micronet
from compressed import BOTH, LEARNED, PRUNE, epoch_of, recipe, small
from micronet.utils.errors import UserError


def test_learned_steps_that_no_optimizer_has_are_refused(batches):
    model = small()
    plan = recipe(quantize={"start_epoch": 1, "weights": LEARNED, "activations": LEARNED})
    compression = micronet.compress(model, plan)
    optimizer = torch.optim.SGD(compression.parameter_groups(), lr=0.1)
    epoch_of(model, compression, optimizer, batches, 0)
    with pytest.raises(UserError, match="no optimizer trains the network's learned steps"):
        compression.begin_epoch(1)
        compression.step()


def test_epochs_are_begun_in_order():
    compression = micronet.compress(small(), recipe(prune=PRUNE))
    with pytest.raises(UserError, match=r"step comes before begin_epoch"):
        compression.step()
    with pytest.raises(UserError, match=r"begin_epoch\(2\) follows the start"):
        compression.begin_epoch(2)
    compression.begin_epoch(0)
    zeros = compression.report().zeros
    compression.begin_epoch(0)
    assert compression.report().zeros == zeros
    compression.begin_epoch(1)
    with pytest.raises(UserError, match=r"begin_epoch\(0\) follows epoch 1"):
        compression.begin_epoch(0)


def test_progress_without_a_number_of_steps_is_refused():
    compression = micronet.compress(small(), recipe(prune=PRUNE))
    with pytest.raises(UserError, match="steps_per_epoch"):
        _ = compression.progress


def test_ranges_that_are_not_finite_are_named():
    model = small()
    compression = micronet.compress(model, recipe(quantize=BOTH))
    compression.begin_epoch()
    model(torch.full((2, 3, 9, 9), torch.nan))
    with pytest.raises(UserError, match=r"the input of layer 'first\.0' held a value that is not"):
        compression.verify()
    with pytest.raises(UserError, match=r"not finite"):
        compression.begin_epoch()


def test_a_recipe_of_a_file_names_its_lines(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe(prune=PRUNE).to_yaml())
    loaded = micronet.Recipe.load(path)
    assert micronet.compress(small(), loaded).plan == micronet.compress(small(), loaded).plan
    path.write_text(path.read_text().replace("'*'", "head"))
    with pytest.raises(UserError, match=r"recipe\.yaml:[1-9].*'head' is no layer"):
        micronet.compress(small(), micronet.Recipe.load(path))


@pytest.mark.parametrize("wrong", [{"prune": PRUNE}, "cifar10_resnet20_qat", None])
def test_what_is_no_recipe_is_refused(wrong):
    with pytest.raises(UserError, match=r"a recipe is a micronet\.Recipe, not"):
        micronet.compress(small(), wrong)


@pytest.mark.parametrize("wrong", [None, 3, "prune", [1], b"prune", 1j])
def test_plain_data_that_is_no_recipe_is_refused(wrong):
    with pytest.raises(UserError, match="holds no sections"):
        micronet.Recipe.from_dict(wrong)


@pytest.mark.parametrize("steps", [0, -3])
def test_an_epoch_of_no_steps_is_refused(steps):
    with pytest.raises(UserError, match=f"steps_per_epoch {steps} is no number of steps"):
        micronet.compress(small(), recipe(prune=PRUNE), steps_per_epoch=steps)


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda m: micronet.prune_(m, "half"), "sparsity is a number from 0 to 1, not 'half'"),
        (lambda m: micronet.prune_(m, True), "sparsity is a number from 0 to 1, not True"),
        (lambda m: micronet.prune_(m, 0.5, layers="fc"), r"such as \['fc'\], not 'fc'"),
        (lambda m: micronet.prune_(m, 0.5, layers=None), "layers takes a list of patterns"),
        (lambda m: micronet.prune_(m, 0.5, layers=[3]), r"layers\[0\] must be text, not 3"),
        (lambda m: micronet.prune_(m, 0.5, structure=4), "structure must be text, not 4"),
        (lambda m: micronet.quantize_(m, "4"), "weights takes a number of bits, WeightPrecision"),
        (lambda m: micronet.quantize_(m, activations=True), "or None, not True"),
        (lambda m: micronet.quantize_(m, floats="fc"), "floats takes a list of patterns"),
        (lambda m: micronet.quantize_(m, overrides=[3]), r"overrides\[0\] must be a mapping"),
    ],
)
def test_wrong_types_are_refused(call, match):
    with pytest.raises(UserError, match=match):
        call(small())


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_weights_of_other_types_are_refused(dtype):
    model = nn.Sequential(nn.Linear(4, 4, dtype=dtype), nn.Linear(4, 4))
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(UserError, match=f"layer '0' cannot be pruned: its weights are {name}, but"):
        micronet.prune_(model, 0.5)
    with pytest.raises(UserError, match=f"layer '0' cannot be quantized: its weights are {name}"):
        micronet.quantize_(model, 4, 4, overrides=[micronet.QuantizeOverride(("0",))])
    rows = micronet.quantize_(model, 4, 4).report().layers
    assert [row.arithmetic for row in rows] == ["float", "integer"] and name in str(rows[0])
    with pytest.raises(UserError, match="quantizes no layer"):
        micronet.quantize_(nn.Sequential(nn.Linear(4, 4, dtype=dtype)))


@pytest.mark.parametrize("scope", ["layer", "group"])
def test_weights_that_are_no_numbers_are_not_pruned(scope):
    model = small()
    model.second[0].weight.data[0, 0] = torch.nan
    with pytest.raises(
        UserError, match=r"layer 'second\.0' cannot be pruned: its weights hold NaN"
    ):
        micronet.prune_(model, 0.5, scope=scope)


@pytest.mark.parametrize("call", [lambda m: micronet.prune_(m, 0.5), micronet.quantize_])
def test_layers_without_a_shape_are_refused(call):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LazyConv2d(4, 3))
    with pytest.raises(UserError, match="compress was given a network with '1', a LazyConv2d"):
        call(model)
    model(torch.randn(1, 3, 9, 9))
    call(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_network_is_not_quantized():
    with pytest.raises(UserError, match="has compiled cannot be quantized"):
        micronet.compress(torch.compile(small()), recipe(quantize=BOTH))
    inner = small()
    assert micronet.compress(torch.compile(inner), recipe(prune=PRUNE)).model is inner


@pytest.mark.parametrize("wrong", ["resnet20", None, nn.Conv2d])
def test_what_is_no_network_is_refused(wrong):
    with pytest.raises(UserError, match=r"takes a torch network"):
        micronet.compress(wrong, recipe(prune=PRUNE))
    with pytest.raises(UserError, match="no convolution and no linear layer"):
        micronet.compress(nn.ReLU(), recipe(prune=PRUNE))
