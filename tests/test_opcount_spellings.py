"""One operation has one price: what it does to shapes and memory counts, and not its spelling."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from micronet import opcount, score
from micronet.errors import UserError
from micronet.opcount import Conv, LayerNorm, Linear, Permutation, Pool, Residual, Softmax
from micronet.quantize import LayerBits
from micronet.resnet_cifar import CifarResNet


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
    ops = opcount.walk(Spelled(body), 8)
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
    ops = opcount.walk(Spelled(twice), 8)
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


def test_reversing_an_axis_is_a_reordering_of_it():
    expected = [Permutation("body", 8, 128)]
    for body in (
        lambda m, x: x.flip(1),
        lambda m, x: torch.flip(x, dims=[-3]),
        lambda m, x: x[:, list(range(8))[::-1]],
        lambda m, x: torch.cat([x[:, i : i + 1] for i in reversed(range(8))], 1),
        lambda m, x: torch.stack(x.unbind(1)[::-1], 1),
    ):
        ops = opcount.walk(Spelled(With(body)), 8)
        assert [op for op in ops if isinstance(op, Permutation)] == expected


def test_picking_channels_stores_indices_among_all_of_them():
    ops = opcount.walk(Spelled(With(lambda m, x: x[:, [7, 0, 3]]), nn.Identity()), 8)
    assert ops[-1] == Permutation("body", 3, 3 * 16, among=8)
    # Three indices of three bits.
    whole = price(Spelled(lambda x: x, nn.Identity()))
    picked = price(Spelled(lambda x: x[:, [7, 0, 3]], nn.Identity()))
    assert (picked[0] - whole[0]) * 32 == 9


# Whole networks in pairs: (first spelling, second spelling).
def net(body, **members):
    return With(lambda m, x: body(m, m.conv(x)), conv=nn.Conv2d(3, 8, 3, padding=1), **members)


def weights(*shape):
    return nn.Parameter(torch.ones(shape))


def linear():
    return {"fc": nn.Linear(8, 5)}


def free_linear():
    return {"w": weights(5, 8), "b": weights(5)}


def mean(x):
    return x.mean((2, 3))


PAIRS = {
    "squeeze": (
        net(lambda m, x: m.fc(F.adaptive_avg_pool2d(x, 1).flatten(1)), **linear()),
        net(lambda m, x: m.fc(F.adaptive_avg_pool2d(x, 1).squeeze()), **linear()),
    ),
    "squeeze of named axes": (
        net(lambda m, x: m.fc(x.mean((2, 3))), **linear()),
        net(lambda m, x: m.fc(x.mean((2, 3), keepdim=True).squeeze(-1).squeeze(2)), **linear()),
    ),
    "indexing": (
        net(lambda m, x: m.fc(m.pool(x).flatten(1)), pool=nn.AdaptiveAvgPool2d(1), **linear()),
        net(lambda m, x: m.fc(m.pool(x)[:, :, 0, 0]), pool=nn.AdaptiveAvgPool2d(1), **linear()),
    ),
    "view, reshape": (
        net(lambda m, x: m.fc(F.avg_pool2d(x, 8).view(x.size(0), -1)), **linear()),
        net(
            lambda m, x: m.fc(F.avg_pool2d(kernel_size=(8, 8), input=x).reshape((-1, 8))),
            **linear(),
        ),
    ),
    "keywords": (
        net(lambda m, x: m.fc(F.relu(x).mean((2, 3))), **linear()),
        net(lambda m, x: m.fc(input=torch.mean(input=F.relu(input=x), dim=(2, 3))), **linear()),
    ),
    "tuples": (
        net(lambda m, x: F.max_pool2d(x, 2)),
        net(lambda m, x: F.max_pool2d(x, 2, return_indices=True)[0]),
    ),
    "pooling over all": (
        net(lambda m, x: F.adaptive_max_pool2d(x, 1)),
        net(lambda m, x: torch.amax(x, dim=(2, 3), keepdim=True)),
    ),
    "padding": (
        net(lambda m, x: F.pad(x, (0, 0, 0, 0, 4, 4), "constant", 0)),
        net(lambda m, x: F.pad(input=x, pad=[0, 0, 0, 0, 4, 4])),
    ),
    "padding by zeros beside": (
        net(lambda m, x: F.pad(x, (0, 0, 0, 0, 0, 8))),
        net(lambda m, x: torch.cat([x, torch.zeros_like(x)], 1)),
    ),
    "padding by writing": (
        net(lambda m, x: F.pad(x, (1, 1, 1, 1))),
        net(lambda m, x: written(x)),
    ),
    "convolution": (
        net(lambda m, x: m.second(x), second=nn.Conv2d(8, 4, 3, padding=1, groups=2)),
        net(
            lambda m, x: F.conv2d(x, m.w, m.b, padding=1, groups=2),
            w=weights(4, 4, 3, 3),
            b=weights(4),
        ),
    ),
    "convolution with a layer's weights": (
        net(lambda m, x: m.second(x), second=nn.Conv2d(8, 8, 3)),
        net(
            lambda m, x: torch.conv2d(weight=m.second.weight, bias=m.second.bias, input=x),
            second=nn.Conv2d(8, 8, 3),
        ),
    ),
    "convolution and its normalization": (
        net(
            lambda m, x: m.norm(m.second(x)),
            second=nn.Conv2d(8, 4, 1, bias=False),
            norm=nn.BatchNorm2d(4),
        ),
        net(
            lambda m, x: F.batch_norm(F.conv2d(x, m.w), m.mean, m.var, m.scale, m.shift),
            w=weights(4, 8, 1, 1),
            mean=torch.zeros(4),
            var=torch.ones(4),
            scale=weights(4),
            shift=weights(4),
        ),
    ),
    "normalization apart": (
        net(lambda m, x: m.norm(F.relu(x)), norm=nn.BatchNorm2d(8)),
        net(
            lambda m, x: F.batch_norm(
                F.relu(x), m.norm.running_mean, m.norm.running_var, m.scale, m.shift
            ),
            norm=nn.BatchNorm2d(8, affine=False),
            scale=weights(8),
            shift=weights(8),
        ),
    ),
    "layer normalization": (
        net(lambda m, x: m.norm(x), norm=nn.LayerNorm([8, 8, 8])),
        net(
            lambda m, x: F.layer_norm(x, x.shape[1:], m.scale, m.shift),
            scale=weights(8, 8, 8),
            shift=weights(8, 8, 8),
        ),
    ),
    "linear": (
        net(lambda m, x: m.fc(mean(x)), **linear()),
        net(lambda m, x: F.linear(mean(x), m.w, m.b), **free_linear()),
    ),
    "linear as a product": (
        net(lambda m, x: m.fc(mean(x)), **linear()),
        net(lambda m, x: mean(x) @ m.w.T + m.b, **free_linear()),
    ),
    "linear as addmm": (
        net(lambda m, x: m.fc(mean(x)), **linear()),
        net(lambda m, x: torch.addmm(m.b, mean(x), m.w.t()), **free_linear()),
    ),
    "linear as einsum": (
        net(lambda m, x: m.fc(mean(x)), **linear()),
        net(lambda m, x: torch.einsum("ni,oi->no", mean(x), m.w) + m.b, **free_linear()),
    ),
    "linear over pixels": (
        net(lambda m, x: m.fc(x.flatten(2).mT), **linear()),
        net(lambda m, x: m.w @ x.flatten(2) + m.b[:, None], **free_linear()),
    ),
    "pointwise convolution as a product": (
        net(lambda m, x: m.second(x), second=nn.Conv2d(8, 5, 1)),
        net(lambda m, x: m.fc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), **linear()),
    ),
    "relu": (
        net(lambda m, x: F.relu(x)),
        net(lambda m, x: x.clamp(min=0)),
    ),
    "relu in place": (
        net(lambda m, x: m.act(x), act=nn.ReLU()),
        net(lambda m, x: torch.clamp_min_(x, 0)),
    ),
    "relu6": (
        net(lambda m, x: m.act(x), act=nn.ReLU6(inplace=True)),
        net(lambda m, x: torch.clamp(x, 0, 6)),
    ),
    "swish": (
        net(lambda m, x: m.act(x), act=nn.SiLU()),
        net(lambda m, x: x * torch.sigmoid(x)),
    ),
    "swish in place": (
        net(lambda m, x: F.silu(x)),
        net(lambda m, x: x.mul_(x.sigmoid())),
    ),
    "log_softmax": (
        net(lambda m, x: m.act(mean(x)), act=nn.LogSoftmax(dim=1)),
        net(lambda m, x: mean(x).log_softmax(-1)),
    ),
    "dropout": (
        net(lambda m, x: m.drop(x), drop=nn.Dropout2d()),
        net(lambda m, x: F.dropout(x, training=m.training)),
    ),
    "addition": (
        net(lambda m, x: x + x),
        net(lambda m, x: torch.add(other=x, input=x)),
    ),
    "subtraction": (
        net(lambda m, x: x - 1),
        net(lambda m, x: 1 - x),
    ),
    "product": (
        net(lambda m, x: x * 0.5),
        net(lambda m, x: x.div_(2)),
    ),
    "constants worked out beforehand": (
        net(lambda m, x: x * m.scale, scale=weights(8, 1, 1)),
        net(lambda m, x: x * m.scale.exp().softmax(0).view(8, 1, 1), scale=weights(8)),
    ),
}


def written(x):
    n, c, h, w = x.shape
    wide = x.new_zeros(n, c, h + 2, w + 2)
    wide[:, :, 1:-1, 1:-1] = x
    return wide


@pytest.mark.parametrize("name", PAIRS)
def test_two_spellings_have_one_price(name):
    first, second = PAIRS[name]
    assert price(first) == price(second)
    assert sum(opcount.multiply_adds(first, 8).values()) == sum(
        opcount.multiply_adds(second, 8).values()
    )


def test_every_pair_computes_something_beside_its_first_layer():
    alone = price(net(lambda m, x: x))
    free = {"padding", "padding by zeros beside", "padding by writing", "dropout"}
    same = {name for name, (first, _) in PAIRS.items() if price(first)[2] == alone[2]}
    assert same == free


class LambdaLayer(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1:
            p = outputs // 4
            self.shortcut = LambdaLayer(
                lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, p, p), "constant", 0)
            )

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class ResNet20(nn.Module):
    """As most CIFAR ResNets are written."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
        blocks = (Block(a, b, 1 if a == b else 2) for a, b in itertools.pairwise(widths))
        self.layers = nn.Sequential(*blocks)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x):
        out = self.layers(F.relu(self.bn1(self.conv1(x))))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


