"""Loops of somebody's own whose first layer reads grey values: what they need, keep and refuse."""

import copy
import json

import pytest
import torch
from torch import nn

import micronet
from compressed import Small, epoch_of, same, small, states
from micronet.compression.oscillations.weight_grid import beyond_levels, weight_grid
from micronet.data.preprocessing import CIFAR_STATISTICS, IMAGENET_STATISTICS
from micronet.quantization.evaluation import exact_functions
from micronet.utils.errors import UserError

MEAN, STD = IMAGENET_STATISTICS
IMAGE = {"layers": ["first.0"], "weights": {"bits": 8}, "activations": {"step": "image"}}
FOUR = {"weights": {"bits": 4}, "activations": {"bits": 4}}


def recipe(override=IMAGE, train=None, **options):
    sections = {"quantize": {**FOUR, "overrides": [override], **options}}
    return micronet.Recipe.from_dict(sections | ({"train": train} if train else {}))


@pytest.fixture
def images():
    """Batches of photos: grey values, normalized as torchvision does."""
    random = torch.Generator().manual_seed(0)
    mean, std = (torch.tensor(row).view(3, 1, 1) for row in (MEAN, STD))
    return [
        (
            (torch.randint(256, (6, 3, 9, 9), generator=random) / 255 - mean) / std,
            torch.randint(4, (6,), generator=random),
        )
        for _ in range(4)
    ]


def begun(model=None, made=None, **images):
    compression = micronet.compress(
        model or small(), made or recipe(), **(images or {"mean": MEAN, "std": STD})
    )
    optimizer = torch.optim.AdamW(compression.parameter_groups(), lr=0.01)
    return compression, optimizer


def test_a_loop_trains_evaluates_stops_and_goes_on(images):
    compression, optimizer = begun(made=recipe(train={"model_ema": 0.9}))
    model = compression.model
    epoch_of(model, compression, optimizer, images, 0)
    kept = copy.deepcopy([part.state_dict() for part in (model, compression, optimizer)])
    epoch_of(model, compression, optimizer, images, 1)
    other, _ = begun(small(1), recipe(train={"model_ema": 0.9}))
    other.load_state_dict(kept[1])
    other.model.load_state_dict(kept[0])
    again = torch.optim.AdamW(other.parameter_groups(), lr=0.01)
    again.load_state_dict(kept[2])
    epoch_of(other.model, other, again, images, 1)
    assert same(states(model, compression), states(other.model, other))
    for network in (model, other.model):
        network.eval()
    assert torch.equal(model(images[0][0]), other.model(images[0][0]))
    row = compression.report().layers[0]
    assert (row.input_step, row.input_levels, row.arithmetic) == ("image", 256, "integer")
    text = str(compression.report())
    assert "images are read as grey values, normalized in the layer: first.0" in text
    assert compression.report().as_csv().splitlines()[1].endswith("image")


def test_a_folder_brings_it_back_with_its_normalization(images, tmp_path):
    compression, optimizer = begun()
    epoch_of(compression.model, compression, optimizer, images, 0)
    micronet.save(compression, tmp_path / "net")
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    assert config["normalization"] == {"mean": list(MEAN), "std": list(STD)}
    assert config["precision"]["first.0"]["image_std"] == list(STD)
    assert config["precision"]["second.0"]["image_std"] is None
    loaded = micronet.load(tmp_path / "net", model=Small())
    assert torch.equal(loaded.model(images[0][0]), compression.model.eval()(images[0][0]))
    # It goes on without being told again, and not on other images.
    going_on = micronet.compress(loaded.model, recipe())
    assert going_on.bits == compression.bits
    with pytest.raises(UserError, match="already quantized at other bits or steps"):
        micronet.compress(loaded.model, recipe(), mean=[0.5] * 3, std=STD)
    with pytest.raises(UserError, match=r"reads images of mean .* but these are normalized by"):
        micronet.save(compression, tmp_path / "other", mean=[0.5] * 3, std=[0.5] * 3)
    micronet.save(compression, tmp_path / "told", mean=MEAN, std=torch.tensor(STD).double().numpy())


