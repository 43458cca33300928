"""Accuracy in whole images, with a stated rule for ties."""

import pytest
import torch
from torch import nn

from micronet.training.evaluation import evaluate
from micronet.utils.errors import UserError


class Fixed(nn.Module):
    """Returns its input's first row of pixels as logits."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x[:, 0, 0, :]


def images(rows):
    return torch.tensor(rows, dtype=torch.float32)[:, None, None, :]


def test_counts_images_whatever_the_batch_size():
    logits = torch.randn(101, 1, 1, 7)
    labels = torch.randint(0, 7, (101,))
    whole = evaluate(Fixed(), [(logits, labels)])
    parts = evaluate(Fixed(), zip(logits.split(8), labels.split(8), strict=True))
    assert (whole.correct, whole.correct5, whole.total) == (parts.correct, parts.correct5, 101)
    assert whole.correct == int((logits[:, 0, 0].argmax(1) == labels).sum())
    top5 = logits[:, 0, 0].topk(5).indices
    assert whole.correct5 == int((top5 == labels[:, None]).sum())


def test_tie_goes_to_the_lowest_class_and_is_counted():
    x = images([[1, 3, 3], [3, 3, 0], [0, 1, 2]])
    accuracy = evaluate(Fixed(), [(x, torch.tensor([2, 0, 2]))])
    assert (accuracy.correct, accuracy.ties, accuracy.total) == (2, 2, 3)


def test_nan_logits_are_wrong():
    x = images([[float("nan"), 1, 2]])
    for label in range(3):
        assert evaluate(Fixed(), [(x, torch.tensor([label]))]).correct == 0


def test_the_mode_of_each_module_is_restored():
    model = nn.Sequential(nn.BatchNorm2d(1), Fixed()).train()
    model[0].eval()
    evaluate(model, [(images([[1, 2]]), torch.tensor([1]))])
    assert [model.training, model[0].training, model[1].training] == [True, False, True]
    with pytest.raises(UserError, match="a label is -1"):
        evaluate(model, [(images([[1, 2]]), torch.tensor([-1]))])
    assert [model.training, model[0].training, model[1].training] == [True, False, True]


@pytest.mark.parametrize(
    "labels, match",
    [
        (torch.tensor([0]), r"for each of 2 images, not int64 of shape \(1,\)"),
        (torch.tensor([[0], [1]]), r"int64 of shape \(2, 1\)"),
        (torch.tensor([0.0, 1.0]), "float32"),
        (torch.tensor([0, 9]), "knows 3 classes"),
    ],
)
def test_labels_that_are_no_class_indices_are_refused(labels, match):
    with pytest.raises(UserError, match=match):
        evaluate(Fixed(), [(images([[1, 2, 3], [1, 2, 3]]), labels)])


def test_labels_of_any_integers_and_empty_batches():
    x = images([[1, 2, 3], [3, 2, 1]])
    for kind in (torch.uint8, torch.int32):
        batches = [(x[:0], torch.zeros(0, dtype=kind)), (x, torch.tensor([2, 2], dtype=kind))]
        accuracy = evaluate(Fixed(), batches)
        assert (accuracy.correct, accuracy.total) == (1, 2)


def test_vectors_are_classified():
    vectors = torch.randn(6, 5)
    model = nn.Linear(5, 3)
    accuracy = evaluate(model, [(vectors, model(vectors).argmax(1))])
    assert (accuracy.correct, accuracy.total) == (6, 6)