def test_the_usual_cifar_resnet_is_ours():
    assert price(ResNet20(), 32) == price(CifarResNet(20, 10, 3), 32)


def test_a_layer_that_no_module_is_is_named_by_its_weights():
    model = net(lambda m, x: F.conv2d(x, m.w, m.b, padding=1), w=weights(4, 8, 3, 3), b=weights(4))
    counted = score.score_model(model, 8, bits={}, sparsities={})
    assert counted.ops[-1] == Conv("w", 8, 4, 1, (3, 3), 64, True, by_layer=False)
    assert [row.name for row in counted.rows()] == ["conv", "w", ""]
    assert counted.weights == 3 * 8 * 9 + 8 * 4 * 9
    assert counted.layers["w"].bits.is_float
    assert opcount.multiply_adds(model, 8) == {"conv": 64 * 3 * 8 * 9, "w": 64 * 8 * 4 * 9}


def test_weights_in_a_buffer_are_stored():
    blur = torch.ones(8, 1, 3, 3)
    fixed = net(lambda m, x: F.conv2d(x, m.w, groups=8), w=blur)
    learned = net(lambda m, x: F.conv2d(x, m.w, groups=8), w=nn.Parameter(blur))
    assert price(fixed) == price(learned)


def test_tensors_beside_the_parameters_are_taken_along():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.mean, self.std = torch.ones(3, 1, 1), torch.ones(3, 1, 1)

        def forward(self, x):
            return self.conv((x - self.mean) / self.std)

    assert len(opcount.walk(Plain(), 4)) == 3


