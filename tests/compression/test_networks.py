"""Networks of every kind are compressed, alone and again."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import micronet
from compressed import BOTH, PRUNE, epoch_of, recipe, small
from micronet.quantization.evaluation import exact_functions
from micronet.quantization.layers import quantized_layers
from micronet.utils.errors import UserError


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
        # Those that a quantized network keeps for its evaluation, and none that watches.
        own = [exact_functions._KEY]
        assert list(model._forward_hooks) == list(model._forward_pre_hooks) == own
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
