"""Small networks that a test spells out, and what they are billed."""

import torch
from torch import nn

import micronet.score as score


class Spelled(nn.Module):
    """A convolution to 8 channels of 4x4 pixels, what ``body`` does to them, and a convolution."""

    def __init__(self, body, last=None):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.body = body
        self.last = last or nn.Conv2d(8, 8, 3, padding=1, groups=2)

    def forward(self, x):
        return self.last(self.body(self.first(x)))


class With(nn.Module):
    """A function of itself and the image, with named members."""

    def __init__(self, function, **members):
        super().__init__()
        self.function = function
        for name, member in members.items():
            if isinstance(member, torch.Tensor) and not isinstance(member, nn.Parameter):
                self.register_buffer(name, member)
            else:
                setattr(self, name, member)

    def forward(self, x):
        return self.function(self, x)


def price(net, size=8):
    """Storage and operations, used and dense, of a float network without zeros."""
    counted = score.score_model(net, size, bits={}, sparsities={})
    rows = counted.rows()
    assert sum(row.storage for row in rows) == counted.storage
    assert sum(row.operations for row in rows) == counted.operations
    return (
        counted.storage,
        counted.storage_dense,
        counted.operations,
        counted.operations_dense,
    )


def net(body, **members):
    """A convolution to 8 channels of the image's size, and what ``body`` does to them."""
    return With(lambda m, x: body(m, m.conv(x)), conv=nn.Conv2d(3, 8, 3, padding=1), **members)


def weights(*shape):
    return nn.Parameter(torch.ones(shape))


def linear():
    return {"fc": nn.Linear(8, 5)}


def free_linear():
    return {"w": weights(5, 8), "b": weights(5)}


def mean(x):
    return x.mean((2, 3))
