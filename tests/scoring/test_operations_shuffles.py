"""A reordering of channels has one price, however it is spelled; other moves are free."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from micronet.scoring.operations import operation_walk
from micronet.scoring.operations.records import Permutation
from spelled import Spelled, With, price


def halves(x):
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w)


ORDER = [0, 4, 1, 5, 2, 6, 3, 7]

SHUFFLES = {
    "view and transpose": lambda x: halves(x).transpose(1, 2).contiguous().view(x.shape),
    "permute": lambda x: halves(x).permute(0, 2, 1, 3, 4).reshape(x.shape),
    "permute by keyword": lambda x: torch.permute(input=halves(x), dims=(0, 2, 1, 3, 4)).reshape(
        x.shape
    ),
    "transpose by keyword": lambda x: torch.transpose(halves(x), dim1=-3, dim0=1).flatten(1, 2),
    "swapaxes": lambda x: halves(x).swapaxes(1, 2).reshape(x.shape),
    "swapdims": lambda x: torch.swapdims(halves(x), 2, 1).flatten(1, 2),
    "movedim": lambda x: halves(x).movedim(2, 1).reshape(x.shape),
    "moveaxis": lambda x: torch.moveaxis(halves(x), 1, 2).reshape(x.shape),
    "unflatten": lambda x: x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2),
    "function": lambda x: torch.channel_shuffle(x, 2),
    "native function": lambda x: torch.native_channel_shuffle(x, 2),
    "module": nn.ChannelShuffle(2),
    "list of indices": lambda x: x[:, ORDER],
    "tensor of indices": lambda x: x[:, torch.tensor(ORDER)],
    "indices of every axis": lambda x: x[:, torch.tensor(ORDER), :, :],
    "buffer of indices": With(lambda m, x: x[:, m.order], order=torch.tensor(ORDER)),
    "index_select": lambda x: x.index_select(1, torch.tensor(ORDER, device=x.device)),
    "index_select by keyword": lambda x: torch.index_select(
        x, index=torch.tensor(ORDER, device=x.device), dim=1
    ),
    "stack of chunks": lambda x: torch.stack(x.chunk(2, 1), 2).flatten(1, 2),
    "stack of splits": lambda x: torch.stack(x.split(4, dim=1), dim=2).reshape(x.shape),
    "stack of slices": lambda x: torch.stack([x[:, :4], x[:, 4:]], 2).reshape(x.shape),
    "stack of parts": lambda x: torch.stack(halves(x).unbind(1), 2).reshape(x.shape),
    "cat of unsqueezed": lambda x: torch.cat([c.unsqueeze(2) for c in x.chunk(2, 1)], 2).flatten(
        1, 2
    ),
    "cat of channels": lambda x: torch.cat([x[:, i : i + 1] for i in ORDER], 1),
    "stack of channels": lambda x: torch.stack([x[:, i] for i in ORDER], dim=1),
    "over flat images": lambda x: x.view(-1, 2, 4, 16).transpose(1, 2).reshape(x.shape),
    "merged the other way": lambda x: (
        halves(x).permute(0, 3, 4, 2, 1).flatten(3).permute(0, 3, 1, 2)
    ),
    "by einsum": lambda x: torch.einsum("ngchw->ncghw", halves(x)).reshape(x.shape),
    "in two steps": lambda x: halves(x).transpose(1, 2).reshape(-1, 4, 2 * 4 * 4).reshape(x.shape),
    "through channels last": lambda x: (
        x.permute(0, 2, 3, 1).reshape(-1, 4, 4, 2, 4).mT.reshape(-1, 4, 4, 8).permute(0, 3, 1, 2)
    ),
}


@pytest.mark.parametrize("name", SHUFFLES)
def test_a_shuffle_of_channels_has_one_price(name):
    body = SHUFFLES[name]
    ops = operation_walk.walk(Spelled(body), 8)
    found = [(op.channels, op.numel, op.among) for op in ops if isinstance(op, Permutation)]
    assert found == [(8, 8 * 16, 0)]
    assert price(Spelled(body)) == price(Spelled(SHUFFLES["view and transpose"]))


def test_shuffles_really_are_the_same():
    x = torch.arange(2 * 8 * 16.0).view(2, 8, 4, 4)
    for name, body in SHUFFLES.items():
        assert torch.equal(body(x), x[:, ORDER]), name


def test_a_shuffle_costs_a_multiplication_an_element_and_an_index_a_channel():
    plain, shuffled = price(Spelled(lambda x: x)), price(Spelled(SHUFFLES["permute"]))
    assert shuffled[0] - plain[0] == torch.tensor(8 * 3).item() / 32
    assert shuffled[3] - plain[3] == 8 * 16


@pytest.mark.parametrize(
    "body",
    [
        lambda x: torch.channel_shuffle(x, 1),
        lambda x: torch.channel_shuffle(x, 8),
        lambda x: halves(x).reshape(x.shape),
        lambda x: torch.cat(x.chunk(2, 1), 1),
        lambda x: torch.cat([x[:, :5], x[:, 5:]], 1),
        lambda x: torch.stack(x.chunk(2, 1), 1).flatten(1, 2),
        lambda x: torch.stack(x.unbind(1), 1),
        lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        lambda x: x.flatten(2).transpose(1, 2).transpose(1, 2).reshape(x.shape),
        lambda x: x.permute(0, 2, 3, 1).reshape(-1, 16, 8).permute(0, 2, 1).reshape(x.shape),
        lambda x: x[None][0][..., :],
        lambda x: halves(x).transpose(1, 2).transpose(1, 2).reshape(x.shape),
        lambda x: x.expand(-1, 8, 4, 4).clone().to(x.dtype),
    ],
)
def test_what_keeps_the_order_is_free(body):
    assert price(Spelled(body)) == price(Spelled(lambda x: x))


def test_a_shuffle_undone_costs_twice():
    twice = lambda x: torch.channel_shuffle(torch.channel_shuffle(x, 2), 4)  # noqa: E731
    ops = operation_walk.walk(Spelled(twice), 8)
    assert [op.ordinal for op in ops if isinstance(op, Permutation)] == [0, 1]
    plain, once, both = (price(Spelled(body)) for body in (lambda x: x, SHUFFLES["permute"], twice))
    assert [b - p for b, p in zip(both, plain, strict=True)] == [
        2 * (o - p) for o, p in zip(once, plain, strict=True)
    ]


def test_a_shuffling_module_that_is_called_twice_stores_its_indices_once():
    block = With(lambda m, x: SHUFFLES["permute"](x))
    plain, once = price(Spelled(lambda x: x)), price(Spelled(block))
    twice = price(Spelled(nn.Sequential(block, block)))
    assert twice[0] == once[0] and twice[3] - once[3] == once[3] - plain[3]


def test_elementwise_work_between_the_steps_of_a_shuffle_changes_nothing():
    late = lambda x: F.relu(halves(x).transpose(1, 2)).reshape(x.shape)  # noqa: E731
    early = lambda x: SHUFFLES["function"](F.relu(x))  # noqa: E731
    assert price(Spelled(late)) == price(Spelled(early))


def shuffled(x):
    return halves(x).transpose(1, 2)


@pytest.mark.parametrize(
    ("late", "early"),
    [
        (
            lambda m, x: F.max_pool2d(shuffled(x).flatten(0, 1), 2).view(-1, 8, 2, 2),
            lambda m, x: SHUFFLES["permute"](F.max_pool2d(x, 2)),
        ),
        (
            lambda m, x: shuffled(x).mean((3, 4)).flatten(1),
            lambda m, x: x.mean((2, 3))[:, ORDER],
        ),
        (
            lambda m, x: shuffled(x).amax((3, 4), keepdim=True).reshape(-1, 8),
            lambda m, x: x.amax((2, 3))[:, ORDER],
        ),
        (
            lambda m, x: m.fc(shuffled(x)).flatten(1, 2),
            lambda m, x: SHUFFLES["permute"](m.fc(x)),
        ),
        (
            lambda m, x: (shuffled(x) + x.view(-1, 4, 2, 4, 4)).flatten(1, 2),
            lambda m, x: SHUFFLES["permute"](x) + x,
        ),
        (
            lambda m, x: (x.view(-1, 4, 2, 4, 4) + shuffled(x)).flatten(1, 2),
            lambda m, x: SHUFFLES["permute"](x) + x,
        ),
        (
            lambda m, x: shuffled(m.conv(x.reshape(-1, 4, 4, 4)).view(-1, 8, 4, 4)).flatten(1, 2),
            lambda m, x: torch.stack([m.conv(c) for c in x.chunk(2, 1)], 2).flatten(1, 2),
        ),
        (
            lambda m, x: F.log_softmax(shuffled(x), 3).flatten(1, 2),
            lambda m, x: SHUFFLES["module"](x.log_softmax(2)),
        ),
    ],
)
def test_a_shuffle_that_ends_behind_other_work_has_its_price(late, early):
    members = {"fc": nn.Linear(4, 4), "conv": nn.Conv2d(4, 4, 1)}
    used = [name for name in members if name in late.__code__.co_names]
    nets = [
        Spelled(With(body, **{name: members[name] for name in used}), nn.Identity())
        for body in (late, early)
    ]
    assert price(nets[0]) == price(nets[1])


def test_linear_layers_that_take_matrices_apart_shuffle_nothing():
    fc = nn.Linear(4, 4)
    there_and_back = With(lambda m, x: m.fc(shuffled(x)).transpose(1, 2).flatten(1, 2), fc=fc)
    plain = With(lambda m, x: m.fc(x), fc=fc)
    assert price(Spelled(there_and_back)) == price(Spelled(plain))


@pytest.mark.parametrize(
    "body",
    [
        lambda x: torch.cat([x[..., -1:], x, x[..., :1]], 3),
        lambda x: F.pad(x, (1, 1, 0, 0), "circular"),
        lambda x: F.pad(x, (1, 1, 0, 0), "reflect"),
        lambda x: torch.cat([x, x], 1)[:, :8],
        lambda x: written(x, [(slice(0, 4), slice(0, 4)), (slice(4, 8), slice(4, 8))]),
        lambda x: written(x, [(slice(4, 8), slice(4, 8)), (slice(0, 4), slice(0, 4))]),
    ],
)
def test_copies_at_the_borders_are_free(body):
    free = price(Spelled(lambda x: x, nn.Identity()))
    assert price(Spelled(body, nn.Identity())) == free


def written(x, blocks):
    out = torch.empty_like(x)
    for target, source in blocks:
        out[:, target] = x[:, source]
    return out


@pytest.mark.parametrize(
    "blocks",
    [
        [(slice(0, 4), slice(4, 8)), (slice(4, 8), slice(0, 4))],
        [(slice(0, 8, 2), slice(0, 4)), (slice(1, 8, 2), slice(4, 8))],
        [(i, j) for i, j in enumerate(ORDER)],
    ],
)
def test_a_shuffle_by_writing_is_refused(blocks):
    with pytest.raises(ValueError, match="module 'body' calls __setitem__, which has no rule"):
        operation_walk.walk(Spelled(With(lambda m, x: written(x, blocks))), 8)


def test_reversing_an_axis_is_a_reordering_of_it():
    expected = [Permutation("body", 8, 128)]
    for body in (
        lambda m, x: x.flip(1),
        lambda m, x: torch.flip(x, dims=[-3]),
        lambda m, x: x[:, list(range(8))[::-1]],
        lambda m, x: torch.cat([x[:, i : i + 1] for i in reversed(range(8))], 1),
        lambda m, x: torch.stack(x.unbind(1)[::-1], 1),
    ):
        ops = operation_walk.walk(Spelled(With(body)), 8)
        assert [op for op in ops if isinstance(op, Permutation)] == expected


def test_picking_channels_stores_indices_among_all_of_them():
    ops = operation_walk.walk(Spelled(With(lambda m, x: x[:, [7, 0, 3]]), nn.Identity()), 8)
    assert ops[-1] == Permutation("body", 3, 3 * 16, among=8)
    # Three indices of three bits.
    whole = price(Spelled(lambda x: x, nn.Identity()))
    picked = price(Spelled(lambda x: x[:, [7, 0, 3]], nn.Identity()))
    assert (picked[0] - whole[0]) * 32 == 9
