"""What loops can ask of a compression: optimizers, averages, losses, processes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import micronet
from compressed import BOTH, LEARNED, PRUNE, epoch_of, recipe, same, small
from micronet.models import architectures
from micronet.quantization import quantize
from micronet.utils.errors import UserError
from two_processes import spawn_two


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
