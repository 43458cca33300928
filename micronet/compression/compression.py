"""Compression of one network inside of a training loop that somebody else runs."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from micronet.compression.calibration import check_several
from micronet.compression.distillation import Teacher, section_loss
from micronet.compression.ema import ModelEma
from micronet.compression.features import Features
from micronet.compression.oscillations.following import Oscillations
from micronet.compression.parameters import TrainedParameters
from micronet.compression.plan import CompressionPlan, check_kept
from micronet.compression.reestimation import reestimate_
from micronet.compression.report import Report
from micronet.compression.state import CompressionState
from micronet.models import architectures, custom
from micronet.pruning import prune
from micronet.quantization import conversion, precision_change, quantize, weight_uses
from micronet.quantization.faults import LearnedWatch, require_sound_quantizers
from micronet.quantization.images.inputs import watch_inputs
from micronet.quantization.layers import quantized_layers
from micronet.quantization.quantize import LayerBits
from micronet.recipe.reader import Recipe
from micronet.recipe.schema import TrainSection
from micronet.utils import distributed
from micronet.utils.errors import UserError


class Compression(TrainedParameters):
    """Carries a plan out on a network while a loop trains it.

    Call ``begin_epoch`` before each epoch and ``step`` after each step of the optimizer.

    Attributes:
        model: the network, as it is now.
        plan: the recipe, held to the network.
        masks: the bit mask of every pruned weight.
        curvature: of the loss, where masks are to be chosen by it.
        bits: precision of every layer; empty while the network is in float.
        average: moving average of the weights, if the recipe wants one.
        oscillations: of quantized weights, if the recipe wants them followed.
        epoch: that was begun last, from 0; -1 before the first.
        num_updates: number of steps of the optimizer so far.
        steps_per_epoch: as ``compress`` was given it.
        recipe: that ``compress`` was given.
        stale: whether the last ``begin_epoch`` chose masks or changed bits, so that the statistics
            of normalization are another network's; not while quantized inputs have no ranges yet.
        watches_uses: whether the first call of the quantized network is held to using weights
            through layers.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: CompressionPlan,
        train: TrainSection | None = None,
        masks: prune.Masks | None = None,
        bits: Mapping[str, LayerBits] | None = None,
        *,
        steps_per_epoch: int | None = None,
    ) -> None:
        super().__init__(model, train)
        self.plan = plan
        self.masks, self.curvature = masks or prune.Masks(), prune.Curvature()
        self.bits: dict[str, LayerBits] = dict(bits or {})
        self.average = ModelEma(train.model_ema if train is not None else 0.0)
        last = plan.quantize_from if train is None else train.epochs - 1
        self.oscillations = Oscillations(plan.oscillations, plan.quantize_from, last)
        self.epoch, self.num_updates = -1, 0
        self.steps_per_epoch, self.watches_uses = steps_per_epoch, False
        self.recipe: Recipe | None = None
        self.stale = False
        self._steps_in_epoch = 0
        self._features: Features | None = None
        self._watch = LearnedWatch()
        self.masks.attach(model)
        precision_change.start_as_(model, plan.bits)

    def begin_epoch(
        self,
        epoch: int | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        schedulers: Iterable[Any] = (),
    ) -> None:
        """Choose masks and put quantized layers in place where the plan says so.

        What was begun already is not begun again, as after a resumed run within an epoch.

        Args:
            epoch: from 0; the next one by default.
            optimizer: takes the learned steps of quantized layers; see ``train_steps``. An
                optimizer that is made of ``parameter_groups`` afterwards has them. Masks of
                second order are chosen by the gradients that it is given, and need it.
            schedulers: of the optimizer's learning rates.

        Raises:
            UserError: the epoch is not the next one, or the state of a quantizer is not finite.
        """
        epoch = self.epoch + 1 if epoch is None else epoch
        if epoch not in (self.epoch, self.epoch + 1):
            after = f"epoch {self.epoch}" if self.epoch >= 0 else "the start, so that 0 is next"
            raise UserError(
                f"begin_epoch({epoch}) follows {after}: epochs are begun in order; to continue a "
                "run, load_state_dict first"
            )
        self.stale = False
        if epoch != self.epoch:
            self.verify()
            before = dict(self.bits)
            self._apply_plan(epoch)
            moved = self.plan.prunes(epoch) or self.bits != before
            self.stale = moved and not quantize.uninitialized(self.model)
            self.epoch, self._steps_in_epoch, self._watch = epoch, 0, LearnedWatch()
        if optimizer is not None:
            self.train_steps(optimizer, schedulers)

    def _apply_plan(self, epoch: int) -> None:
        """Do what the plan says of an epoch's start, whatever was begun before."""
        plan = self.plan
        if plan.prune is not None:
            pruned = self.model, plan.prune, plan.prune_groups, epoch
            self.masks.update(*pruned, self.curvature)
            self.curvature.watch(*pruned)
            self.average.prune(self.masks)
        bits = dict(plan.bits_at(epoch))
        if bits and self.bits != bits:
            self._quantize(bits)
        quantize.share_masks(self.model, self.masks.bits)
        self.oscillations.begin_epoch(self.model, epoch)

    def _quantize(self, bits: dict[str, LayerBits]) -> None:
        already, own = set(quantized_layers(self.model)), self.plan.bits or bits
        factors = precision_change.quantize_(self.model, own, bits, self.masks.bits)
        if set(quantized_layers(self.model)) > already:
            if self.watches_uses:
                weight_uses.watch_first_call(self.model, self.plan.rounded)
            watch_inputs(self.model)
            self._expect_steps()
        self.average.scale(factors)
        self.oscillations.restart()
        self.bits = bits

    def train_steps(self, optimizer: torch.optim.Optimizer, schedulers: Iterable[Any] = ()) -> None:
        """Let an optimizer train the learned steps; see ``TrainedParameters.train_steps``."""
        super().train_steps(optimizer, schedulers)
        self.curvature.follow(self.model, optimizer)

    def step(self) -> None:
        """Keep pruned weights at zero and move the average, after a step of the optimizer.

        Raises:
            UserError: no epoch has begun, no optimizer is known that has the network's learned
                steps, or whose gradients masks are to be chosen by, the loss lacks
                ``dampening_loss``, or a learned step or offset is none any more; on a device that
                is found some steps later.
        """
        if self.epoch < 0:
            raise UserError("step comes before begin_epoch: call begin_epoch before each epoch")
        self._require_steps()
        if not self.curvature.is_fed:
            raise UserError(
                "masks of second order are chosen by the gradients of an optimizer: give it to "
                "begin_epoch"
            )
        self.oscillations.require_loss()
        if distributed.is_several():
            self._agree_on_steps()
        self.num_updates += 1
        self._steps_in_epoch += 1
        self.update(self.num_updates)
        self._watch.look(self.model, self.num_updates)

    def update(self, number: int, share: Tensor | None = None) -> None:
        """Do what ``step`` does to tensors; see ``ModelEma.update``."""
        self.masks.apply_(self.model)
        self.oscillations.update()
        self.average.update(self.model, number, share)

    @property
    def progress(self) -> float:
        """Epochs since the start, with the part of the one that is being trained.

        Raises:
            UserError: ``compress`` was not told the number of steps in an epoch.
        """
        if self.steps_per_epoch is None:
            raise UserError("progress needs the number of steps: compress(steps_per_epoch=...)")
        return max(self.epoch, 0) + self._steps_in_epoch / self.steps_per_epoch

    @contextlib.contextmanager
    def features(self, teacher: Teacher | nn.Module | None) -> Iterator[None]:
        """Watch both networks for ``distillation_loss``, where the recipe distills features.

        Both are called inside, once for each loss; before the section's ``start_epoch``, and
        without a teacher, nothing is watched.

        Args:
            teacher: that the student's loss is computed with.
        """
        if self.plan.features is None or teacher is None or not self.plan.distills(self.epoch):
            yield
            return
        network = custom.innermost(teacher.model if isinstance(teacher, Teacher) else teacher)
        with Features(self.plan.features, self.model, network).watched() as self._features:
            try:
                yield
            finally:
                self._features = None

    def distillation_loss(self, student: Tensor, teacher: Tensor | None, labels: Tensor) -> Tensor:
        """Return the loss that the recipe's ``distill`` section means; see ``distillation_loss``.

        It is the cross entropy before the section's ``start_epoch``, and without a section or a
        teacher. Of a recipe that distills features it is called within ``features``.

        Args:
            student: logits, shape (batch, classes).
            teacher: logits, shape (batch, classes); None where there is none.
            labels: class indices (batch,), or shares of classes (batch, classes).

        Raises:
            UserError: the recipe distills features, and they were not watched, or differ in shape.
        """
        section = self.plan.distill if self.plan.distills(self.epoch) else None
        smoothing = self._train.label_smoothing if self._train is not None else 0.0
        taught = None if teacher is None else teacher.float()
        loss = section_loss(student.float(), taught, labels, section, smoothing)
        if self.plan.features is None or section is None or teacher is None:
            return loss
        if self._features is None:
            raise UserError(
                "the recipe distills features: call both networks and distillation_loss inside of "
                "`with compression.features(teacher):`"
            )
        return loss + self._features.loss()

    def dampening_loss(self) -> Tensor:
        """Return the loss that the recipe's ``quantize.oscillations.dampen`` adds, a scalar."""
        return self.oscillations.loss()

    @contextlib.contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Give the network the average of its weights, where there is one, and its own back."""
        with self.average.in_place(self.model):
            yield self.model

    def reestimate_(
        self, batches: Iterable[Any], *, forward: Callable[[Any], object] | None = None
    ) -> None:
        """Compute the statistics of normalization anew over batches; see ``reestimate_``.

        They are those of the network that ``averaged`` gives; where there is an average it keeps
        them, and the network's own stay as they are. Training goes on from them: its steps
        normalize by their own batches.

        Args:
            batches: of training; at most the recipe's ``train.reestimate_batches`` of them are
                taken, all where that is 0.
            forward: calls the network with a batch, where it takes something else.
        """
        check_several(batches, "reestimate_")
        most = self._train.reestimate_batches if self._train is not None else 0
        with self.averaged() as model:
            reestimate_(model, itertools.islice(batches, most or None), forward=forward)
            self.average.take_statistics(model)

    def verify(self) -> None:
        """Hold what quantizers know to what they can compute with; waits for the device.

        Raises:
            UserError: a range of activations is not finite, a learned step is not positive and
                finite, or a learned offset is not finite.
        """
        require_sound_quantizers(self.model)

    def report(self) -> Report:
        """Return what becomes of each layer: its precision, its zeros, and why it is in float."""
        bits = self.bits or self.plan.bits
        rows = conversion.report(self.model, bits) if bits else []
        return Report(tuple(rows), prune.zeros(self.model, self.masks.bits))

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the network's own state does not hold: tensors and plain data.

        ``torch.load(..., weights_only=True)`` reads it back.
        """
        tensors = self.average.tensors, self.oscillations.state()
        counts = self.epoch, self.num_updates, self._steps_in_epoch
        curvature = self.curvature.tensors
        return CompressionState(self.bits, self.masks, *tensors, *counts, curvature).to_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state, whose layers are put in place.

        Load the network's own state and make the optimizer afterwards, by ``parameter_groups``:
        both have what belongs to quantized layers then.

        Raises:
            UserError: the state is of another network or another recipe.
        """
        new = CompressionState.read(state)
        layers = architectures.layers(self.model)
        for name in new.bits:
            if name not in layers:
                raise UserError(f"this is a state of another network, with a layer {name!r}")
        if new.bits and self.plan.bits and new.bits not in self.plan.precisions:
            raise UserError("the state was quantized at other bits or steps than the recipe's")
        if not (new.bits and self.bits in self.plan.precisions):
            check_kept(new.bits, self.bits, "this is a state of another network: ")
        new.masks.check(self.model)
        if new.bits and new.bits != self.bits:
            self._quantize(new.bits)
        self.masks = new.masks
        self.masks.apply_(self.model)
        self.masks.attach(self.model)
        self.curvature.load(self.model, new.curvature)
        quantize.share_masks(self.model, self.masks.bits)
        try:
            self.average.load(self.model, new.average)
            self.oscillations.load(self.model, new.oscillations, new.epoch)
        except (KeyError, RuntimeError) as error:
            raise UserError(f"the state's tensors are of another network: {error}") from None
        self.epoch, self.num_updates = new.epoch, new.num_updates
        self._steps_in_epoch, self._watch = new.steps_in_epoch, LearnedWatch()

    def __repr__(self) -> str:
        """Return for example ``Compression(ResNet, epoch=3, num_updates=512)``."""
        shown = f"epoch={self.epoch}, num_updates={self.num_updates}"
        return f"{type(self).__name__}({type(self.model).__name__}, {shown})"
