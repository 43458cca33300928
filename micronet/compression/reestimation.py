"""Statistics of batch normalization computed anew, as plain averages over some batches.

The moving averages of training lag behind weights that are rounded: a weight that crosses from one
level to the next moves what follows it at once. Nagel et al. 2022, arXiv:2203.11086.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from micronet.compression.calibration import called, check_several
from micronet.models.failures import failures_of
from micronet.models.unchanged import unchanged
from micronet.quantization.faults import require_sound_quantizers
from micronet.utils import distributed
from micronet.utils.errors import UserError


@torch.no_grad()
def reestimate_(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    forward: Callable[[Any], object] | None = None,
) -> None:
    """Set the running mean and variance of each normalization to their averages over batches.

    Each normalization in training mode normalizes by the batch; all else computes as in
    evaluation, without dropout, so that neither ranges nor learned steps move. Nothing else of the
    network changes, nor do the random states of torch, numpy and Python. A normalization in
    evaluation mode is frozen, and stays as it is; so does one that no batch reaches.

    Several processes bring their own batches and get the same averages, those over all of them.

    Args:
        model: any network, as ``model.train()`` leaves it.
        batches: images, or tuples that begin with them, or dicts of keywords.
        forward: calls the network with a batch, where it takes something else.

    Raises:
        UserError: no normalization is in training mode, there is no batch, the network fails, a
            range, a learned step or offset is none, or an average is not finite; no statistics
            change then.
    """
    check_several(batches, "reestimate_")
    require_sound_quantizers(model, "statistics cannot be re-estimated: ")
    norms = trained_norms(model)
    if not norms:
        raise UserError(
            f"{type(model).__name__} has no normalization in training mode whose running "
            "statistics could be re-estimated"
        )
    sums = {name: _Sums(norm) for name, norm in norms.items()}
    call = forward or (lambda batch: called(model, batch))
    with unchanged(model):
        model.eval()
        for name, norm in norms.items():
            # What the hooks find is this batch's alone.
            norm.training, norm.momentum = True, 1.0
            norm.register_forward_hook(sums[name].see)
            sums[name].forget()
        for batch in batches:
            with failures_of(f"the statistics of {type(model).__name__} cannot be re-estimated"):
                call(batch)
    for norm, means in zip(norms.values(), _averages(sums), strict=True):
        for statistic, mean in zip(_statistics(norm), means, strict=True):
            statistic.copy_(mean)


def trained_norms(model: nn.Module) -> dict[str, _NormBase]:
    """Return the normalizations in training mode that have running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _NormBase) and module.training and module.running_mean is not None
    }


def _statistics(norm: _NormBase) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean, norm.running_var


class _Sums:
    """Sums of the statistics of a normalization over its calls, in float64."""

    def __init__(self, norm: _NormBase) -> None:
        self._norm, self.calls = norm, 0
        self.before = torch.stack(_statistics(norm)).double()
        self.sums = torch.zeros_like(self.before)

    def see(self, *_: object) -> None:
        """Take in the statistics that a call has left."""
        self.sums += torch.stack(_statistics(self._norm)).double()
        self.calls += 1
        self.forget()

    def forget(self) -> None:
        """Let the next call leave its own statistics to the bit, whatever was there."""
        for statistic in _statistics(self._norm):
            statistic.zero_()


def _averages(sums: dict[str, _Sums]) -> list[Tensor]:
    """Return mean and variance (2, channels) of each normalization over the calls of all processes.

    Raises:
        UserError: nothing was called, or an average is not finite.
    """
    each = list(sums.values())
    calls = distributed.sums(*(own.calls for own in each))
    if not any(calls):
        raise UserError("reestimate_ has seen no call of a normalization: there was no batch")
    place = each[0].sums.device
    flat = distributed.sum_of_all(torch.cat([own.sums.flatten().to(place) for own in each]))
    parts = flat.split([own.sums.numel() for own in each])
    found = []
    for name, own, part, count in zip(sums, each, parts, calls, strict=True):
        found.append(part.view_as(own.sums) / count if count else own.before)
        if not bool(found[-1].isfinite().all()):
            raise UserError(f"the statistics of {name!r} over these batches are not finite")
    return found
