"""The parameters of a network as an optimizer takes them: in groups, by decay and by rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from micronet.quantization.layers import QuantizedLayer
from micronet.quantization.quantizers.inputs import InputQuantizer
from micronet.recipe.schema import TrainSection
from micronet.utils import distributed
from micronet.utils.errors import UserError

# The roles of what quantizers learn, by the kind of module that has them.
_LEARNED: dict[type[nn.Module], tuple[str, ...]] = {
    QuantizedLayer: ("weight_step",),
    InputQuantizer: ("step_size", "offset"),
}
# What a group of an optimizer holds parameter by parameter.
_BY_PARAMETER = ("params", "param_names")
# What schedules of torch keep for each group of an optimizer.
_RATES_OF_GROUPS = ("base_lrs", "max_lrs", "min_lrs")
_OF_GROUPS = (*_RATES_OF_GROUPS, "lr_lambdas", "base_momentums", "max_momentums")
# What schedules keep in a group itself, and the rate.
_RATES = ("lr", "initial_lr", "max_lr", "min_lr")


def learned_by_quantizers(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that quantizers learn, each once, in module order.

    They are the steps of weights, and the steps and offsets of inputs: all that an optimizer of
    learned steps trains.
    """
    found: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for kind, roles in _LEARNED.items():
            for role in roles if isinstance(module, kind) else ():
                parameter = getattr(module, role, None)
                if isinstance(parameter, nn.Parameter):
                    found.setdefault(id(parameter), parameter)
    return list(found.values())


def step_options(train: TrainSection | None) -> dict[str, Any]:
    """Return the options of the group of learned steps: no decay and, if a recipe says so, a rate.

    Its ``lr_scale`` is what ``set_learning_rate`` multiplies a rate by, as timm's schedules do.
    """
    if train is None or train.step_lr is None:
        return {"weight_decay": 0.0}
    return {"weight_decay": 0.0, "lr": train.step_lr, "lr_scale": train.step_lr / train.lr}


