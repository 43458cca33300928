"""What a loop of somebody's own can ask of a compression, and what it is refused."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import micronet
from micronet.models import architectures
from micronet.quantization import quantize
from micronet.quantization.layers import quantized_layers
from micronet.utils.errors import UserError
from two_processes import spawn_two

LEARNED = {"bits": 4, "step": "learned"}
PRUNE = {"end_epoch": 3, "groups": [{"layers": ["*"], "final_sparsity": 0.5}]}
BOTH = {"weights": {"bits": 4}, "activations": {"bits": 4}}


def recipe(**sections):
    return micronet.Recipe.from_dict(sections)


class Small(nn.Module):
    """Two blocks and a classifier."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.second(self.first(x)).mean((2, 3)))


@pytest.fixture
def batches():
    random = torch.Generator().manual_seed(0)
    return [
        (torch.randn(6, 3, 9, 9, generator=random), torch.randint(4, (6,), generator=random))
        for _ in range(4)
    ]


def small(seed=0):
    torch.manual_seed(seed)
    return Small()


def epoch_of(model, compression, optimizer, batches, number):
    compression.begin_epoch(number, optimizer)
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        compression.step()


def states(model, compression):
    tensors = {**model.state_dict(), **{f"mask/{n}": m for n, m in compression.masks.bits.items()}}
    return {n: t.clone() for n, t in {**tensors, **compression.average.tensors}.items()}


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[name]) for name, tensor in first.items()
    )


# Optimizers and loops ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["SGD", "AdamW", "Adam", "RMSprop", "NAdam", "Adagrad", "Adadelta"]
)
@pytest.mark.parametrize("step", ["range", "learned"])
def test_any_optimizer_keeps_masks_and_trains_every_step(kind, step, batches):
    model = small()
    precision = {"bits": 4, "step": step}
    plan = recipe(
        prune=PRUNE, quantize={"start_epoch": 1, "weights": precision, "activations": precision}
    )
    compression = micronet.compress(model, plan)
    optimizer = getattr(torch.optim, kind)(compression.parameter_groups(0.01), lr=0.001)
    for epoch in range(2):
        epoch_of(model, compression, optimizer, batches, epoch)
    began = {name: p.detach().clone() for name, p in model.named_parameters()}
    epoch_of(model, compression, optimizer, batches, 2)
    assert all(not torch.equal(p, began[name]) for name, p in model.named_parameters())
    trained = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(trained) == sorted(id(p) for p in model.parameters())
    for zeros in compression.report().zeros.values():
        assert zeros.zeros == zeros.total // 2
    for name, bits in compression.masks.bits.items():
        assert compression.masks.pruned(name, bits.numel() * 8) >= bits.numel() * 4


@pytest.mark.parametrize("start", [0, 1])
def test_an_optimizer_of_named_parameters_keeps_their_names(start, batches):
    model = small()
    learned = {"start_epoch": start, "weights": LEARNED, "activations": LEARNED}
    compression = micronet.compress(model, recipe(quantize=learned))
    compression.begin_epoch(0)
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=0.01)
    epoch_of(model, compression, optimizer, batches, 0)
    epoch_of(model, compression, optimizer, batches, 1)
    named = dict(model.named_parameters())
    groups = optimizer.param_groups
    pairs = [p for g in groups for p in zip(g["param_names"], g["params"], strict=True)]
    assert len(groups) == 2 and len(pairs) == len(named)
    assert all(parameter is named[name] for name, parameter in pairs)


def test_groups_keep_decay_from_vectors_and_steps():
    model = small()
    compression = micronet.compress(
        model, recipe(quantize={"weights": LEARNED, "activations": LEARNED})
    )
    compression.begin_epoch(0)
    weights, vectors, steps = compression.parameter_groups(0.1)
    assert weights["weight_decay"] == 0.1 and all(p.dim() > 1 for p in weights["params"])
    assert vectors["weight_decay"] == steps["weight_decay"] == 0
    # Two of normalization for each of two layers, and a bias.
    assert len(weights["params"]) == 3 and len(vectors["params"]) == 5
    assert {id(p) for p in steps["params"]} == {
        id(p) for p in quantize.learned_steps(model).values()
    }
    (everything, again) = compression.parameter_groups(0.1, decay_vectors=True)
    assert len(everything["params"]) == 8 and len(again["params"]) == len(steps["params"])


