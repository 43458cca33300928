"""Knowledge distillation from a frozen teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from micronet.recipe.schema import DistillSection
from micronet.utils.errors import UserError


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    student_weight: float,
    distill_weight: float | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return ``w*CE + d*T^2*KL(softmax(teacher/T) || softmax(student/T))``, batch mean.

    Source: Hinton et al. 2015, section 2.1. The gradient reaches the student through both terms
    and the teacher through neither.

    Args:
        student: logits, shape (batch, classes).
        teacher: logits, shape (batch, classes).
        labels: class indices (batch,), or shares of classes (batch, classes).
        temperature: ``T > 0``.
        student_weight: ``w`` in [0, 1].
        distill_weight: ``d``; ``1 - w`` where it is None.
        label_smoothing: of the cross entropy.

    Raises:
        UserError: the logits are not of these shapes, which torch might broadcast, or the
            temperature is not positive.
    """
    if student.dim() != 2 or student.shape != teacher.shape:
        raise UserError(
            f"logits of student and teacher are (batch, classes) alike, not {tuple(student.shape)} "
            f"and {tuple(teacher.shape)}"
        )
    if not temperature > 0:
        raise UserError(f"temperature {temperature} of a distillation is not above 0")
    hard = F.cross_entropy(student, labels, label_smoothing=label_smoothing)
    soft = F.kl_div(
        F.log_softmax(student / temperature, dim=1),
        F.log_softmax(teacher.detach() / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    weight = 1.0 - student_weight if distill_weight is None else distill_weight
    return student_weight * hard + weight * temperature**2 * soft


def section_loss(
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor,
    section: DistillSection | None,
    label_smoothing: float,
) -> Tensor:
    """Return the loss that a recipe means: distilled, or where nothing is, the cross entropy.

    Args:
        student: logits, shape (batch, classes).
        teacher: logits, shape (batch, classes).
        labels: class indices (batch,), or shares of classes (batch, classes).
        section: of the recipe.
        label_smoothing: of the cross entropy.
    """
    if section is None or teacher is None:
        return F.cross_entropy(student, labels, label_smoothing=label_smoothing)
    return distillation_loss(
        student,
        teacher,
        labels,
        temperature=section.temperature,
        student_weight=section.student_weight,
        distill_weight=section.distill_weight,
        label_smoothing=label_smoothing,
    )


class Teacher:
    """A frozen network in evaluation mode: its BatchNorm statistics never move."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits of a batch, shape (batch, classes)."""
        return self.model(images)
