"""Networks drawn at random, whole ones and faulty ones: ``random_networks:KIND_SEED``.

The same name always gives the same network, so that a later command finds the one that was trained.
"""

import functools
import random
import sys

import torch
import torch.nn.functional as F
from torch import nn

SIDES = (1, 2, 5, 8, 12)


def __getattr__(name):
    kind, _, seed = name.rpartition("_")
    if kind not in KINDS or not seed.isdigit():
        raise AttributeError(name)
    return functools.partial(network, kind, int(seed))


def side_of(seed):
    """The side of the images that a network is made for."""
    return random.Random(seed).choice(SIDES)


def network(kind, seed, num_classes=1000):
    chance = random.Random(seed)
    side = chance.choice(SIDES)
    parts, x = [], torch.zeros(2, 3, side, side)
    with torch.no_grad():
        while len(parts) < 12 and chance.random() < 0.85:
            part = chance.choice(PARTS)(x.shape[1], chance)
            try:
                x = part(x)
            except (RuntimeError, ValueError):
                # It does not take what came before it: another one will.
                continue
            parts.append(part)
        parts += chance.choice(HEADS)(x, num_classes)
    return KINDS[kind](nn.Sequential(*parts), chance)


class Apply(nn.Module):
    """A function as a module, as the body of somebody's ``forward`` would use it."""

    def __init__(self, function, *inner):
        super().__init__()
        self.function, self.inner = function, nn.ModuleList(inner)

    def forward(self, x):
        return self.function(x, *self.inner)


def conv(channels, chance):
    groups = chance.choice([1, 1, 1, channels])
    return nn.Conv2d(
        channels,
        groups * chance.randint(1, 6),
        chance.choice([1, 2, 3, 3, 5]),
        stride=chance.choice([1, 1, 2, 9]),
        padding=chance.choice([0, 1, 2]),
        dilation=chance.choice([1, 1, 2]),
        groups=groups,
        bias=chance.random() < 0.5,
        padding_mode=chance.choice(["zeros", "zeros", "zeros", "circular", "reflect"]),
    )


def normalized(channels, chance):
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()
    )


def residual(channels, chance):
    inner = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))
    in_place = chance.random() < 0.3
    return Apply(lambda x, f: f(x).add_(x) if in_place else F.relu(x + f(x)), inner)


def gate(channels, chance):
    return Apply(
        lambda x, f: x * torch.sigmoid(f(F.adaptive_avg_pool2d(x, 1))),
        nn.Conv2d(channels, channels, 1),
    )


def branches(channels, chance):
    pair = nn.Conv2d(channels, 2, 1), nn.Conv2d(channels, 3, 3, padding=1)
    return Apply(lambda x, a, b: torch.cat([a(x), b(x)], 1), *pair)


def keyword(channels, chance):
    return Apply(lambda x, f: f(input=x), nn.Conv2d(channels, 4, 3, padding=1))


def norm(channels, chance):
    kinds = [nn.BatchNorm2d(channels), nn.GroupNorm(1, channels), nn.InstanceNorm2d(channels)]
    return chance.choice(kinds)


def activation(channels, chance):
    kinds = [nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Sigmoid, nn.LeakyReLU, nn.PReLU]
    return chance.choice(kinds)()


def pool(channels, chance):
    kinds = [nn.MaxPool2d(2), nn.AvgPool2d(2, ceil_mode=True), nn.AdaptiveAvgPool2d(2)]
    return chance.choice(kinds)


def other(channels, chance):
    kinds = [
        nn.Dropout(0.2),
        nn.Identity(),
        nn.ConvTranspose2d(channels, 3, 2),
        nn.Upsample(scale_factor=2),
        Apply(lambda x: x.flip(1)),
        Apply(lambda x, f: F.relu(f(x), inplace=True), nn.Conv2d(channels, 3, 1)),
        Apply(lambda x: x - x.mean(dim=1, keepdim=True)),
    ]
    return chance.choice(kinds)


PARTS = (conv, conv, normalized, residual, gate, branches, keyword, norm, activation, pool, other)


def averaged(x, classes):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(x.shape[1], classes)]


def by_mean(x, classes):
    return [Apply(lambda x: x.mean((2, 3))), nn.Linear(x.shape[1], classes)]


def squeezed(x, classes):
    if x.shape[1] == 1:
        return averaged(x, classes)
    return [
        nn.AdaptiveAvgPool2d(1),
        Apply(lambda x: x.squeeze()),
        nn.Linear(x.shape[1], classes),
    ]


def viewed(x, classes):
    features = x[0].numel()
    return [Apply(lambda x: x.view(x.size(0), -1)), nn.Linear(features, classes)]


def linear(x, classes):
    features = x[0].numel()
    return [nn.Flatten(), nn.Linear(features, 9), nn.ReLU(), nn.Linear(9, classes)]


def convolved(x, classes):
    return [nn.Conv2d(x.shape[1], classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def log_probabilities(x, classes):
    return [*averaged(x, classes), nn.LogSoftmax(dim=1)]


HEADS = (averaged, by_mean, squeezed, viewed, linear, convolved, log_probabilities)


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
