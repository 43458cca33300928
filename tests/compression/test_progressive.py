"""Layers come down to their precision by stages, and what they learned goes with them."""

import pytest
import torch
import yaml
from torch import nn

import micronet
from compressed import LEARNED, PRUNE, epoch_of, recipe, same, small, states, trained
from micronet.quantization.layers import quantized_layers
from micronet.quantization.precision_change import change_bits_
from micronet.quantization.quantize import LayerBits, learned_steps
from micronet.scoring.network.plan_files import applied
from micronet.utils.errors import UserError

STEPS = ("range", "learned")
STAGES = [
    {"epoch": 0, "weights": 8, "activations": 8},
    {"epoch": 1, "activations": 5},
    {"epoch": 3, "activations": 4, "weights": 5},
    {"epoch": 4, "weights": 4},
]
# Of weights and inputs, by epoch.
EXPECTED = [(8, 8), (8, 5), (8, 5), (5, 4), (4, 4), (4, 4)]


def plan(step="range", stages=STAGES, **quantize):
    precision = {"bits": 4, "step": step}
    section = {"weights": precision, "activations": precision, "progressive": stages, **quantize}
    return recipe(train={"epochs": 6, "model_ema": 0.9}, prune=PRUNE, quantize=section)


def optimizer_of(compression, lr=1e-4):
    return torch.optim.Adam(compression.parameter_groups(), lr=lr)


def begun(made, lr=1e-4):
    model = small()
    compression = micronet.compress(model, made)
    compression.begin_epoch(0)
    return model, compression, optimizer_of(compression, lr)


def bits_of(model):
    """What layers say, and what they compute with."""
    found = set()
    for _, layer in quantized_layers(model):
        assert layer.input_quantizer.levels == layer.bits.activation_levels
        found.add((layer.bits.weight_bits, layer.bits.activation_bits))
    return found


@pytest.mark.parametrize("step", STEPS)
def test_layers_have_the_bits_of_each_epoch(step, batches):
    model, compression, optimizer = begun(plan(step))
    for epoch, expected in enumerate(EXPECTED):
        epoch_of(model, compression, optimizer, batches, epoch)
        assert bits_of(model) == {expected}
        assert compression.bits == {name: layer.bits for name, layer in quantized_layers(model)}
        for _, layer in quantized_layers(model):
            values = layer.quantized_weight().detach().flatten(1)
            assert max(len(channel.unique()) for channel in values) <= 2 ** expected[0]
        assert compression.plan.at_target(epoch) == (epoch >= 4)


def test_a_layer_never_has_fewer_bits_than_its_own():
    overrides = [
        {"layers": ["first.0"], "weights": {"bits": 6}},
        {"layers": ["fc"], "activations": None},
    ]
    _, compression, optimizer = begun(plan(overrides=overrides))
    found = []
    for epoch in range(6):
        compression.begin_epoch(epoch, optimizer)
        first, fc = compression.bits["first.0"], compression.bits["fc"]
        found.append((first.weight_bits, first.activation_bits, fc.weight_bits))
        assert fc.activation_bits is None
    assert found == [(8, 8, 8), (8, 5, 8), (8, 5, 8), (6, 4, 5), (6, 4, 4), (6, 4, 4)]


def test_learned_steps_keep_their_ends_and_the_optimizer_its_state(batches):
    model, compression, optimizer = begun(plan("learned"))
    epoch_of(model, compression, optimizer, batches, 0)
    steps = learned_steps(model)
    before = {owner: step.detach().clone() for owner, step in steps.items()}
    averages = {n: t.clone() for n, t in compression.average.tensors.items()}
    zeros = {n: layer.input_quantizer.zero_point.clone() for n, layer in quantized_layers(model)}
    momenta = {o: optimizer.state[step]["exp_avg"].clone() for o, step in steps.items()}
    compression.begin_epoch(1, optimizer)
    assert learned_steps(model).keys() == steps.keys()
    for owner, step in learned_steps(model).items():
        assert step is steps[owner]
        factor = 255 / 31 if owner.startswith("the input") else 1.0
        assert torch.equal(step.detach(), before[owner] * factor)
        assert torch.equal(optimizer.state[step]["exp_avg"], momenta[owner])
    for name, layer in quantized_layers(model):
        zero = torch.round(zeros[name] / (255 / 31))
        assert torch.equal(layer.input_quantizer.zero_point, zero)
        key = f"{name}.input_quantizer.step_size"
        assert torch.equal(compression.average.tensors[key], averages[key] * (255 / 31))
        key = f"{name}.weight_step"
        assert torch.equal(compression.average.tensors[key], averages[key])


