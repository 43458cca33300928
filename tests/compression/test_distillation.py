"""The distillation loss: the reference's numbers, the closed-form gradient, a frozen teacher."""

import pytest
import torch
from torch import nn

from micronet.compression.distillation import Teacher, distillation_loss


def test_reference_loss_and_gradient(goldens):
    tags = {key.split("/")[1] for key in goldens if key.startswith("distill/")}
    assert len(tags) == 3
    for tag in tags:
        g = {k: goldens[f"distill/{tag}/{k}"] for k in ("student", "teacher")}
        labels = goldens[f"distill/{tag}/labels"]
        temperature, weight = (float(part[1:]) for part in tag.split("_"))
        student = g["student"].requires_grad_()
        loss = distillation_loss(
            student, g["teacher"], labels, temperature=temperature, student_weight=weight
        )
        loss.backward()
        expected = float(goldens[f"distill/{tag}/loss"])
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-6)
        torch.testing.assert_close(
            student.grad, goldens[f"distill/{tag}/grad"], rtol=1e-5, atol=1e-7
        )


@pytest.mark.parametrize("temperature,weight", [(1.0, 0.5), (2.0, 0.3), (4.0, 0.0), (3.0, 1.0)])
def test_gradient_is_the_closed_form(temperature, weight):
    """dL/dz = w(p - y)/B + (1-w) T (softmax(z/T) - softmax(t/T))/B, in float64."""
    student = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 5, (7,))
    distillation_loss(
        student, teacher, labels, temperature=temperature, student_weight=weight
    ).backward()
    z, t = student.detach(), teacher.detach()
    hard = z.softmax(1) - nn.functional.one_hot(labels, 5)
    soft = (z / temperature).softmax(1) - (t / temperature).softmax(1)
    expected = (weight * hard + (1 - weight) * temperature * soft) / 7
    # Either side rounds a handful of float64 operations on numbers below 4.
    torch.testing.assert_close(student.grad, expected, rtol=0, atol=64 * 2.0**-52)
    assert teacher.grad is None
    if weight < 1:
        assert soft.abs().max() > 0 and student.grad.abs().max() > 0


def test_teacher_is_frozen_in_evaluation_mode():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    teacher = Teacher(model.train())
    images = torch.randn(4, 1, 3, 3)
    logits = teacher(images)
    assert not logits.requires_grad and torch.equal(logits, teacher(images))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_two_weights_are_independent():
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    labels = torch.randint(5, (6,))
    hard, soft, both, usual = (
        distillation_loss(student, teacher, labels, temperature=3.0, **weights)
        for weights in (
            {"student_weight": 1.0, "distill_weight": 1e-30},
            {"student_weight": 0.0, "distill_weight": 1.0},
            {"student_weight": 0.25, "distill_weight": 4.0},
            {"student_weight": 0.25},
        )
    )
    torch.testing.assert_close(hard, torch.nn.functional.cross_entropy(student, labels))
    torch.testing.assert_close(both, 0.25 * hard + 4.0 * soft)
    torch.testing.assert_close(usual, 0.25 * hard + 0.75 * soft)