def test_calibration_leaves_it_as_it_is(images):
    model = small()
    overrides = [
        micronet.QuantizeOverride(
            ("first.0",), activations=micronet.ActivationPrecision(step="image")
        )
    ]
    micronet.quantize_(model, 8, 4, overrides=overrides, mean=MEAN, std=STD)
    micronet.calibrate_(model, [images[0][0]], method="mse")
    assert model.eval()(images[1][0]).isfinite().all()
    only = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    floats = micronet.QuantizeOverride(
        ("0",), activations=micronet.ActivationPrecision(step="image")
    )
    micronet.quantize_(only, 8, None, overrides=[floats], mean=MEAN, std=STD)
    micronet.calibrate_(only, [images[0][0]])
    assert only.eval()(images[1][0]).isfinite().all()


@pytest.mark.parametrize("step", ["range", "learned"])
def test_frozen_weights_keep_their_integers_whatever_the_deviations(images, step):
    made = recipe(
        {**IMAGE, "weights": {"bits": 4, "step": step}},
        train={"epochs": 4},
        oscillations={"momentum": 0.3, "freeze": 0.2, "dampen": 0.01},
    )
    compression, _ = begun(made=made)
    optimizer = torch.optim.SGD(compression.parameter_groups(), lr=1e-3)
    model = compression.model
    layer = None
    for epoch in range(3):
        compression.begin_epoch(epoch, optimizer)
        model.train()
        layer = model.first[0]
        for pixels, labels in images * 3:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(pixels), labels)
            (loss + compression.dampening_loss()).backward()
            optimizer.step()
            # Some weights are made to turn.
            with torch.no_grad():
                size = 1 / layer.weight_scale()[:, None, None]
                layer.weight[:, 0] += size * (-1.0) ** compression.num_updates
            compression.step()
    state = compression.oscillations.state()
    frozen = state["frozen/first.0"].flatten()
    grid = weight_grid(layer)
    # A range may have left an integer beyond its ends.
    first, last = grid.first[:, None], grid.last[:, None]
    held = state["integer/first.0"].flatten(1).float().clamp(first, last)
    assert frozen.any() and not frozen.all()
    assert torch.equal(grid.integers.flatten()[frozen], held.flatten()[frozen])
    scaled = layer.scaled_weight().detach().flatten(1)
    inside = (scaled >= grid.low[:, None]) & (scaled <= grid.high[:, None])
    assert inside.flatten()[frozen].all()
    # The loss is of what separates them in the unit in which they are rounded.
    left = beyond_levels(layer).detach()
    assert torch.equal(left, layer.scaled_weight().detach() - layer.quantized_weight().detach())


# What is refused ---------------------------------------------------------------------------------


def test_what_is_not_known_of_the_images_is_asked_for():
    with pytest.raises(UserError, match=r"layer 'first\.0' is to read grey values, but"):
        micronet.compress(small(), recipe())
    with pytest.raises(UserError, match="compress takes mean and std together"):
        micronet.compress(small(), recipe(), mean=MEAN)
    with pytest.raises(UserError, match="a number for each channel"):
        micronet.compress(small(), recipe(), mean=0.5, std=0.5)
    with pytest.raises(UserError, match="has 3 input channels, but images have 1"):
        micronet.compress(small(), recipe(), mean=[0.5], std=[0.5])
    with pytest.raises(UserError, match="cannot read grey values: a mean must be finite"):
        micronet.compress(small(), recipe(), mean=MEAN, std=[0.0] * 3)


@pytest.mark.parametrize(
    "layer,problem",
    [
        ("second.0", "layer 'second.0' has 8 input channels, but images have 3"),
        ("fc", r"layer 'fc' \(Linear\) is no convolution of images"),
    ],
)
def test_a_layer_that_cannot_read_the_image_is_refused(layer, problem):
    with pytest.raises(UserError, match=problem):
        micronet.compress(small(), recipe({**IMAGE, "layers": [layer]}), mean=MEAN, std=STD)


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 1)
        self.inner = nn.Conv2d(3, 4, 3)

    def forward(self, x, **options):
        return self.inner(self.mix(x)).mean((2, 3))


