"""One operation has one price: what it does to shapes and memory counts, and not its spelling."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from micronet.models.small.cifar_resnet import CifarResNet
from micronet.scoring.operations import operation_walk
from spelled import free_linear, linear, mean, net, price, weights

# Whole networks in pairs: (first spelling, second spelling).
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
    assert sum(operation_walk.multiply_adds(first, 8).values()) == sum(
        operation_walk.multiply_adds(second, 8).values()
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
