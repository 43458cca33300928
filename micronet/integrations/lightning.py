"""Compression in the loop of PyTorch Lightning: a callback that carries a recipe out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from micronet.integrations.callback import RecipeCallback
from micronet.integrations.optimizers import follow_steps, optimizer_of
from micronet.models import architectures
from micronet.recipe.reader import Recipe
from micronet.utils.errors import UserError

try:
    from lightning.pytorch.callbacks import Callback
except ImportError:
    try:
        # The same program under its earlier name.
        from pytorch_lightning.callbacks import Callback
    except ImportError:
        raise UserError(
            "the Lightning callback needs a package: pip install 'micronet[lightning]'"
        ) from None


class CompressionCallback(RecipeCallback, Callback):
    """Prunes and quantizes a LightningModule's network while a Trainer fits it.

    Masks and quantized layers come at the start of the epochs that the recipe says; what was pruned
    stays zero after each step of the optimizer, however batches are accumulated. Where the recipe
    averages weights, the average is validated and tested; ``compression.averaged()`` gives it to
    whoever stores the network afterwards. Checkpoints hold all of it: ``fit``, ``validate`` and
    ``test`` continue from one by ``ckpt_path``.

    One device, or several by DDP: what cuts parameters into shards is refused.

    Args:
        recipe: ``prune`` and ``quantize``; of ``train``, the average of weights and the rate of
            learned steps. The loss and the optimizer are the LightningModule's own.
        network: name of the module that is compressed, in the LightningModule, whose layers the
            recipe names; by default the only one that has layers. Empty for the LightningModule.
        mean: of pixels, where a layer is to read images; as in ``micronet.compress``.
        std: likewise.

    Attributes:
        compression: of the network; None before the first run.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: str | None = None,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(recipe, mean=mean, std=std)
        self.network = network

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Hold the recipe to the network, before a checkpoint is loaded.

        Raises:
            UserError: they do not go together, or the network is not clear.
        """
        if trainer.strategy.restore_checkpoint_after_setup:
            name = type(trainer.strategy).__name__
            raise UserError(f"{name} cuts parameters into shards, which cannot be pruned: take DDP")
        model = pl_module.get_submodule(_network_name(pl_module, self.network))
        begins = stage == "fit" and trainer.current_epoch == 0
        if begins or self.compression is None or self.compression.model is not model:
            self.compression = self._compress(model)
        load = pl_module.on_load_checkpoint

        def load_ahead(checkpoint: dict[str, Any]) -> None:
            # Layers that the checkpoint's weights belong to, before these are loaded.
            state = checkpoint.get("callbacks", {}).get(self.state_key)
            if state is not None:
                self.load_state_dict(state)
            load(checkpoint)

        pl_module.on_load_checkpoint = load_ahead
        self._running.callback(delattr, pl_module, "on_load_checkpoint")

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Find the optimizer, which takes the learned steps before its state is loaded.

        Raises:
            UserError: none trains the network, or several do.
        """
        compression = self._known()
        optimizer = optimizer_of(compression, trainer.optimizers)
        compression.train_steps(optimizer, _schedulers(trainer))
        self._running.callback(follow_steps(compression, optimizer).remove)
        self._running.callback(compression.curvature.leave)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Choose masks and put quantized layers in place."""
        compression = self._known()
        optimizer = optimizer_of(compression, trainer.optimizers)
        compression.begin_epoch(trainer.current_epoch, optimizer, _schedulers(trainer))

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Give the network the average of its weights."""
        self._averaged.enter_context(self._known().averaged())

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Give the network its own weights back."""
        self._averaged.close()

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Give the network the average of its weights."""
        self._averaged.enter_context(self._known().averaged())

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """Give the network its own weights back."""
        self._averaged.close()

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """Give the network the average of its weights."""
        self._averaged.enter_context(self._known().averaged())

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        """Give the network its own weights back."""
        self._averaged.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave the network with its own weights, and the optimizer alone."""
        self._averaged.close()
        self._running.close()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave the LightningModule and the optimizer alone."""
        self._running.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the compression's state."""
        return {} if self.compression is None else self.compression.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state.

        Raises:
            UserError: it is of another network or another recipe.
        """
        self._known().load_state_dict(state_dict)


def _schedulers(trainer: Any) -> list[Any]:
    return [config.scheduler for config in trainer.lr_scheduler_configs]


def _network_name(module: nn.Module, name: str | None) -> str:
    """Return the name of the module to compress."""
    kind = type(module).__name__
    if name is not None:
        if name and name not in dict(module.named_modules()):
            raise UserError(f"network={name!r} is no module of {kind}")
        return name
    found = [name for name, child in module.named_children() if architectures.layers(child)]
    if len(found) != 1:
        listed = ", ".join(map(repr, found)) or "no module"
        raise UserError(
            f"{kind} has layers in {listed}: give CompressionCallback the name of the one that is "
            "compressed, as in network='model'; network='' means all"
        )
    return found[0]