def test_a_recipe_says_what_decays():
    for decays in (False, True):
        train = {"weight_decay": 0.2, "decay_vectors": decays}
        compression = micronet.compress(
            small(), recipe(train=train, prune=PRUNE | {"end_epoch": 2})
        )
        groups = compression.parameter_groups()
        assert [group["weight_decay"] for group in groups] == ([0.2] if decays else [0.2, 0.0])


def test_accumulated_gradients_and_a_scaler(batches):
    model = small()
    compression = micronet.compress(model, recipe(prune=PRUNE, quantize=BOTH))
    optimizer = torch.optim.AdamW(compression.parameter_groups(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu")
    for epoch in range(3):
        compression.begin_epoch(epoch, optimizer)
        for images, labels in batches:
            for part, targets in zip(images.split(2), labels.split(2), strict=True):
                with torch.autocast("cpu", torch.bfloat16):
                    loss = F.cross_entropy(model(part).float(), targets) / 3
                scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            compression.step()
    assert compression.num_updates == 12 and compression.report().sparsity == 0.5
    assert all(p.isfinite().all() for p in model.parameters())


def test_progress_counts_epochs_in_steps(batches):
    model = small()
    compression = micronet.compress(model, recipe(prune=PRUNE), steps_per_epoch=4)
    optimizer = torch.optim.SGD(compression.parameter_groups(), lr=0.01)
    assert compression.progress == 0
    compression.begin_epoch()
    found = []
    for _ in range(4):
        compression.step()
        found.append(compression.progress)
    compression.begin_epoch(optimizer=optimizer)
    assert found == [0.25, 0.5, 0.75, 1.0] and compression.progress == 1.0


def test_the_average_is_lent_to_the_network(batches):
    model = small()
    train = {"model_ema": 0.9, "epochs": 3}
    compression = micronet.compress(model, recipe(train=train, prune=PRUNE, quantize=BOTH))
    optimizer = torch.optim.SGD(compression.parameter_groups(), lr=0.1)
    for epoch in range(3):
        epoch_of(model, compression, optimizer, batches, epoch)
    own = model.fc.weight.detach().clone()
    with compression.averaged() as lent:
        assert lent is model and torch.equal(
            model.fc.weight, compression.average.tensors["fc.weight"]
        )
        assert not torch.equal(model.fc.weight, own) and int((model.fc.weight == 0).sum()) == 16
    assert torch.equal(model.fc.weight, own)


def test_an_average_that_steps_have_not_entered_yet(batches):
    learned = {"start_epoch": 1, "weights": LEARNED, "activations": LEARNED}
    plan = recipe(train={"epochs": 3, "lr": 0.1, "model_ema": 0.5}, quantize=learned)
    model, again = small(), small(1)
    compression, resumed = micronet.compress(model, plan), micronet.compress(again, plan)
    optimizer = torch.optim.SGD(compression.parameter_groups(), lr=0.01)
    epoch_of(model, compression, optimizer, batches, 0)
    compression.begin_epoch(1, optimizer)
    with compression.averaged():
        assert torch.equal(model.fc.weight, compression.average.tensors["fc.weight"])
    resumed.load_state_dict(compression.state_dict())
    again.load_state_dict(model.state_dict())
    other = torch.optim.SGD(resumed.parameter_groups(), lr=0.01)
    epoch_of(model, compression, optimizer, batches, 1)
    epoch_of(again, resumed, other, batches, 1)
    assert same(compression.average.tensors, resumed.average.tensors)


def test_the_loss_is_distilled_from_its_epoch_on():
    plan = recipe(
        train={"label_smoothing": 0.1},
        distill={"start_epoch": 1, "temperature": 3.0, "student_weight": 0.4},
        prune={"method": "one-shot", "groups": PRUNE["groups"]},
    )
    compression = micronet.compress(small(), plan)
    student, teacher, labels = torch.randn(5, 4), torch.randn(5, 4), torch.arange(5) % 4
    compression.begin_epoch()
    plain = F.cross_entropy(student, labels, label_smoothing=0.1)
    assert torch.equal(compression.distillation_loss(student, teacher, labels), plain)
    compression.begin_epoch()
    soft = F.kl_div(
        (student / 3).log_softmax(1),
        (teacher / 3).log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )
    distilled = compression.distillation_loss(student, teacher, labels)
    assert float(distilled) == pytest.approx(float(0.4 * plain + 0.6 * 9 * soft))


# State -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["range", "learned"])
@pytest.mark.parametrize("stopped", [1, 2])
def test_a_loop_goes_on_from_its_state_bit_for_bit(step, stopped, batches):
    precision = {"bits": 4, "step": step}
    plan = recipe(
        train={"model_ema": 0.9, "epochs": 4},
        prune=PRUNE,
        quantize={"start_epoch": 1, "weights": precision, "activations": precision},
    )

    def begin(seed):
        model = small(seed)
        return model, micronet.compress(model, plan)

    def optimizer_of(compression):
        return torch.optim.AdamW(compression.parameter_groups(), lr=0.01)

    model, compression = begin(0)
    optimizer = optimizer_of(compression)
    for epoch in range(4):
        if epoch == stopped:
            kept = io.BytesIO()
            parts = {"model": model, "compression": compression, "optimizer": optimizer}
            torch.save({name: part.state_dict() for name, part in parts.items()}, kept)
        epoch_of(model, compression, optimizer, batches, epoch)
    kept.seek(0)
    loaded = torch.load(kept, weights_only=True)
    other, again = begin(1)
    again.load_state_dict(loaded["compression"])
    other.load_state_dict(loaded["model"])
    later = optimizer_of(again)
    later.load_state_dict(loaded["optimizer"])
    for epoch in range(stopped, 4):
        epoch_of(other, again, later, batches, epoch)
    assert same(states(model, compression), states(other, again))
    assert again.num_updates == compression.num_updates == 16


def test_a_foreign_state_is_refused():
    compression = micronet.compress(small(), recipe(prune=PRUNE, quantize=BOTH))
    compression.begin_epoch()
    state = compression.state_dict()
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(4))
    other(torch.zeros(1, 3, 5, 5))
    with pytest.raises(UserError, match=r"a state of another network, with a layer 'first\.0'"):
        micronet.compress(other, recipe(prune=PRUNE)).load_state_dict(state)
    for wrong in (
        {},
        {**state, "epoch": "x"},
        {**state, "masks": 3},
        {**state, "bits": {"fc": {}}},
    ):
        with pytest.raises(UserError, match="this is no state of a compression"):
            micronet.compress(small(), recipe(prune=PRUNE)).load_state_dict(wrong)
    eight = {"weights": {"bits": 8}, "activations": {"bits": 8}}
    with pytest.raises(UserError, match="other bits or steps"):
        micronet.compress(small(), recipe(quantize=eight)).load_state_dict(state)
    with pytest.raises(UserError, match=r"mask 'first\.0' is no tensor, but list"):
        masks = {"masks": {"first.0": [1]}}
        micronet.compress(small(), recipe(prune=PRUNE)).load_state_dict({**state, **masks})


def test_a_state_does_not_say_what_layers_are_not():
    state = micronet.compress(small(), recipe(prune=PRUNE, quantize=BOTH)).state_dict()
    for bits in ({}, quantize.bits_to_dict(micronet.quantize_(small(), 8, 8).bits)):
        model = small()
        micronet.quantize_(model, 4, 4)
        compression = micronet.compress(model, recipe(prune=PRUNE))
        with pytest.raises(UserError, match="the network is already quantized at other bits"):
            compression.load_state_dict({**state, "bits": bits})
        assert compression.bits["fc"].weight_bits == model.fc.bits.weight_bits == 4


# What is refused, since it would go wrong without a word -----------------------------------------


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


# Networks of every kind --------------------------------------------------------------------------


class Shares(nn.Module):
    """Calls a function with the weight of a layer that it has."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)

    def forward(self, x):
        return F.conv2d(self.conv(x), self.conv.weight)


def test_weights_that_a_function_takes_are_found_at_the_first_call():
    model = Shares()
    compression = micronet.compress(model, recipe(quantize=BOTH))
    compression.begin_epoch()
    copied = copy.deepcopy(model)
    with pytest.raises(UserError, match=r"layer 'conv' cannot be quantized: the network calls"):
        model(torch.randn(1, 3, 4, 4))
    model(torch.randn(1, 3, 4, 4)), copied(torch.randn(1, 3, 4, 4))
    for inputs in ((torch.zeros(1, 3, 4, 4),), {"x": torch.zeros(1, 3, 4, 4)}):
        with pytest.raises(UserError, match=r"layer 'conv' cannot be quantized"):
            micronet.compress(Shares(), recipe(quantize=BOTH), example_inputs=inputs)


def test_a_watched_call_computes_what_any_call_does(batches):
    found = []
    for example in (None, (torch.zeros(1, 3, 9, 9),)):
        model = small()
        compression = micronet.compress(model, recipe(quantize=BOTH), example_inputs=example)
        compression.begin_epoch()
        loss = model(batches[0][0]).square().sum()
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
        assert not model._forward_hooks and not model._forward_pre_hooks
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


class Tasks(nn.Module):
    """Takes a list of images and a dict; returns a dict."""

    def __init__(self):
        super().__init__()
        self.body, self.scale = nn.Conv2d(3, 8, 3), nn.Linear(2, 8)

    def forward(self, images, extra):
        y = torch.cat([self.body(image[None]).mean((2, 3)) for image in images])
        return {"features": y * self.scale(extra["size"]), "count": len(images)}


def test_lists_and_dicts_go_through():
    model = Tasks()
    compression = micronet.compress(model, recipe(prune=PRUNE, quantize=BOTH))
    optimizer = torch.optim.SGD(compression.parameter_groups(), lr=0.01)
    for epoch in range(3):
        compression.begin_epoch(epoch, optimizer)
        images = [torch.randn(3, 5, 7), torch.randn(3, 9, 4)]
        output = model(images, extra={"size": torch.rand(2, 2)})
        output["features"].square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        compression.step()
    assert output["count"] == 2 and compression.report().sparsity == 0.5
    assert {row.arithmetic for row in compression.report().layers} == {"integer"}


def test_a_network_is_compressed_again(batches):
    model = small()
    only = {"layers": ["fc", "first*"], "weights": None, "activations": None}
    first = micronet.compress(model, recipe(prune=PRUNE, quantize={**BOTH, "overrides": [only]}))
    optimizer = torch.optim.SGD(first.parameter_groups(), lr=0.01)
    for epoch in range(3):
        epoch_of(model, first, optimizer, batches, epoch)
    assert [name for name, _ in quantized_layers(model)] == ["second.0"]
    range_before = model.second[0].input_quantizer.range.clone()
    more = {"end_epoch": 2, "groups": [{"layers": ["second*"], "final_sparsity": 0.75}]}
    second = micronet.compress(model, recipe(prune=more, quantize=BOTH))
    second.begin_epoch()
    assert torch.equal(model.second[0].input_quantizer.range, range_before)
    assert len(list(quantized_layers(model))) == 3
    second.begin_epoch()
    epoch_of(model, second, torch.optim.SGD(second.parameter_groups(), lr=0.01), batches, 2)
    shares = {n: z.zeros / z.total for n, z in second.report().zeros.items()}
    assert shares == {"first.0": 0.5, "second.0": 0.75, "fc": 0.5}
    with pytest.raises(UserError, match="already quantized at other bits or steps, as in layer"):
        micronet.compress(model, recipe(quantize={"weights": {"bits": 8}, "activations": None}))


def test_what_is_pruned_stays_pruned_in_copies_and_in_what_it_is_a_part_of(batches):
    model = small()
    micronet.prune_(model, 0.5)
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    for start in (
        copy.deepcopy(model),
        torch.load(stored, weights_only=False),
        nn.Sequential(copy.deepcopy(model)),
    ):
        compression = micronet.quantize_(start, activations=None)
        optimizer = torch.optim.SGD(compression.parameter_groups(), lr=0.1)
        epoch_of(start, compression, optimizer, batches, 0)
        assert compression.report().sparsity == 0.5 and len(compression.masks.bits) == 3


def test_a_part_that_was_pruned_more_holds_for_the_whole():
    whole = nn.Sequential(nn.Sequential(nn.Linear(8, 8)), nn.Linear(8, 8))
    whole[1].weight = whole[0][0].weight
    micronet.prune_(whole, 0.25)
    micronet.prune_(whole[0], 0.75)
    assert micronet.compress(whole, recipe(prune=PRUNE)).masks.pruned("0.0", 64) == 48


def test_zeros_of_a_weight_that_is_computed_since_are_not_lost_in_silence():
    model = small()
    compression = micronet.prune_(model, 0.5)
    nn.utils.parametrizations.weight_norm(model.second[0])
    with pytest.raises(UserError, match=r"layer 'second\.0' was pruned, but since then its weight"):
        compression.step()


def test_a_new_head_is_not_pruned_as_the_old_one_was():
    model = small()
    micronet.prune_(model, 0.5)
    for classes in (4, 7):
        model.fc = nn.Linear(8, classes)
        compression = micronet.quantize_(model)
        assert set(compression.masks.bits) == {"first.0", "second.0"}
        assert not model.fc.mask.numel() and bool(model.fc.weight.all())
    model.second[0].weight = nn.Parameter(torch.randn(9, 8, 3, 3))
    with pytest.raises(UserError, match=r"mask 'second\.0' has 72 bytes for 648 weights"):
        micronet.quantize_(model)


def test_masks_follow_a_network_to_another_type_of_memory():
    """A device is stood in for by the one that holds no values."""
    model = small()
    compression = micronet.prune_(model, 0.5)
    model.to("meta")
    compression.step()


def test_tied_modules_share_a_mask_and_train(batches):
    model = small()
    model.second[0].weight = nn.Parameter(torch.randn(8, 8, 3, 3))
    model.third = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), nn.ReLU())
    model.third[0].weight = model.second[0].weight
    model.forward = lambda x: model.fc(model.third(model.second(model.first(x))).mean((2, 3)))
    compression = micronet.compress(model, recipe(prune=PRUNE, quantize=BOTH))
    optimizer = torch.optim.AdamW(compression.parameter_groups(), lr=0.01)
    for epoch in range(3):
        epoch_of(model, compression, optimizer, batches, epoch)
    assert set(compression.masks.bits) == {"first.0", "second.0", "fc"}
    assert model.third[0].weight is model.second[0].weight
    assert torch.equal(model.third[0].quantized_weight(), model.second[0].quantized_weight())


def test_a_root_that_is_a_layer_is_compressed():
    model = nn.Linear(8, 4)
    micronet.prune_(model, 0.5)
    compression = micronet.quantize_(model)
    assert compression.model is model and int((model.weight == 0).sum()) == 16
    model(torch.randn(3, 8)).sum().backward()
    assert int((model.weight.grad == 0).sum()) >= 16


# One thing at once -------------------------------------------------------------------------------


def test_pruning_at_once_holds_while_training(batches):
    model = small()
    compression = micronet.prune_(model, 0.7, layers=("first*", "second*"))
    optimizer = torch.optim.AdamW(compression.parameter_groups(), lr=0.01)
    epoch_of(model, compression, optimizer, batches, 1)
    shares = {n: z.zeros / z.total for n, z in compression.report().zeros.items()}
    assert set(shares) == {"first.0", "second.0"}
    assert all(share == pytest.approx(0.7, abs=0.005) for share in shares.values())
    with pytest.raises(UserError, match=r"prune\.groups\[0\]\.layers"):
        micronet.prune_(small(), 0.5, layers=("third",))
    with pytest.raises(UserError, match="sparsity"):
        micronet.prune_(small(), 1.5)


def test_quantizing_at_once_leaves_what_is_named_in_float():
    model = small()
    report = micronet.quantize_(model, 2.4, 8, floats=("first*",)).report()
    found = {row.layer: (row.weight_levels, row.input_levels) for row in report.layers}
    assert found == {"first.0": (None, None), "second.0": (5, 256), "fc": (5, 256)}
    assert "first.0" in str(report) and "second.0" in report.as_csv()
    assert micronet.quantize_(small(), None, 4).report().layers[0].weight_levels is None


def test_a_recipe_goes_to_text_and_back(tmp_path):
    made = recipe(prune=PRUNE, quantize=BOTH, train={"optimizer": "adamw", "betas": [0.8, 0.9]})
    (tmp_path / "r.yaml").write_text(made.to_yaml())
    loaded = micronet.Recipe.load(tmp_path / "r.yaml")
    assert loaded.to_dict() == made.to_dict() and loaded.train == made.train
    built = micronet.Recipe(
        prune=micronet.PruneSection((micronet.PruneGroup(("*",), final_sparsity=0.5),), end_epoch=3)
    )
    assert built.prune == made.prune
    with pytest.raises(UserError, match=r"prune.end_epoch"):
        micronet.compress(small(), micronet.Recipe(prune=micronet.PruneSection(built.prune.groups)))
    with pytest.raises(UserError, match=r"<recipe>: unknown key 'prun'; did you mean 'prune'"):
        recipe(prun={})


# Several processes -------------------------------------------------------------------------------


def train_wrapped(rank, port, start, wrap_first, answers):
    """One of two processes whose network DDP wraps before or after its layers are quantized."""
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    plan = recipe(quantize={"start_epoch": start, "weights": LEARNED, "activations": LEARNED})
    model = small()
    compression = micronet.compress(model, plan)
    random = torch.Generator().manual_seed(rank)
    wrapped = nn.parallel.DistributedDataParallel(model)
    if start == 0:
        # So that the optimizer gets all steps when it is made.
        compression.begin_epoch(0)
    optimizer = torch.optim.SGD(compression.parameter_groups(), lr=0.05)
    for epoch in range(3):
        compression.begin_epoch(epoch, optimizer)
        if not wrap_first:
            wrapped = nn.parallel.DistributedDataParallel(model)
        for _ in range(3):
            optimizer.zero_grad()
            wrapped(torch.randn(4, 3, 9, 9, generator=random)).square().mean().backward()
            optimizer.step()
            compression.step()
    steps = quantize.learned_steps(model).values()
    weights = [*model.parameters(), *steps]
    answers[rank] = [tensor.detach().clone() for tensor in weights]
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("start,wrap_first", [(1, True), (1, False), (0, True)])
def test_processes_agree_on_weights_and_late_steps(start, wrap_first):
    one, two = spawn_two(train_wrapped, start, wrap_first)
    assert len(one) > 10 and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_every_layer_is_reported_before_anything_has_begun():
    model = micronet.create_model("resnet20", 10)
    compression = micronet.compress(model, recipe(quantize={"start_epoch": 2, **BOTH}))
    rows = compression.report().layers
    assert [row.layer for row in rows] == list(architectures.layers(model))
    assert (
        str(micronet.compress(small(), recipe(distill={})).report())
        == "nothing is pruned or quantized"
    )


def test_one_schedule_may_stand_alone_and_what_is_no_optimizer_is_refused():
    model = small()
    plan = recipe(quantize={"weights": LEARNED, "activations": LEARNED})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    with pytest.raises(UserError, match="this is no optimizer of torch: 'sgd'"):
        micronet.compress(small(), plan).begin_epoch(0, "sgd")
    micronet.compress(model, plan).begin_epoch(0, optimizer, schedule)
    optimizer.step()
    schedule.step()
    rates = [group["lr"] for group in optimizer.param_groups]
    assert len(rates) == 2 and rates[0] == rates[1] < 0.1
