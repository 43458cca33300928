"""What is made of a network that was drawn: whole ones, faulty ones, and what may be either."""

import random
import sys

import torch
from torch import nn

from network_parts import Apply


class Faulty(nn.Module):
    """A network with something done before or after it."""

    def __init__(self, body, act):
        super().__init__()
        self.body, self.act, self.calls = body, act, 0

    def forward(self, x):
        self.calls += 1
        return self.act(self, x)


def after(change):
    """Networks that return something made of their logits."""
    return lambda body, chance: Faulty(body, lambda self, x: change(self, self.body(x)))


class Odd(Exception):
    """An exception that cannot even say what it is."""

    def __str__(self):
        raise ValueError("no text")


ERRORS = (
    *(
        RuntimeError("two\nlines"),
        TypeError("x"),
        AttributeError(),
        KeyError("k"),
        AssertionError(),
    ),
    *(ValueError("v" * 9999), IndexError(), NotImplementedError(), ZeroDivisionError(), OSError(2)),
    *(SystemExit(0), SystemExit("bye"), StopIteration(), MemoryError(), UnicodeError(), Odd()),
    *(ImportError("i"), NameError("n"), RecursionError(), EOFError(), torch.OutOfMemoryError("o")),
)


def stop(error):
    raise error


def raising_in_init(body, chance):
    stop(chance.choice(ERRORS))


def raising(body, chance):
    error = chance.choice(ERRORS)
    return Faulty(body, lambda self, x: stop(error))


def raising_in(training):
    def make(body, chance):
        error = chance.choice(ERRORS)
        return Faulty(
            body, lambda self, x: stop(error) if self.training is training else self.body(x)
        )

    return make


def raising_later(body, chance):
    """Fails in a step, after so many passes as no trial makes; the count is global on purpose."""
    error, calls = chance.choice(ERRORS), []

    def act(self, x):
        calls.append(None)
        return stop(error) if len(calls) > 60 else self.body(x)

    return Faulty(body, act)


def endless(body, chance):
    def act(self, x):
        return act(self, x)

    return Faulty(body, act)


class BrokenBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise KeyError("gradient")


def with_unused(body, chance):
    model = Faulty(body, lambda self, x: self.body(x))
    model.unused = chance.choice([nn.Conv2d(3, 3, 3), nn.Linear(4, 4), nn.BatchNorm2d(4)])
    return model


def not_finite(body, chance):
    parameter = chance.choice(list(body.parameters()))
    with torch.no_grad():
        parameter.view(-1)[-1] = chance.choice([float("nan"), float("inf")])
    return body


def half_frozen(body, chance):
    next(body.parameters()).requires_grad_(False)
    return body


class ExtraState(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def get_extra_state(self):
        return {"calls": 3}

    def set_extra_state(self, state):
        pass

    def forward(self, x):
        return self.body(x)


def counting(body, chance):
    """What a pass leaves behind: random numbers drawn, a counter, a buffer, a new attribute."""

    def act(self, x):
        random.random()
        torch.rand(3)
        self.count += 1
        self.seen = x.shape
        return self.body(x)

    model = Faulty(body, act)
    model.register_buffer("count", torch.zeros((), dtype=torch.int64))
    return model


def noisy(body, chance):
    return Faulty(body, lambda self, x: self.body(x + 0.01 * torch.randn_like(x)))


def odd_output(body, chance):
    change = chance.choice(OUTPUTS)
    return after(lambda self, y: change(y))(body, chance)


def changing_output(body, chance):
    """Returns something else each time, so that a trial may see nothing of it."""

    def change(self, y):
        return y if chance.random() < 0.8 else chance.choice(OUTPUTS)(y)

    return after(change)(body, chance)


OUTPUTS = (
    *(lambda y: (y, y), lambda y: [y], lambda y: {"logits": y}, lambda y: None, lambda y: "logits"),
    *(
        lambda y: y.sum(),
        lambda y: y.argmax(1),
        lambda y: y.to(torch.complex64),
        lambda y: y[:, :1],
    ),
    *(lambda y: y[..., None, None], lambda y: y.T, lambda y: y[:0], lambda y: y.detach()),
    *(
        lambda y: y.tolist(),
        lambda y: y.numpy(force=True),
        lambda y: torch.cat([y, y]),
        lambda y: 3,
    ),
    *(
        lambda y: torch.zeros_like(y),
        lambda y: y > 0,
        lambda y: iter([y]),
        lambda y: torch.cat([y, y], 1),
    ),
)

# Whole ones train, faulty ones are refused before anything is written; what else there is may
# do either, in one sentence.
WHOLE = {
    "whole": lambda body, chance: body,
    "half_frozen": half_frozen,
    "unused": with_unused,
    "compiled": lambda body, chance: torch.compile(body),
    "compiled_inside": lambda body, chance: Faulty(torch.compile(body), lambda s, x: s.body(x)),
    "parallel": lambda body, chance: nn.DataParallel(body),
    "counting": counting,
    "noisy": noisy,
}
FAULTY = {
    "raising_in_init": raising_in_init,
    "raising": raising,
    "raising_in_training": raising_in(True),
    "raising_in_evaluation": raising_in(False),
    "endless": endless,
    "broken_backward": after(lambda self, y: BrokenBackward.apply(y)),
    "odd_output": odd_output,
    "odd_in_evaluation": after(lambda self, y: y if self.training else (y,)),
    "not_finite": not_finite,
    "frozen": lambda body, chance: body.requires_grad_(False),
    "no_parameters": lambda body, chance: Apply(lambda x: x.mean((2, 3))),
    "no_gradient": lambda body, chance: Faulty(body, lambda s, x: torch.no_grad()(s.body)(x)),
    "extra_state": lambda body, chance: ExtraState(body),
    "lazy": lambda body, chance: nn.Sequential(nn.Flatten(), nn.LazyLinear(2)),
    "doubles": lambda body, chance: body.double(),
    "script": lambda body, chance: torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(3, 2))),
    "no_network": lambda body, chance: chance.choice([None, 3, "net", nn.Linear, [body]]),
    "flat_batch_norm": lambda body, chance: nn.Sequential(body, Apply(torch.flatten)),
    "exits": lambda body, chance: Faulty(body, lambda self, x: sys.exit(0)),
}
EITHER = {"raising_later": raising_later, "changing_output": changing_output}
KINDS = WHOLE | FAULTY | EITHER
