"""A distilled, pruned, dampened step of quantization-aware training with an average; no run."""

import torch

from micronet.compression.distillation import Teacher
from micronet.compression.plan import CompressionPlan
from micronet.models import architectures
from micronet.pruning import prune
from micronet.quantization.quantize import LayerBits
from micronet.recipe.schema import (
    SECOND_ORDER,
    DistillSection,
    OscillationSection,
    PruneGroup,
    PruneSection,
    TrainSection,
)
from micronet.training import loop
from micronet.training.optimizer import set_learning_rate
from micronet.training.plan import StepLocation, TrainingPlan
from micronet.training.state import pack
from micronet.training.steps.guard import StepGuard
from micronet.training.steps.step import Batch, Stepper


def bits_of(model):
    """Learned steps, an offset, ranges, and what stays in float."""
    bits = dict.fromkeys(architectures.layers(model), LayerBits(4, 4))
    for name in bits:
        if name.startswith("layer2"):
            offset = name == "layer2.0.conv2"
            bits[name] = LayerBits(
                4, 4, weight_step="learned", activation_step="learned", offset=offset
            )
    return bits | {"conv1": LayerBits(None, None), "fc": LayerBits(2.4, None)}


def stepper(deferred, device="cpu", **train):
    """A network of its first epoch, and what takes its steps."""
    torch.manual_seed(0)
    model = architectures.create_model("resnet20", 10).to(device)
    # The last layers are pruned later, by gradients that are gathered until then.
    later = PruneGroup(("layer3*",), final_sparsity=0.5, criterion=SECOND_ORDER, start_epoch=1)
    groups = PruneGroup(("layer[12]*",), final_sparsity=0.5), later
    section = PruneSection(groups, method="one-shot")
    settings = {"lr": 0.02, "weight_decay": 1e-4, "nesterov": True, "model_ema": 0.9, **train}
    compression = CompressionPlan(
        prune=section,
        prune_groups=prune.layer_groups(model, section),
        bits=bits_of(model),
        distill=DistillSection(),
        oscillations=OscillationSection(momentum=0.3, freeze=0.1, dampen=0.01),
    )
    train = TrainSection(**{"clip_grad_norm": 1.0, "accumulate": 2, **settings})
    plan = TrainingPlan("qat", train, compression)
    state = loop.start(model, plan, prune.Masks())
    state.compression.begin_epoch(0, state.optimizer)
    model.train()
    set_learning_rate(state.optimizer, plan.train.lr)
    teacher = Teacher(architectures.create_model("resnet20", 10).to(device))
    guard = StepGuard(state, plan.train.loss_limit, deferred)
    return Stepper(state, model, plan, teacher, guard)


def batch(seed=0, count=12):
    """Noise with labels."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=random)
    return Batch(torch.randn(count, 3, 16, 16, generator=random), labels, labels)


def take(taker, number, images=None):
    """Take a step; return its row."""
    where = StepLocation("qat", 0, number - 1, "; the last good checkpoint is 'last'")
    return taker.take(images or batch(number), where, number)


def everything(state):
    """All that a step may change, as bytes by name."""
    tensors = pack(state, {})[0] | dict(state.model.named_buffers())
    return {name: tensor.contiguous().numpy().tobytes() for name, tensor in tensors.items()}