def weight_groups(
    model: nn.Module, weight_decay: float, *, decay_vectors: bool
) -> list[dict[str, Any]]:
    """Return the groups of an optimizer: what decays and what does not, without learned steps.

    Args:
        model: the network.
        weight_decay: of the first group.
        decay_vectors: whether biases, the parameters of normalization and whatever else has one
            axis or none decay too; as in timm and torchvision's references they may stay apart.
    """
    steps = {id(step) for step in learned_by_quantizers(model)}
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in model.parameters():
        if id(parameter) not in steps:
            decays = decay_vectors or parameter.dim() > 1
            (decayed if decays else kept).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def step_group(model: nn.Module, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the group of a network's learned steps, which may have none yet.

    A step never decays: that would pull it towards zero whatever the loss says.
    """
    return {"params": learned_by_quantizers(model), **options}


def give_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedulers: Iterable[Any] | Any,
    options: Mapping[str, Any],
) -> None:
    """Let an optimizer train a network's learned steps, in a group that does not decay.

    Steps that it holds among other parameters move to a new group, which comes last and otherwise
    has the options of the one before it; a group of steps alone stays as it is, and an empty one
    takes them.

    Args:
        model: the network.
        optimizer: made before the steps were there, or after.
        schedulers: schedules of torch that move the optimizer's learning rates, or one of them.
        options: of the new group; see ``step_options``.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(f"this is no optimizer of torch: {optimizer!r}")
    steps = {id(step): step for step in learned_by_quantizers(model)}
    for group in optimizer.param_groups:
        others = [i for i, p in enumerate(group["params"]) if id(p) not in steps]
        if others:
            group.update({k: [group[k][i] for i in others] for k in _BY_PARAMETER if k in group})
        else:
            for parameter in group["params"]:
                steps.pop(id(parameter), None)
    if steps:
        added = list(steps.values())
        factor = _add(model, optimizer, added, options)
        _start_state(optimizer, added)
        several = isinstance(schedulers, Iterable)
        for scheduler in schedulers if several else (schedulers,):
            _extend(scheduler, len(optimizer.param_groups), factor)


def _add(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: list[nn.Parameter],
    own: Mapping[str, Any],
) -> float:
    """Add steps to a last group that is empty, or in a group with the options of the last one.

    Parameters have names where the optimizer has them.

    Returns:
        What the rates of the last group are multiplied by to be those of the new one.
    """
    last = optimizer.param_groups[-1]
    if not last["params"]:
        last["params"].extend(steps)
        return 1.0
    options = {k: v for k, v in last.items() if k not in _BY_PARAMETER} | dict(own)
    factor = 1.0
    if "lr" in own:
        # A rate that is 0 now, and has no schedule, stays 0 whatever it is multiplied by.
        factor = own["lr"] / (float(last.get("initial_lr", last["lr"])) or 1.0)
        options |= {key: last[key] * factor for key in _RATES if key in last}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    named = [(names[id(step)], step) for step in steps]
    optimizer.add_param_group({**options, "params": named if "param_names" in last else steps})
    return factor


def _start_state(optimizer: torch.optim.Optimizer, steps: list[nn.Parameter]) -> None:
    """Give late parameters the state that Adagrad gives those alone that it is made with."""
    if isinstance(optimizer, torch.optim.Adagrad):
        last = optimizer.param_groups[-1]
        options = {k: v for k, v in last.items() if k not in _BY_PARAMETER}
        start = options["initial_accumulator_value"]
        fresh = torch.optim.Adagrad(
            [{**options, "params": steps}], initial_accumulator_value=start, fused=options["fused"]
        )
        optimizer.state.update(
            {step: fresh.state[step] for step in steps if not optimizer.state.get(step)}
        )


def _extend(scheduler: Any, groups: int, factor: float) -> None:
    """Let a schedule, and those it is made of, move as many groups, the new ones as the last.

    Their rates are ``factor`` times those of the last.
    """
    # Accelerate's stands around one of torch's.
    scheduler = getattr(scheduler, "scheduler", scheduler)
    for part in (scheduler, *getattr(scheduler, "_schedulers", ())):
        for name in _OF_GROUPS:
            values = getattr(part, name, None)
            if isinstance(values, list):
                new = values[-1:] * (groups - len(values))
                rates = name in _RATES_OF_GROUPS
                values.extend([value * factor for value in new] if rates else new)


class TrainedParameters:
    """Knows the groups of an optimizer, and whether one has the learned steps.

    Attributes:
        model: the network, as it is now.
    """

    def __init__(self, model: nn.Module, train: TrainSection | None) -> None:
        self.model, self._train = model, train
        self._expect_steps()

    def _expect_steps(self) -> None:
        """Note that learned steps may have come, which no optimizer has yet."""
        self._steps_are_trained = not learned_by_quantizers(self.model)

    def _require_steps(self) -> None:
        """Hold learned steps to being trained by an optimizer."""
        if not self._steps_are_trained:
            raise UserError(
                "no optimizer trains the network's learned steps: give begin_epoch the optimizer, "
                "or make it of parameter_groups() after begin_epoch"
            )

    def train_steps(self, optimizer: torch.optim.Optimizer, schedulers: Iterable[Any] = ()) -> None:
        """Let an optimizer train the learned steps, in a group that does not decay.

        For one that was not made of ``parameter_groups``: before its own state is loaded.

        Args:
            optimizer: of torch.
            schedulers: of its learning rates; the new group's goes as the last one's, in proportion
                where the recipe says ``step_lr``.
        """
        options = step_options(self._train)
        give_steps(self.model, optimizer, schedulers, options)
        self._steps_are_trained = True

    def parameter_groups(
        self,
        weight_decay: float | None = None,
        *,
        decay_vectors: bool | None = None,
        steps: bool = True,
    ) -> list[dict[str, Any]]:
        """Return the network's parameters in groups, for any optimizer of torch.

        Learned steps come last, never decay, and have the recipe's ``step_lr`` if it says one.

        Args:
            weight_decay: of the weights; by default the recipe's, 0 without a ``train`` section.
            decay_vectors: whether biases and the parameters of normalization decay too; by default
                as the recipe says, and not without a ``train`` section.
            steps: whether learned steps are among them; else make another optimizer of
                ``step_groups``.
        """
        train = self._train or TrainSection(decay_vectors=False)
        decay = train.weight_decay if weight_decay is None else weight_decay
        vectors = train.decay_vectors if decay_vectors is None else decay_vectors
        groups = weight_groups(self.model, decay, decay_vectors=vectors)
        if steps:
            groups += [group for group in self.step_groups() if group["params"]]
        return groups

    def step_groups(self) -> list[dict[str, Any]]:
        """Return the learned steps as one group, for an optimizer of their own.

        It never decays, and has the recipe's ``step_lr`` if it says one. Where layers are quantized
        later it is empty until ``begin_epoch`` is given that optimizer.
        """
        self._steps_are_trained = True
        return [step_group(self.model, step_options(self._train))]

    @torch.no_grad()
    def _agree_on_steps(self) -> None:
        """Average learned steps over processes.

        What wraps the network may not know of them: they may have come after it. Where it does,
        they agree already.
        """
        steps = learned_by_quantizers(self.model)
        if steps:
            means = distributed.mean(torch.cat([step.detach() for step in steps]))
            for step, mean in zip(steps, means.split([len(s) for s in steps]), strict=True):
                step.copy_(mean)
