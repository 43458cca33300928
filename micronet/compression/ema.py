"""A moving average of the trained weights, which generalizes better than the last of them.

Polyak & Juditsky 1992; as EfficientNet was trained, the average is short at the start of a run.
It is this network that is validated, chosen as best, and loaded again; training goes on with its
own weights beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from micronet.compression.parameters import learned_by_quantizers
from micronet.models.shared_layers import kept_names, weight_key
from micronet.pruning.prune import Masks
from micronet.utils import distributed

_STATISTICS = ("running_mean", "running_var")


def averaged_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return what is averaged: parameters, and the statistics of batch normalization.

    Ranges of activations are not, being moving averages themselves, nor are parameters of whole
    numbers. A tensor of several names is averaged once; a weight goes by the layer that owns it, as
    its mask does.
    """
    parameters = model.named_parameters(remove_duplicate=False)
    found: dict[str, Tensor] = {
        n: p for n, p in parameters if p.is_floating_point() or p.is_complex()
    }
    for name, buffer in model.named_buffers():
        if name.rpartition(".")[2] in _STATISTICS:
            found[name] = buffer
    kept = kept_names(model, found)
    return {name: tensor.detach() for name, tensor in found.items() if name in kept}


@dataclass
class ModelEma:
    """The average of a network's tensors by name, with weight ``1 - decay`` for the newest.

    A decay of 0 averages nothing and holds nothing.
    """

    decay: float = 0.0
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int, share: Tensor | None = None) -> None:
        """Take in the weights after the run's optimizer step number ``step``, counted from 1.

        A tensor that is new, as a learned step is, starts at its own value. ``share`` is that of
        ``step`` on the device, for a captured step, which is that of every step.
        """
        if not self.decay:
            return
        now = averaged_tensors(model)
        self.tensors.update({n: t.clone() for n, t in now.items() if n not in self.tensors})
        # The network may have been moved since, as after a state was loaded.
        moved = {n: t for n, t in now.items() if self.tensors[n].device != t.device}
        self.tensors.update({n: self.tensors[n].to(t.device) for n, t in moved.items()})
        averages, weights = [self.tensors[name] for name in now], list(now.values())
        if share is None:
            torch._foreach_lerp_(averages, weights, self.share(step))
        else:
            differences = torch._foreach_sub(weights, averages)
            torch._foreach_mul_(differences, share)
            torch._foreach_add_(averages, differences)

    def share(self, step: int) -> float:
        """Return the weight of the newest tensors in the average after step ``step``.

        The decay is at most ``(1 + step) / (10 + step)``, so that the first weights of a short run
        are forgotten.
        """
        return 1.0 - min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def prune(self, masks: Masks) -> None:
        """Make zero what the masks prune: an average of weights and zeros would not be."""
        for name in masks.bits:
            if weight_key(name) in self.tensors:
                masks.fill_(name, self.tensors[weight_key(name)])

    @torch.no_grad()
    def scale(self, factors: Mapping[str, float]) -> None:
        """Multiply averages as the tensors themselves have been multiplied, by name."""
        for name in factors.keys() & self.tensors.keys():
            self.tensors[name].mul_(factors[name])

    @torch.no_grad()
    def agree(self) -> None:
        """Let the processes' statistics of batch normalization agree on their mean."""
        if distributed.is_several():
            for name, tensor in self.tensors.items():
                if name.rpartition(".")[2] in _STATISTICS:
                    tensor.copy_(distributed.mean(tensor))

    @torch.no_grad()
    def take_statistics(self, model: nn.Module) -> None:
        """Take the statistics of normalization that a network has, in place of their averages."""
        now = averaged_tensors(model)
        for name, tensor in self.tensors.items():
            if name.rpartition(".")[2] in _STATISTICS:
                tensor.copy_(now[name])

    @contextlib.contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Give ``model`` the averaged tensors, and its own ones back afterwards.

        Learned steps that are not in the average yet, before their first update, stay as they are.
        """
        now = {n: t for n, t in averaged_tensors(model).items() if n in self.tensors}
        kept = {name: tensor.clone() for name, tensor in now.items()}
        self._copy(self.tensors, now)
        try:
            yield
        finally:
            self._copy(kept, now)

    def load(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Continue with the averages of a checkpoint, in the memory order of ``model``'s tensors.

        Raises:
            KeyError: a tensor of the model has no average in a checkpoint that has some, and is no
                learned step, which enters it with the first update.
            RuntimeError: one has another shape.
        """
        if self.decay and tensors:
            steps = {id(step) for step in learned_by_quantizers(model)}
            late = {n for n, p in model.named_parameters() if id(p) in steps} - tensors.keys()
            now = {n: t for n, t in averaged_tensors(model).items() if n not in late}
            self.tensors = {n: torch.empty_like(t).copy_(tensors[n]) for n, t in now.items()}

    @staticmethod
    @torch.no_grad()
    def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
        for name, tensor in target.items():
            tensor.copy_(source[name])