def test_two_linear_maps_in_one_layer_are_both_counted():
    class Adapted(nn.Linear):
        def __init__(self):
            super().__init__(8, 5)
            self.down, self.up = weights(2, 8), weights(5, 2)

        def forward(self, x):
            return super().forward(x) + x @ self.down.T @ self.up.T

    model = net(lambda m, x: m.fc(mean(x)), fc=Adapted())
    assert opcount.walk(model, 8)[2:] == [
        Linear("fc", 8, 5, 1, True),
        Linear("fc.down", 8, 2, 1, False, by_layer=False),
        Linear("fc.up", 2, 5, 1, False, by_layer=False),
        Residual("fc", 5),
    ]
    plain = price(net(lambda m, x: m.fc(mean(x)), fc=nn.Linear(8, 5)))
    assert price(model)[1] - plain[1] == 2 * 8 + 5 * 2


def test_weights_that_are_computed_belong_to_their_layer():
    class Standardized(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, weight / weight.std(), self.bias, self.stride, self.padding)

    computed = net(lambda m, x: m.second(x), second=Standardized(8, 4, 3))
    assert price(computed) == price(net(lambda m, x: m.second(x), second=nn.Conv2d(8, 4, 3)))


def test_one_layer_under_two_names_is_stored_once_and_run_twice():
    shared = nn.Conv2d(8, 8, 1)
    model = net(lambda m, x: m.again(m.second(x)), second=shared, again=shared)
    once = net(lambda m, x: m.second(x), second=nn.Conv2d(8, 8, 1))
    assert [op.name for op in opcount.walk(model, 8)] == ["conv", "second", "second"]
    assert price(model)[0] == price(once)[0]
    assert opcount.multiply_adds(model, 8)["second"] == 2 * 64 * 64


