"""Compression in the loop of Transformers' Trainer: a callback that carries a recipe out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from micronet.integrations.callback import RecipeCallback
from micronet.integrations.optimizers import follow_steps
from micronet.utils.errors import UserError

try:
    from transformers import TrainerCallback
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint
except ImportError:
    raise UserError(
        "the Transformers callback needs a package: pip install 'micronet[transformers]'"
    ) from None

_FILE = "micronet_compression.pt"


class CompressionCallback(RecipeCallback, TrainerCallback):
    """Prunes and quantizes a network while a Trainer trains it.

    Masks and quantized layers come at the start of the epochs that the recipe says; what was pruned
    stays zero after each step of the optimizer, however batches are accumulated. Where the recipe
    averages weights, the Trainer evaluates the average while it trains; ``compression.averaged()``
    gives it to whoever evaluates or stores the network afterwards.

    Each checkpoint of the Trainer gets one file more; ``resume`` continues from one. One device, or
    several by DDP.

    Args:
        recipe: ``prune`` and ``quantize``; of ``train``, the average of weights and the rate of
            learned steps. The loss and the optimizer are the Trainer's own.
        mean: of pixels, where a layer is to read images; as in ``micronet.compress``.
        std: likewise.

    Attributes:
        compression: of the network; None before the first run.
    """

    # The epoch that begins next, and whether ``resume`` has been called for the run to come.
    _next_epoch = 0
    _resumed = False

    def resume(self, trainer: Any, checkpoint: str | Path | None = None) -> str:
        """Make a Trainer's network and optimizer such as a checkpoint has them.

        ``trainer.train(resume_from_checkpoint=callback.resume(trainer))`` goes on with a run.

        Args:
            trainer: has this callback, and a network as before the run.
            checkpoint: a folder that the Trainer wrote; by default the last in ``output_dir``.

        Returns:
            The folder, for ``Trainer.train``.

        Raises:
            UserError: there is none, or it is of another network or another recipe.
        """
        output = trainer.args.output_dir
        folder = checkpoint or (get_last_checkpoint(output) if Path(output).is_dir() else None)
        if folder is None:
            raise UserError(f"there is no checkpoint in {output!r} to resume from")
        path = Path(folder) / _FILE
        if not path.is_file():
            raise UserError(f"{str(folder)!r} has no {_FILE}: a run without this callback wrote it")
        self.compression = self._compress(trainer.model)
        self.compression.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.compression.train_steps(trainer.create_optimizer())
        self._resumed = True
        return str(folder)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hold the recipe to the network; find the optimizer.

        Raises:
            UserError: they do not go together, or the run is resumed without ``resume``.
        """
        if state.global_step and not self._resumed:
            raise UserError(
                "a run with CompressionCallback is resumed by "
                "trainer.train(resume_from_checkpoint=callback.resume(trainer))"
            )
        if not self._resumed:
            self.compression = self._compress(kwargs["model"])
        self._resumed = False
        self._next_epoch = int(state.epoch or 0)
        # Accelerate's stands around the one whose steps are taken.
        optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])
        self._known().train_steps(optimizer, [kwargs["lr_scheduler"]])
        self._running.callback(follow_steps(self._known(), optimizer).remove)
        self._running.callback(self._known().curvature.leave)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Choose masks and put quantized layers in place."""
        optimizer, scheduler = kwargs["optimizer"], kwargs["lr_scheduler"]
        self._known().begin_epoch(self._next_epoch, optimizer, [scheduler])
        self._next_epoch += 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give the network the average of its weights where it is evaluated next."""
        self._average_before(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give the network the average of its weights where it is evaluated next."""
        self._average_before(control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give the network its own weights back, before they are stored."""
        self._averaged.close()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the compression's state to the checkpoint."""
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if args.should_save and folder.is_dir():
            torch.save(self._known().state_dict(), folder / _FILE)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the optimizer alone."""
        self._averaged.close()
        self._running.close()

    def _average_before(self, control: Any) -> None:
        if control.should_evaluate:
            self._averaged.enter_context(self._known().averaged())
