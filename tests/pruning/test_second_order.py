"""Masks by what the loss would lose: ranked as a plain loop ranks, and from every gradient."""

import signal

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

import micronet
import micronet_kernels as kernels
from compressed import epoch_of, recipe, same, small, states, trained
from micronet.models import architectures
from micronet.pruning import prune
from micronet.pruning.curvature import DECAY, Curvature
from micronet.recipe.schema import PruneGroup
from micronet.reporting import facts as report_facts
from micronet.reporting.page import page
from micronet.runs import checkpoint
from micronet.train import main
from micronet.utils.errors import UserError
from shared_runs import SMALL

STRUCTURES = ["element", "filter", "channel", "4x1", "1x4", "2:4"]


def section(scope="layer", **group):
    group = {"layers": ["second.*", "fc"], "criterion": "second-order", "scope": scope, **group}
    if ":" not in group.get("structure", ""):
        group.setdefault("final_sparsity", 0.5)
    return {"start_epoch": 1, "end_epoch": 3, "groups": [group]}


@pytest.fixture
def batches():
    random = torch.Generator().manual_seed(0)
    return [
        (torch.randn(6, 3, 9, 9, generator=random), torch.randint(4, (6,), generator=random))
        for _ in range(4)
    ]


def nesterov(parameters):
    """An optimizer that, in its forms for devices, adds to the gradients in place."""
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True, foreach=True)


def averages_by_hand(model, optimizer, batches, names):
    """Train an epoch; return the averages of squared gradients, in double precision."""
    found = {name: 0.0 for name in names}
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        for name in names:
            square = architectures.layers(model)[name].weight.grad.double() ** 2
            found[name] = DECAY * found[name] + (1 - DECAY) * square
        optimizer.step()
    return found


def test_averages_are_those_of_the_gradients_that_the_optimizer_is_given(batches):
    model, other = small(), small()
    compression = micronet.compress(model, recipe(prune=section()))
    optimizer = nesterov(model.parameters())
    epoch_of(model, compression, optimizer, batches, 0)
    expected = averages_by_hand(other, nesterov(other.parameters()), batches, ["second.0", "fc"])
    found = compression.curvature.tensors
    assert found.keys() == expected.keys()
    for name, average in found.items():
        # Each step rounds twice, to half a unit in the last place.
        torch.testing.assert_close(average.double(), expected[name], rtol=8 * 2**-24, atol=0)


def test_a_closure_s_gradients_count(batches):
    model, other = small(), small()
    compression = micronet.compress(model, recipe(prune=section()))
    optimizer = nesterov(model.parameters())
    compression.begin_epoch(0, optimizer)
    for images, labels in batches:

        def closure(images=images, labels=labels):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            return loss

        assert optimizer.step(closure).detach() > 0
        compression.step()
    plain = micronet.compress(other, recipe(prune=section()))
    epoch_of(other, plain, nesterov(other.parameters()), batches, 0)
    assert same(compression.curvature.tensors, plain.curvature.tensors)


