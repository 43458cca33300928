"""Features distilled beside logits: the distance, whose modules, what stays, what is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import micronet
from compressed import BOTH, PRUNE, Small, recipe, small
from micronet.compression.features import distance
from micronet.utils.errors import UserError

FEATURES = {"features": ["first", "second.0"], "feature_weight": 0.5}


def distilling(student=None, quantize=None, **distill):
    """A compression in its first epoch, and a teacher."""
    plan = recipe(distill={**FEATURES, **distill}, **({"quantize": quantize} if quantize else {}))
    model = student or small()
    compression = micronet.compress(model, plan)
    compression.begin_epoch()
    model.train()
    return compression, micronet.Teacher(small(7))


def loss_of(compression, teacher, images, labels):
    with compression.features(teacher):
        logits = compression.model(images)
        return compression.distillation_loss(logits, teacher(images), labels)


def outputs_of(model, images):
    """What Small computes, as its definition says."""
    first = model.first(images)
    middle = model.second[0](first)
    end = model.fc(model.second[2](model.second[1](middle)).mean((2, 3)))
    return first, middle, end


def hooks_of(*models):
    return [h for model in models for m in model.modules() for h in m._forward_hooks.values()]


def test_a_distance_is_a_share_of_the_teacher_s_mean_square():
    student, teacher = torch.randn(4, 3, 5), torch.randn(4, 3, 5)
    expected = ((student - teacher) ** 2).mean() / (teacher**2).mean()
    torch.testing.assert_close(distance(student, teacher), expected)
    # Layers count alike, however large their values are: a power of two moves no bit.
    assert torch.equal(distance(64 * student, 64 * teacher), distance(student, teacher))
    nothing = torch.zeros(4, 3, 5)
    assert torch.equal(distance(student, nothing), F.mse_loss(student, nothing))
    assert float(distance(nothing, nothing)) == 0
    halves = distance(student.bfloat16(), teacher.bfloat16())
    assert halves.dtype == torch.float32


@pytest.mark.parametrize("quantize", [None, BOTH])
def test_loss_and_gradient_are_those_of_the_definition(quantize, batches):
    (images, labels), found = batches[0], []
    for by_hand in (False, True):
        compression, teacher = distilling(quantize=quantize)
        model = compression.model
        if by_hand:
            *ours, logits = outputs_of(model, images)
            *theirs, taught = outputs_of(teacher.model, images)
            loss = micronet.distillation_loss(
                logits, taught, labels, temperature=2.0, student_weight=0.3
            )
            loss = loss + 0.5 * torch.stack(list(map(distance, ours, theirs))).mean()
        else:
            loss = loss_of(compression, teacher, images, labels)
        loss.backward()
        gradients = [p.grad.clone() for p in model.parameters()]
        found.append((loss.detach(), gradients))
        assert all(p.grad is None for p in teacher.model.parameters())
    assert torch.equal(found[0][0], found[1][0])
    for one, two in zip(found[0][1], found[1][1], strict=True):
        # The sum of two gradients may be taken in either order.
        torch.testing.assert_close(one, two, rtol=2.0**-18, atol=2.0**-20)


def test_features_are_those_before_a_write_in_place(batches):
    (images, labels), losses = batches[0], []
    for in_place in (False, True):
        student, taught = small(), small(7)
        for model in (student, taught):
            model.first[2] = nn.ReLU(inplace=in_place)
        compression, _ = distilling(student, features=["first.1"])
        loss = loss_of(compression, micronet.Teacher(taught), images, labels)
        loss.backward()
        losses.append((loss.detach(), student.first[0].weight.grad))
    assert all(map(torch.equal, *losses))


def test_hooks_are_gone_whatever_happens(batches):
    compression, teacher = distilling()
    images, labels = batches[0]
    loss_of(compression, teacher, images, labels)
    assert hooks_of(compression.model, teacher.model) == []
    with pytest.raises(RuntimeError), compression.features(teacher):
        assert len(hooks_of(compression.model, teacher.model)) == 4
        compression.model(images[:, :2])
    assert hooks_of(compression.model, teacher.model) == []
    # Nothing of the failed call is left.
    assert torch.equal(
        loss_of(compression, teacher, images, labels), loss_of(compression, teacher, images, labels)
    )


def test_one_context_serves_many_batches_and_any_kind_of_teacher(batches):
    compression, teacher = distilling()
    apart = [loss_of(compression, teacher, *batch) for batch in batches]
    for given in (teacher, teacher.model, nn.DataParallel(teacher.model)):
        with compression.features(given):
            together = [
                compression.distillation_loss(compression.model(i), teacher(i), labels)
                for i, labels in batches
            ]
        assert all(map(torch.equal, apart, together))


def test_patterns_name_modules_of_any_kind():
    def names(student, *patterns):
        compression, _ = distilling(student, features=list(patterns))
        return compression.plan.features.names

    assert names(small(), "second", "first.*") == ("first.0", "first.1", "first.2", "second")
    assert names(small(), "re:(first|second)") == ("first", "second")
    assert names(small(), "fc", "fc", "f*c") == ("fc",)
    quantized = small()
    micronet.quantize_(quantized, 4, 4)
    # What a quantized layer is made of is no module of a teacher in float.
    assert names(quantized, "first.0*", "fc*") == ("first.0", "fc")


def test_nothing_is_distilled_before_its_epoch_or_without_a_teacher(batches):
    images, labels = batches[0]
    compression, teacher = distilling(start_epoch=1)
    with compression.features(teacher):
        assert hooks_of(compression.model) == []
        logits = compression.model(images)
        plain = compression.distillation_loss(logits, teacher(images), labels)
    assert torch.equal(plain, F.cross_entropy(logits, labels))
    compression.begin_epoch()
    assert not torch.equal(loss_of(compression, teacher, images, labels), plain)
    with compression.features(None):
        alone = compression.distillation_loss(compression.model(images), None, labels)
    assert torch.equal(alone, plain)


class Odd(Small):
    """Modules that a student may have, of which no features come."""

    def __init__(self):
        super().__init__()
        self.unused, self.several = nn.Identity(), nn.LSTM(8, 8)

    def forward(self, x):
        x = self.first(x)
        self.several(x.mean((2, 3)))
        return self.fc(self.second(x).mean((2, 3)))


def other(change):
    model = Odd()
    change(model)
    return model


REFUSED = {
    "the teacher has no module 'several'": ("several", lambda: small()),
    "module 'several' of the student returns tuple, no tensor": ("several", Odd),
    "module 'unused' was called 0 times in the student, 0 in the teacher": ("unused", Odd),
    r"module 'first' gives \(6, 8, 7, 7\) in the student, \(6, 8, 8, 8\) in the teacher": (
        "first",
        lambda: other(lambda m: m.first.__setitem__(0, nn.Conv2d(3, 8, 2))),
    ),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_compared_is_one_sentence(sentence, batches):
    name, teacher = REFUSED[sentence]
    compression, _ = distilling(Odd(), features=[name])
    with pytest.raises(UserError, match=f"distill.features: {sentence}"):
        loss_of(compression, micronet.Teacher(teacher()), *batches[0])
    assert hooks_of(compression.model) == []


def test_calls_that_do_not_agree_are_refused(batches):
    compression, teacher = distilling()
    images, labels = batches[0]
    with compression.features(teacher):
        logits = compression.model(images)
        compression.model(images)
        with pytest.raises(UserError, match="called 2 times in the student, 1 in the teacher"):
            compression.distillation_loss(logits, teacher(images), labels)
    with pytest.raises(UserError, match="the recipe distills features: call both networks"):
        compression.distillation_loss(logits, teacher(images), labels)


@pytest.mark.parametrize(
    "distill,sentence",
    [
        ({"features": ["first"]}, "distill.features needs distill.feature_weight"),
        ({"feature_weight": 1}, "distill.feature_weight needs distill.features"),
        ({**FEATURES, "feature_weight": 0}, "distill.feature_weight 0.0 is no positive number"),
        ({**FEATURES, "features": []}, "distill.features must be a list with at least one entry"),
        ({**FEATURES, "features": ["frist"]}, "distill.features.0.: 'frist' is no layer.*'first'"),
    ],
)
def test_a_recipe_says_both_keys_in_range(distill, sentence):
    with pytest.raises(UserError, match=sentence):
        micronet.compress(small(), recipe(distill=distill, prune=PRUNE))