def test_every_image_of_patches_and_frames_counts():
    patches = net(lambda m, x: m.second(x.reshape(-1, 8, 4, 4)), second=nn.Conv2d(8, 8, 1))
    whole = net(lambda m, x: m.second(x), second=nn.Conv2d(8, 8, 1))
    assert price(patches) == price(whole)


def test_softmax_by_hand():
    ops = opcount.walk(net(lambda m, x: F.log_softmax(mean(x), dim=1)), 8)
    assert ops[-2:] == [Pool("", "average", 512, 8, 512), Softmax("", 8, 1, True)]
    plain, soft, log = (
        price(net(body))[3]
        for body in (
            lambda m, x: x,
            lambda m, x: x.softmax(1),
            lambda m, x: x.log_softmax(1),
        )
    )
    # In each of 64 pixels: 8 exponentials, 7 additions, 8 quotients; or one logarithm, 8
    # subtractions in place of the quotients.
    assert soft - plain == 64 * (8 + 7 + 8)
    assert log - plain == 64 * (8 + 7 + 1 + 8)


def test_layer_norm_as_a_function_is_one_of_its_module():
    ops = opcount.walk(net(lambda m, x: F.layer_norm(x, (8,))), 8)
    assert ops[-1] == LayerNorm("", 512, 64, False)


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: x.mean(),
        lambda m, x: x.mean(0),
        lambda m, x: x.mean(dim=0, keepdim=True).expand_as(x),
        lambda m, x: x + x.mean((0, 2, 3), keepdim=True),
        lambda m, x: F.relu(x[0]),
        lambda m, x: F.relu(x[:-1]),
        lambda m, x: F.softmax(x, 0),
    ],
)
def test_work_that_mixes_images_is_refused(body):
    with pytest.raises(ValueError, match=r"module '' calls \w+, which mixes the images of a batch"):
        opcount.walk(net(body), 8)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (lambda m, x: x[torch.arange(251).flip(0)], "__getitem__"),
        (lambda m, x: x.flip(0), "flip"),
        (lambda m, x: strided(x), "__setitem__"),
        (lambda m, x: F.batch_norm(x, None, None, training=True), "batch_norm"),
        (lambda m, x: x.cos(), "cos"),
        (lambda m, x: torch.bmm(m.many.expand(251, 8, 8).contiguous(), x.flatten(2)), "bmm"),
    ],
)
def test_what_cannot_be_priced_is_refused(body, name):
    with pytest.raises(ValueError, match=rf"module '' calls {name}, which has no rule"):
        opcount.walk(net(body, many=weights(1, 8, 8)), 8)


def strided(x):
    out = torch.empty_like(x)
    out[:, ::2], out[:, 1::2] = x[:, :4], x[:, 4:]
    return out


def test_weights_from_nowhere_are_refused():
    constant = net(lambda m, x: F.conv2d(x, torch.ones(4, 8, 1, 1, device=x.device)))
    with pytest.raises(ValueError, match=r"calls conv2d, which has weights that are no parameter"):
        opcount.walk(constant, 8)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (lambda x: x.shape[7], "IndexError: tuple index out of range"),
        (lambda x: x.nothing, "AttributeError: .* no attribute 'nothing'"),
        (lambda x: {}["a"], "KeyError: 'a'"),
        (lambda x: x.amax((1, 2, 3))[0].item(), "item"),
        (lambda x: F.relu(y=x), "TypeError: .*'y'"),
    ],
)
def test_whatever_a_network_raises_is_one_sentence(error, text):
    with pytest.raises(ValueError, match=f"does not take an image of 3x8x8: .*{text}"):
        opcount.walk(net(lambda m, x: error(x)), 8)


def test_weights_that_a_function_takes_past_their_quantized_layer_are_refused():
    model = net(lambda m, x: F.conv2d(m.second(x), m.second.weight), second=nn.Conv2d(8, 8, 1))
    assert price(model)[0] == price(net(lambda m, x: m.second(x), second=nn.Conv2d(8, 8, 1)))[0]
    bits = {"second": LayerBits(4, 4)}
    with pytest.raises(UserError, match=r"layer 'second' is quantized, but a function also takes"):
        score.score_model(model, 8, bits=bits, sparsities={})
