"""Networks of a user's own, faulty and unusual ones, and what a command says of them."""

import yaml

SOURCE = """
import sys

import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self, classes, channels=3, out=lambda net, y: y, inside=lambda net, x: x):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(channels, 8, 3, padding=1, stride=2), nn.Linear(8, classes)
        self.out, self.inside, self.calls = out, inside, 0

    def forward(self, x):
        self.calls += 1
        x = self.inside(self, F.relu(self.conv(x)))
        return self.out(self, self.fc(x.mean((2, 3))))


def fail(error):
    raise error


def out(change):
    return lambda num_classes: Net(num_classes, out=change)


def inside(change):
    return lambda num_classes: Net(num_classes, inside=change)


def unused(num_classes):
    net = Net(num_classes)
    net.head = nn.Linear(8, 3)
    return net


def not_finite(num_classes):
    net = Net(num_classes)
    nn.init.constant_(net.fc.bias, float("nan"))
    return net


class View(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.fc = nn.Linear(8 * 8 * 8, num_classes)

    def forward(self, x):
        assert x.is_contiguous(), "images are not contiguous"
        x = F.relu(self.conv(x))
        return self.fc(x.view(x.size(0), -1))


class Squeezed(Net):
    def forward(self, x):
        x = F.adaptive_avg_pool2d(F.relu(self.conv(x)), 1).squeeze()
        return self.fc(x)


def squeezed(num_classes):
    return Squeezed(num_classes)


def mlp(num_classes):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(),
        nn.Linear(32, num_classes),
    )


def convolutions(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes),
    )


def compiled(num_classes):
    return torch.compile(convolutions(num_classes))


def compiled_in_place(num_classes):
    net = convolutions(num_classes)
    net.compile()
    return net


def compiled_part(num_classes):
    net = convolutions(num_classes)
    net[0] = torch.compile(net[0])
    return net


def compiled_method(num_classes):
    net = convolutions(num_classes)
    net.forward = torch.compile(net.forward)
    return net


def decorated(num_classes):
    class Decorated(nn.Sequential):
        forward = torch.compile(nn.Sequential.forward)

    return Decorated(*convolutions(num_classes))


def parallel(num_classes):
    return torch.compile(nn.DataParallel(convolutions(num_classes)))


def normalized_at_one_pixel(num_classes):
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Flatten(),
        nn.Linear(8, num_classes),
    )


def third_batch(num_classes):
    calls = []

    def count(net, x):
        calls.append(len(x))
        # Passes over whole batches: a trial's are of two images.
        return fail(KeyError("third")) if calls.count(400) == 3 else x

    return Net(num_classes, inside=count)


def depths(num_classes):
    rates = [rate.item() for rate in torch.linspace(0, 0.1, 3)]
    return nn.Sequential(nn.Dropout(rates[1]), *convolutions(num_classes))


def group_norm(num_classes):
    return nn.Sequential(nn.GroupNorm(1, 3), *convolutions(num_classes))


def group_norm_of_a_pixel(num_classes):
    return nn.Sequential(nn.AvgPool2d(16), nn.GroupNorm(1, 3), *convolutions(num_classes))


class Stateful(Net):
    def __init__(self, num_classes, state):
        super().__init__(num_classes)
        self.state = state

    def get_extra_state(self):
        return self.state()

    def set_extra_state(self, state):
        pass


def with_buffer(buffer):
    def make(num_classes):
        net = Net(num_classes)
        net.register_buffer("kept", buffer(net))
        return net

    return make


the_only_one = Net(10)
NETS = {
    "one_channel": lambda num_classes: Net(num_classes, channels=1),
    "too_few": lambda num_classes: Net(2),
    "too_many": lambda num_classes: Net(1000),
    "no_parameters": lambda num_classes: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "frozen": lambda num_classes: Net(num_classes).requires_grad_(False),
    "auxiliary": out(lambda net, y: (y, y) if net.training else y),
    "auxiliary_in_evaluation": out(lambda net, y: y if net.training else [y]),
    "dictionary": out(lambda net, y: {"logits": y}),
    "nothing": out(lambda net, y: None),
    "scalar": out(lambda net, y: y.sum()),
    "whole_numbers": out(lambda net, y: y.argmax(1)),
    "complex_numbers": out(lambda net, y: y.to(torch.complex64)),
    "one_row": out(lambda net, y: y[:1]),
    "maps": out(lambda net, y: y[..., None, None]),
    "detached": out(lambda net, y: y.detach()),
    "constant": out(lambda net, y: torch.zeros_like(y)),
    "type_error": inside(lambda net, x: x + "x"),
    "attribute_error": inside(lambda net, x: net.missing(x)),
    "key_error": inside(lambda net, x: {}["k"]),
    "assertion_error": inside(lambda net, x: fail(AssertionError())),
    "two_lines": inside(lambda net, x: fail(RuntimeError("one\\ntwo"))),
    "leaves": inside(lambda net, x: sys.exit(0)),
    "recursion": inside(lambda net, x: net(x[:, :3])),
    "in_place": inside(lambda net, x: x.sigmoid().mul_(x).sigmoid_() * x.sigmoid_()),
    "lazy": lambda num_classes: nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes)),
    "script": lambda num_classes: torch.jit.script(mlp(num_classes)),
    "leaving_at_once": lambda num_classes: sys.exit(0),
    "extra_state": lambda num_classes: Stateful(num_classes, lambda: {"calls": 3}),
    "broken_state": lambda num_classes: Stateful(num_classes, lambda: fail(OSError("x"))),
    "sparse": with_buffer(lambda net: torch.eye(3).to_sparse()),
    "double_complex": with_buffer(lambda net: torch.zeros(3, dtype=torch.complex128)),
    "part_of_another": with_buffer(lambda net: net.fc.weight.detach()[:3]),
}
globals().update(NETS)
"""
SMALL = ["--image-size", "16", "--batch-size", "500", "--threads", "1", "--epochs", "1"]
QUANTIZE = {"quantize": {"weights": {"bits": 4}, "activations": {"bits": 4}}}


def half(*layers):
    """A recipe that prunes half of the weights of these layers, else of all."""
    group = {"layers": [*layers] or ["*"], "final_sparsity": 0.5}
    return {"prune": {"method": "one-shot", "groups": [group]}}


def written(tmp_path, recipe):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


def refused(program, arguments, capsys):
    """Return the sentence in which a command refuses."""
    capsys.readouterr()
    assert program([str(argument) for argument in arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1, message
    assert "Traceback" not in message
    return message
