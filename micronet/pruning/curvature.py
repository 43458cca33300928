"""How much the loss would rise if a weight were zero, to second order.

Optimal brain damage (LeCun, Denker and Solla 1990): ``w^2 h / 2`` with the diagonal ``h`` of the
loss's second derivative, for which the mean squared gradient stands, as of a loss that is a log
likelihood (empirical Fisher information).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from micronet.models import architectures
from micronet.pruning.sparsity_schedule import firing_epochs
from micronet.recipe.schema import SECOND_ORDER, PruneGroup, PruneSection
from micronet.utils.errors import UserError

# Of the moving average of squared gradients: the weight of what it held before each step.
DECAY = 0.999


class Curvature:
    """Moving averages of the squared gradients of weights, by the layer that owns each.

    Each begins at zero when its layer's mask was chosen last, or at the start of training, and is
    not corrected for it: of weights that are ranked together all averages are of as many steps. The
    gradients are those that the optimizer is given: of the mean loss of a whole batch and of all
    processes, after clipping. A weight that is pruned has one too, or a zero where its layer is
    quantized; neither counts, for what is pruned stays so.

    Attributes:
        tensors: the averages, float32, shaped as the weights.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._followed: torch.optim.Optimizer | None = None
        self._hook: RemovableHandle | None = None

    def watch(
        self, model: nn.Module, section: PruneSection, groups: Mapping[str, PruneGroup], epoch: int
    ) -> None:
        """Begin anew for masks that an epoch has chosen, and forget what no later one needs."""
        layers = architectures.layers(model)
        kept, self.tensors = self.tensors, {}
        for name, group in groups.items():
            firing = firing_epochs(section, group)
            if group.criterion != SECOND_ORDER or epoch >= firing[-1]:
                continue
            if name in kept and epoch not in firing:
                self.tensors[name] = kept[name]
            else:
                weight = layers[name].weight.detach()
                self.tensors[name] = torch.zeros_like(weight, dtype=torch.float32)
        if not self.tensors:
            self.leave()

    def follow(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Gather what an optimizer is given for each step, while there is something to gather."""
        # Accelerate's stands around one of torch's.
        optimizer = getattr(optimizer, "optimizer", optimizer)
        if self.tensors and optimizer is not self._followed:
            self.leave()

            def before(_: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                return self._before_step(model, args, kwargs)

            self._followed, self._hook = optimizer, optimizer.register_step_pre_hook(before)

    def leave(self) -> None:
        """Follow no optimizer any longer."""
        if self._hook is not None:
            self._hook.remove()
        self._followed = self._hook = None

    def _before_step(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Gather before a step that has its gradients, else after what computes them in it.

        An optimizer may change gradients in place, so that after its step is too late.
        """
        optimizer, *rest = args
        closure = rest[0] if rest else kwargs.get("closure")
        if closure is None:
            self.gather(model)
            return None

        def gathered() -> Any:
            loss = closure()
            self.gather(model)
            return loss

        others = {key: value for key, value in kwargs.items() if key != "closure"}
        return (optimizer, gathered, *rest[1:]), others

    @property
    def is_fed(self) -> bool:
        """Whether gradients reach every average that is kept."""
        return not self.tensors or self._followed is not None

    @torch.no_grad()
    def gather(self, model: nn.Module) -> None:
        """Take in the gradients that the weights have now; one without has a gradient of zero."""
        if not self.tensors:
            return
        layers = architectures.layers(model)
        for name, average in self.tensors.items():
            # The network may have been moved since, as after a state was loaded.
            self.tensors[name] = average.to(layers[name].weight.device)
        torch._foreach_mul_(list(self.tensors.values()), DECAY)
        averages, gradients = [], []
        for name, average in self.tensors.items():
            gradient = layers[name].weight.grad
            if gradient is not None:
                averages.append(average)
                gradients.append(gradient.float())
        if averages:
            torch._foreach_addcmul_(averages, gradients, gradients, value=1 - DECAY)

    @torch.no_grad()
    def loss_increase(self, name: str, weight: Tensor, pruned: Tensor | None) -> Tensor:
        """Return by how much the loss would rise without each weight, up to a common factor.

        Args:
            name: of the layer.
            weight: of the layer.
            pruned: bool, shaped as the weight; None where nothing is pruned yet.

        Returns:
            float32, shaped as the weight: zero for what is pruned, and positive for what is not, so
            that masks only grow.

        Raises:
            UserError: the layer had no gradient since its mask was chosen last.
        """
        average = self.tensors.get(name)
        if average is None or not bool(average.any()):
            if pruned is not None and bool(pruned.all()):
                return torch.zeros_like(weight, dtype=torch.float32)
            raise UserError(
                f"layer {name!r} cannot be pruned by {SECOND_ORDER}: its weight has had no "
                "gradient since its mask was chosen last"
            )
        # In double precision: products of small gradients would vanish.
        average = average.to(weight.device)
        product = weight.double().square() * average.double() / 2
        rises = product.float().clamp_min(torch.finfo(torch.float32).tiny)
        return rises if pruned is None else rises.masked_fill(pruned, 0.0)

    def load(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Continue with averages of a state, in the memory order and on the device of the weights.

        Raises:
            UserError: they are of another network.
        """
        layers = architectures.layers(model)
        self.tensors = {}
        for name, tensor in tensors.items():
            shape = tuple(layers[name].weight.shape) if name in layers else None
            if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
                raise UserError(f"squared gradients {name!r} belong to no weight of this network")
            like = layers[name].weight.detach()
            self.tensors[name] = torch.empty_like(like, dtype=torch.float32).copy_(tensor)