@pytest.mark.parametrize("scope", ["layer", "group"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_pieces_of_least_loss_are_pruned(structure, scope, batches):
    if ":" in structure and scope == "group":
        return
    model = small()
    plan = recipe(prune=section(scope, structure=structure, initial_sparsity=0.3))
    compression = micronet.compress(model, plan)
    optimizer = nesterov(compression.parameter_groups())
    epoch_of(model, compression, optimizer, batches, 0)
    layers = architectures.layers(model)
    scores = {
        name: layers[name].weight.detach().double() ** 2 * average.double() / 2
        for name, average in compression.curvature.tensors.items()
    }
    compression.begin_epoch(1, optimizer)
    # Magnitudes that are the scores are ranked by another criterion's code.
    group = PruneGroup(**{**plan.prune.groups[0].__dict__, "criterion": "magnitude"})
    target = prune.target_sparsity(plan.prune, group, 1)
    for name, score in scores.items():
        zeros = layers[name].weight == 0
        if ":" in structure:
            rows = score.movedim(1, -1).reshape(-1, 4)
            lowest = rows.argsort(dim=1, stable=True)[:, : int(target * 4)]
            expected = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, lowest, True)
            assert torch.equal(zeros.movedim(1, -1).reshape(-1, 4), expected)
            continue
        ranked = scores if scope == "group" else {name: score}
        bits = prune.choose_together({n: s.float() for n, s in ranked.items()}, group, target)
        keep = kernels.unpack_bits(bits[name], score.numel()).view(score.shape)
        assert torch.equal(zeros, ~keep)


@pytest.mark.parametrize("scope", ["layer", "group"])
@pytest.mark.parametrize("structure", STRUCTURES[:5])
def test_what_is_pruned_stays_so_where_gradients_are_zero(structure, scope, batches):
    """Outputs without a gradient rank as low as what is pruned, and in front of some of it."""
    model = small()
    plan = section(scope, structure=structure)
    compression = micronet.compress(model, recipe(prune={**plan, "end_epoch": 4}))
    optimizer, before = nesterov(compression.parameter_groups()), {}
    for epoch in range(4):
        epoch_of(model, compression, optimizer, batches, epoch)
        for name, bits in compression.masks.bits.items():
            assert torch.equal(bits & before.get(name, bits), bits)
        before = dict(compression.masks.bits)
        if epoch == 1:
            model.second[0].weight.register_hook(lambda grad: grad.index_fill(0, ZERO, 0.0))
    total = sum(m.weight.numel() for n, m in architectures.layers(model).items() if n != "first.0")
    zeros = sum(part.zeros for part in compression.report().zeros.values())
    assert zeros >= int(0.5 * total) - 32


ZERO = torch.tensor([0, 1])


def test_averages_begin_anew_with_each_choice_and_end_with_the_last(batches):
    model = small()
    compression = micronet.compress(model, recipe(prune=section()))
    optimizer = nesterov(compression.parameter_groups())
    for epoch in range(2):
        compression.begin_epoch(epoch, optimizer)
        assert not any(average.any() for average in compression.curvature.tensors.values())
        epoch_of(model, compression, optimizer, batches, epoch)
        assert all(average.any() for average in compression.curvature.tensors.values())
    hooks = len(optimizer._optimizer_step_pre_hooks)
    compression.begin_epoch(2, optimizer)
    assert compression.curvature.tensors == {}
    assert (hooks, len(optimizer._optimizer_step_pre_hooks)) == (1, 0)


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("stopped", [1, 2])
def test_a_loop_goes_on_from_its_state_bit_for_bit(stopped, quantized, batches):
    bits = {"weights": {"bits": 4}, "activations": {"bits": 4}}
    sections = {"quantize": bits} if quantized else {}
    plan = recipe(prune={**section(), "end_epoch": 5, "frequency": 3}, **sections)

    def begin(seed):
        model = small(seed)
        return model, micronet.compress(model, plan)

    model, compression = begin(0)
    optimizer = torch.optim.AdamW(compression.parameter_groups(), lr=0.01)
    loaded = trained(model, compression, optimizer, batches, 5, stopped)
    assert len(loaded["compression"]["curvature"]) == 2
    other, again = begin(1)
    again.load_state_dict(loaded["compression"])
    other.load_state_dict(loaded["model"])
    later = torch.optim.AdamW(again.parameter_groups(), lr=0.01)
    later.load_state_dict(loaded["optimizer"])
    for epoch in range(stopped, 5):
        epoch_of(other, again, later, batches, epoch)
    assert same(states(model, compression), states(other, again))


@pytest.mark.slow
def test_a_run_that_is_stopped_within_an_epoch_goes_on_bit_for_bit(shallow, tmp_path, monkeypatch):
    group = {"layers": ["layer*"], "final_sparsity": 0.6, "criterion": "second-order"}
    plan = {"train": {"epochs": 4, "lr": 0.05, "nesterov": True}}
    plan["prune"] = {"start_epoch": 1, "end_epoch": 4, "frequency": 2, "groups": [group]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(plan))
    start = ["prune", "--from", str(shallow), "--schedule", str(tmp_path / "recipe.yaml")]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main([*start, "--out", str(whole), *SMALL]) == 0
    gather, steps = Curvature.gather, iter(range(10**6))

    def interrupted(self, model):
        gather(self, model)
        if next(steps) % 3 == 1:
            signal.raise_signal(signal.SIGINT)

    command = [*start, "--out", str(stopped), *SMALL]
    seen, code = 0, 130
    with monkeypatch.context() as patched:
        patched.setattr(Curvature, "gather", interrupted)
        while code == 130:
            code = main(command)
            kept = checkpoint.load(stopped / "last.safetensors").group("curvature")
            seen += len(kept) > 0
            command = [*command, "--resume"] if "--resume" not in command else command
    assert code == 0 and seen > 2
    one, two = (checkpoint.load(run / "last.safetensors").tensors for run in (whole, stopped))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert report_facts.read(str(stopped)).criteria == ["pruned by second-order"]
    assert "pruned by second-order" in page([report_facts.read(str(stopped))])
    assert report_facts.read(str(shallow)).criteria == []


def test_a_state_of_before_there_were_averages_is_read(batches):
    model = small()
    compression = micronet.compress(model, recipe(prune=section()))
    optimizer = nesterov(compression.parameter_groups())
    epoch_of(model, compression, optimizer, batches, 0)
    state = compression.state_dict()
    del state["curvature"]
    compression.load_state_dict(state)
    with pytest.raises(
        UserError, match=r"'second\.0' cannot be pruned by second-order: its weight"
    ):
        compression.begin_epoch(1, optimizer)
    for wrong in ({"nothing": torch.zeros(3)}, {"fc": torch.zeros(3)}, {"fc": 3}):
        with pytest.raises(UserError, match=r"squared gradients '\w+' belong to no weight"):
            compression.load_state_dict({**state, "curvature": wrong})


def test_without_gradients_there_are_no_masks(batches):
    model = small()
    compression = micronet.compress(model, recipe(prune=section()))
    compression.begin_epoch(0)
    with pytest.raises(UserError, match="the gradients of an optimizer: give it to begin_epoch"):
        compression.step()
    model.fc.weight.requires_grad_(False)
    epoch_of(model, compression, nesterov(compression.parameter_groups()), batches, 0)
    with pytest.raises(UserError, match="'fc' cannot be pruned by second-order"):
        compression.begin_epoch(1)


def test_a_layer_that_is_pruned_whole_has_no_gradient_and_needs_none():
    compression = micronet.compress(nn.Sequential(nn.Linear(4, 4)), recipe(prune=PLAIN))
    weight = torch.zeros(4, 4)
    curvature = compression.curvature
    assert not curvature.loss_increase("0", weight, torch.ones(4, 4, dtype=torch.bool)).any()


PLAIN = {"end_epoch": 1, "groups": [{"layers": ["*"], "final_sparsity": 0.5}]}