def test_weights_of_learned_steps_are_centered_at_each_number_of_levels():
    model, compression, optimizer = begun(plan("learned"))
    for epoch, (weights, _) in enumerate(EXPECTED):
        compression.begin_epoch(epoch, optimizer)
        for _, layer in quantized_layers(model):
            assert set(layer.weight_zero_point.tolist()) == {-(2.0 ** (weights - 1))}


def test_steps_start_as_those_of_their_own_bits(batches):
    own = {"weights": LEARNED, "activations": LEARNED}
    few = begun(recipe(prune=PRUNE, quantize=own))[0]
    many = begun(plan("learned", stages=[STAGES[0], {"epoch": 1, "weights": 4, "activations": 4}]))[
        0
    ]
    for model in (few, many):
        model(batches[0][0])
    for (_, one), (_, other) in zip(quantized_layers(few), quantized_layers(many), strict=True):
        assert one.bits.weight_bits == 4 and other.bits.weight_bits == 8
        assert torch.equal(other.weight_step, one.weight_step * (15 / 255))
    # The inputs of later layers are those that are rounded before.
    one, other = (model.first[0].input_quantizer for model in (few, many))
    assert torch.equal(other.step_size, one.step_size * (15 / 255))
    assert torch.equal(other.zero_point, one.zero_point * 17) and one.zero_point < 0


def test_what_a_step_learns_is_that_of_its_own_bits(batches):
    """With f the step over that of its own bits: its gradient and its update have one f each."""
    staged = begun(plan("learned"))[0].first[0]
    model = small()
    micronet.quantize_(model, micronet.WeightPrecision(8, step="learned"), None)
    plain = model.first[0]
    with torch.no_grad():
        plain.weight.copy_(staged.weight)
        plain.weight_step.copy_(staged.weight_step)
    for layer in (staged, plain):
        layer.quantized_weight().square().sum().backward()
    expected = plain.weight_step.grad.double() * (15 / 255) ** 2
    # Each gradient is rounded once after its sum, in the product with its scale, itself rounded.
    error = (staged.weight_step.grad.double() - expected).abs()
    assert bool((error <= 4 * 2.0**-24 * expected.abs()).all()) and bool(expected.all())


def test_a_step_before_its_first_batch_is_changed_too():
    model = small()
    micronet.quantize_(
        model,
        micronet.WeightPrecision(8, step="learned"),
        micronet.ActivationPrecision(8, step="learned"),
    )
    bits = {n: LayerBits(4, 4, 0.99, "learned", "learned") for n, _ in quantized_layers(model)}
    factors = change_bits_(model, bits)
    assert set(factors.values()) == {255 / 15} and len(factors) == 6
    model(torch.randn(4, 3, 9, 9)).sum().backward()
    assert all(layer.input_quantizer.is_ready() for _, layer in quantized_layers(model))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("stopped", [1, 3, 4])
def test_a_loop_goes_on_from_its_state_bit_for_bit(step, stopped, batches):
    made = plan(step, oscillations={"momentum": 0.1, "freeze": 0.05})
    model, compression, optimizer = begun(made)
    loaded = trained(model, compression, optimizer, batches, 6, stopped)
    other = small(1)
    again = micronet.compress(other, made)
    again.load_state_dict(loaded["compression"])
    other.load_state_dict(loaded["model"])
    later = optimizer_of(again)
    later.load_state_dict(loaded["optimizer"])
    assert bits_of(other) == {EXPECTED[stopped - 1]}
    for epoch in range(stopped, 6):
        epoch_of(other, again, later, batches, epoch)
    assert same(states(model, compression), states(other, again))
    assert same(compression.oscillations.state(), again.oscillations.state())


def test_what_is_known_of_oscillations_begins_anew_at_each_stage(batches):
    made = plan(oscillations={"momentum": 0.1, "freeze": 0.02})
    model, compression, optimizer = begun(made, lr=0.02)
    for epoch in range(6):
        compression.begin_epoch(epoch, optimizer)
        if EXPECTED[epoch] != EXPECTED[max(epoch - 1, 0)]:
            assert compression.oscillations.counts() == {"oscillating": 0, "frozen": 0}
        epoch_of(model, compression, optimizer, batches, epoch)
    assert compression.oscillations.counts()["frozen"] > 0


