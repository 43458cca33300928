"""How a layer's output comes about, and what reads it after a user's code had it."""

import torch
import torch.nn.functional as F
from torch import nn

CHANNELS = 6

# States ------------------------------------------------------------------------------------------


def _conv(kernel=3, bias=False, **more):
    padding = more.pop("padding", kernel // 2)
    return nn.Conv2d(CHANNELS, CHANNELS, kernel, padding=padding, bias=bias, **more)


class State(nn.Module):
    """The layers that a state is made of; `kind` says what is called on them."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        more = {
            "depthwise": {"groups": CHANNELS},
            "same": {"padding": "same"},
            "reflect": {"padding_mode": "reflect"},
            "strided": {"stride": 2},
        }.get(kind, {})
        self.conv = _conv(bias=kind in ("bias", "sigmoid", "gated by itself"), **more)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.other = _conv(1, bias=True)

    def forward(self, x):
        y = self.conv(x)
        return AFTER[self.kind](self, y) if self.kind in AFTER else y

    def gate(self, h):
        """Squeeze and excite."""
        return torch.sigmoid(self.other(F.adaptive_avg_pool2d(h, 1)))


AFTER = {
    "relu alone": lambda state, y: F.relu(y),
    "sigmoid": lambda state, y: torch.sigmoid(y),
    "gated by itself": lambda state, y: y * state.gate(y),
    "norm": lambda state, y: state.norm(y),
    "norm relu": lambda state, y: F.relu(state.norm(y)),
    "norm relu in place": lambda state, y: F.relu(state.norm(y), inplace=True),
    "norm silu": lambda state, y: F.silu(state.norm(y)),
    "norm silu gate": lambda state, y: (h := F.silu(state.norm(y))) * state.gate(h),
}


STATES = ("plain", "bias", "strided", "depthwise", "same", "reflect", *AFTER)

# Tails -------------------------------------------------------------------------------------------


class Tail(nn.Module):
    """What reads the tensor after the action."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.norm, self.conv = nn.BatchNorm2d(CHANNELS), _conv(1)

    def forward(self, h):
        kind = self.kind
        if kind == "itself" or h.dim() != 4 or h.shape[1] != CHANNELS:
            return h
        if h[:, 0].numel() < 8:
            # The statistics of two values make every error of their difference a large one.
            return h
        if kind == "silu":
            return F.silu(h)
        if kind == "norm":
            return self.norm(h)
        if kind == "codes":
            return self.conv(h)
        if kind == "norm relu codes":
            return self.conv(F.relu(self.norm(h)))
        if kind == "codes and addition":
            return self.conv(h) + h
        assert kind == "means and gate"
        return h * torch.tanh(h.mean((2, 3), keepdim=True))


TAILS = (
    "itself",
    "silu",
    "norm",
    "codes",
    "norm relu codes",
    "codes and addition",
    "means and gate",
)
