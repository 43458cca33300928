"""Batch normalization over the batch of all processes, after convolutions in integers too."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import micronet_kernels as kernels
from micronet.models import timm_networks
from micronet.models.plain_swish import use_plain_swish_
from micronet.models.replacement import replace_


class SyncBatchNorm(_BatchNorm):
    """As ``torch.nn.SyncBatchNorm``, whose own forward pass would ask for the values at once.

    That one takes them only on a GPU, too, and DistributedDataParallel refuses it elsewhere; this
    one serves wherever its process group does.
    """

    process_group: dist.ProcessGroup | None = None

    @classmethod
    def like(cls, source: _BatchNorm) -> SyncBatchNorm:
        """Return a normalization with the source's own parameters and statistics."""
        new = cls(
            source.num_features,
            source.eps,
            source.momentum,
            source.affine,
            source.track_running_stats,
            device="meta",
        )
        new.process_group = getattr(source, "process_group", None)
        new._parameters, new._buffers = source._parameters, source._buffers
        return new.train(source.training)

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, not {x.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalize ``input`` (batch, channels, height, width)."""
        x = input
        group = self._group()
        if group is None:
            return super().forward(x)
        self._check_input_dim(x)
        momentum = self._momentum_of_this_batch()
        # Of what has no two axes of positions, as after a linear layer, one is made.
        images = x if x.dim() == 4 else x.reshape(*x.shape[:2], -1, 1)
        y = kernels.batch_norm(
            images,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            momentum,
            self.eps,
            group,
        )
        return y if x.dim() == 4 else y.reshape(x.shape)

    def _momentum_of_this_batch(self) -> float:
        """Count the batch; return its weight in the running statistics, as ``_BatchNorm`` does."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                return 1.0 / float(self.num_batches_tracked)
        return self.momentum or 0.0

    def _group(self) -> dist.ProcessGroup | None:
        """The processes to meet; None where this one is alone, or uses frozen statistics."""
        if not self.training or not dist.is_available() or not dist.is_initialized():
            return None
        group = self.process_group or dist.group.WORLD
        return group if dist.get_world_size(group) > 1 else None


class SyncBatchNormAct(SyncBatchNorm):
    """A normalization of timm's, with its dropout and its activation."""

    drop: nn.Module
    act: nn.Module

    @classmethod
    def like(cls, source: _BatchNorm) -> SyncBatchNorm:
        """Return one with the source's own parameters, statistics and modules."""
        new = super().like(source)
        new.drop, new.act = source.drop, source.act
        return new

    def forward(self, input: Tensor) -> Tensor:
        """Normalize and activate ``input`` (batch, channels, height, width)."""
        return self.act(self.drop(super().forward(input)))


def synchronize_in_integers_(model: nn.Module) -> None:
    """Replace the synchronized normalizations of a model; parameters stay the same objects."""
    for module in list(model.modules()):
        if type(module) is nn.SyncBatchNorm:
            replace_(module, SyncBatchNorm.like(module))


def synchronized(model: nn.Module) -> nn.Module:
    """Let a float model normalize over the batch of all processes, on any device, and return it.

    A subclass with a forward pass of its own keeps it, and its own statistics.
    """
    for module in list(model.modules()):
        # Not torch's own conversion, which knows a module that has two names by one of them.
        if type(module) in timm_networks.activated_normalizations():
            assert isinstance(module, _BatchNorm)
            replace_(module, SyncBatchNormAct.like(module))
        elif isinstance(module, _BatchNorm) and type(module).forward is _BatchNorm.forward:
            replace_(module, SyncBatchNorm.like(module))
    synchronize_in_integers_(model)
    # A swish with a gradient of its own would ask a deferred normalization for its values.
    use_plain_swish_(model)
    return model