WRONG = {
    r"progressive\[0\]\.epoch 1 is not quantize\.start_epoch, 0": [{"epoch": 1, "weights": 8}],
    r"progressive\[1\]\.epoch 0 is not after": [STAGES[0], {**STAGES[1], "epoch": 0}],
    r"progressive\[1\] gives neither": [STAGES[0], {"epoch": 1}],
    r"progressive\[0\]\.weights 9 is not between 1 and 8": [{"epoch": 0, "weights": 9}],
    r"progressive\[1\]\.weights 8 is not fewer than 8": [STAGES[0], {"epoch": 1, "weights": 8}],
    r"progressive\[1\]\.weights 6 would be more": [
        {"epoch": 0, "activations": 8},
        {"epoch": 1, "weights": 6},
    ],
    r"progressive\[0\], the last one, leaves weights of layer 'first\.0' at 8 bits": STAGES[:1],
    r"progressive\[2\], the last one, leaves weights .* asks for 4": STAGES[:3],
    r"progressive\[0\]\.weights 4 changes no layer": [{"epoch": 0, "weights": 4, "activations": 8}],
    r"progressive\[2\]\.weights 3 changes no layer": [
        {"epoch": 0, "weights": 8, "activations": 8},
        {"epoch": 1, "weights": 4, "activations": 4},
        {"epoch": 2, "weights": 3},
    ],
    r"progressive\[1\] begins in epoch 9, but training ends after epoch 6": [
        STAGES[0],
        {"epoch": 8, "weights": 4, "activations": 4},
    ],
    "unknown key 'quantize.progressive\\[0\\].bits'": [{"epoch": 0, "bits": 4}],
}


@pytest.mark.parametrize("sentence", WRONG)
def test_mistakes_are_one_sentence(sentence):
    with pytest.raises(UserError, match=sentence):
        micronet.compress(small(), plan(stages=WRONG[sentence]))


def test_a_network_of_fewer_bits_is_not_given_more():
    model = small()
    micronet.quantize_(model, 4, 4)
    with pytest.raises(UserError, match="already quantized at other bits or steps"):
        micronet.compress(model, plan())
    model = small()
    micronet.quantize_(model, 8, 8)
    compression = micronet.compress(model, plan())
    for epoch in range(5):
        compression.begin_epoch(epoch)
    assert bits_of(model) == {(4, 4)}


def test_a_recipe_comes_back_from_its_text():
    made = plan()
    assert micronet.Recipe.from_dict(made.to_dict()) == made


def test_layers_of_one_weight_change_its_step_once():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    micronet.quantize_(model, micronet.WeightPrecision(8, step="learned"), None)
    # As a move to another device leaves them.
    model[2].weight_zero_point = model[2].weight_zero_point.clone()
    before = model[0].weight_step.detach().clone()
    bits = {name: LayerBits(4, None, weight_step="learned") for name in "02"}
    assert change_bits_(model, bits) == {"0.weight_step": 255 / 15}
    assert model[2].weight_step is model[0].weight_step
    assert torch.equal(model[0].weight_step.detach(), before * (255 / 15))
    assert torch.equal(model[0].quantized_weight(), model[2].quantized_weight())
    assert set(model[2].weight_zero_point.tolist()) == {-8.0}


def test_a_state_of_before_the_first_stage_is_not_of_a_quantized_network():
    stages = [{**stage, "epoch": stage["epoch"] + 1} for stage in STAGES]
    model, compression, _ = begun(plan(start_epoch=1, stages=stages))
    state = compression.state_dict()
    compression.begin_epoch(1)
    assert bits_of(model) == {(8, 8)} and state["bits"] == {}
    with pytest.raises(UserError, match="this is a state of another network"):
        compression.load_state_dict(state)


def test_a_plan_of_a_search_keeps_the_stages_of_the_schedule(tmp_path):
    path = tmp_path / "plan.yaml"
    few = {"weights": {"bits": 4}, "activations": {"bits": 4}}
    path.write_text(yaml.safe_dump({"arch": "resnet20", "quantize": few}))
    section = {"weights": {"bits": 6}, "activations": {"bits": 6}, "oscillations": {"freeze": 0.1}}
    schedule = recipe(train={"epochs": 6}, quantize={**section, "progressive": STAGES})
    made = applied(str(path), schedule).quantize
    assert made.weights.bits == 4 and made.oscillations.freeze == 0.1 and len(made.progressive) == 4
    stages = [{"epoch": 2, "weights": 8}]
    later = recipe(quantize={**section, "start_epoch": 2, "progressive": stages})
    with pytest.raises(UserError, match=r"epoch 2 is not quantize\.start_epoch, 0"):
        applied(str(path), later)