def test_a_layer_in_the_middle_is_refused_by_the_first_call_of_training(images):
    compression, _ = begun(Inner(), recipe({**IMAGE, "layers": ["inner"]}))
    compression.begin_epoch()
    model = compression.model.train()
    with torch.no_grad():
        model(images[0][0])  # nothing is known of it here
    copied = copy.deepcopy(model)
    with pytest.raises(UserError, match="layer 'inner' reads what other layers compute"):
        model(images[0][0])
    # Of its own a quantized network has one.
    own = [exact_functions._KEY]
    assert list(model._forward_pre_hooks) == own and not model.inner._forward_pre_hooks
    copied(x=images[0][0], other=1)
    compression, _ = begun(Inner(), recipe({**IMAGE, "layers": ["mix"]}))
    compression.begin_epoch()
    compression.model.train()(images[0][0].clone().requires_grad_())  # an attack on the image
    compression.model(x=images[0][0])
    assert list(compression.model._forward_pre_hooks) == own


@pytest.mark.parametrize(
    "section,key,problem",
    [
        ({"activations": {"step": "image"}}, "activations.step", "say it in quantize.overrides"),
        ({"weights": {"bits": 8, "step": "image"}}, "weights.step", "is not one of range, learned"),
        ({"over": {"activations": {"step": "image", "bits": 4}}}, "activations.bits", "256 levels"),
        ({"over": {"activations": {"step": "image", "levels": 9}}}, "activations.levels", "256"),
        (
            {"over": {"activations": {"step": "image", "decay": 0.9}}},
            "activations.decay",
            "nothing",
        ),
        (
            {"over": {"activations": {"step": "image", "start": "mse"}}},
            "activations.start",
            "nothing",
        ),
        (
            {"over": {"activations": {"step": "image", "offset": True}}},
            "activations.offset",
            "noth",
        ),
        (
            {"over": {"weights": None, "activations": {"step": "image"}}},
            "activations.step",
            "needs weights that are quantized",
        ),
        ({"over": {"activations": {"step": "imag"}}}, "activations.step", "did you mean 'image'"),
    ],
)
def test_what_else_a_recipe_says_of_it_is_refused(section, key, problem):
    over = section.pop("over", {})
    override = {"layers": ["first.0"], **over}
    document = {"quantize": {**FOUR, "overrides": [override], **section}}
    with pytest.raises(UserError, match=problem) as found:
        micronet.Recipe.from_dict(document)
    assert key in str(found.value)


def test_a_recipe_may_say_the_eight_bits(images):
    for precision in ({"step": "image", "bits": 8}, {"step": "image", "levels": 256}):
        made = recipe({**IMAGE, "activations": precision})
        assert micronet.Recipe.from_dict(made.to_dict()).quantize == made.quantize
        compression, _ = begun(made=made)
        assert compression.plan.bits["first.0"].activation_levels == 256


def test_stages_leave_the_image_its_levels(images):
    made = recipe(
        train={"epochs": 3},
        progressive=[
            {"epoch": 0, "activations": 6, "weights": 8},
            {"epoch": 1, "activations": 4},
            {"epoch": 2, "weights": 4},
        ],
    )
    compression, optimizer = begun(made=made)
    for epoch in range(3):
        epoch_of(compression.model, compression, optimizer, images, epoch)
        assert compression.bits["first.0"].activation_levels == 256
    assert compression.bits["second.0"].activation_levels == 16


def test_images_of_one_channel(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    made = recipe({**IMAGE, "layers": ["0"]})
    compression = micronet.compress(model, made, mean=[0.1307], std=[0.3081])
    compression.begin_epoch()
    x = (torch.randint(256, (4, 1, 9, 9)) / 255 - 0.1307) / 0.3081
    model.train()(x).sum().backward()
    micronet.save(compression, tmp_path / "net")
    fresh = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    loaded = micronet.load(tmp_path / "net", model=fresh)
    assert torch.equal(loaded.model(x), model.eval()(x))


def test_two_normalizations_of_a_network_are_refused_by_name():
    compression, _ = begun()
    other, _ = begun(small(), recipe(), mean=CIFAR_STATISTICS[0], std=CIFAR_STATISTICS[1])
    other.begin_epoch()
    with pytest.raises(UserError, match="quantized at other bits or steps"):
        compression.load_state_dict(other.state_dict())
