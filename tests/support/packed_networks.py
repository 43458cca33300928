"""Compressed networks with something in their statistics, and packed files of them."""

import copy
import functools
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from efficientnet_pytorch import EfficientNet
from torch import nn
from torchvision.models.resnet import BasicBlock

import grey_images
import micronet
import micronet_kernels as kernels
from micronet.artifact import reader, writer
from micronet.artifact.format import container
from micronet.artifact.format.document import About
from micronet.data.preprocessing import IMAGENET_STATISTICS
from micronet.models import architectures
from micronet.pruning import prune
from micronet.quantization.quantize import LayerBits, convert_

FOUR = LayerBits(4, 4)
# Five levels of weights over a float input, as the classifier of 2019.
CLASSIFIER = LayerBits(2.4, None)
LEARNED = LayerBits(4, 4, weight_step="learned", activation_step="learned")
OFFSET = LayerBits(3, 5, weight_step="learned", activation_step="learned", offset=True)
# Levels that fill a type and that do not, of either side, rounded by every scheme or left in float.
PRECISIONS = [
    FOUR,
    LEARNED,
    OFFSET,
    LayerBits(4, 4, symmetric=True),
    LayerBits(1, 1),
    LayerBits(8, 8),
    LayerBits(8, 8, symmetric=True),
    LayerBits(2.4, 3.2),
    LayerBits(4, 8),
    LayerBits(2.9, 6, activation_step="learned"),
    LayerBits(None, 4),
    LayerBits(None, 4, activation_step="learned"),
    LayerBits(4, None),
    LayerBits(3, None, symmetric=True),
    LayerBits(3, None, weight_step="learned"),
]


def masks_of(model, sparsity):
    """Zeros in every layer's weights, and the bits that say where."""
    found = {}
    with torch.no_grad():
        for name, layer in architectures.layers(model).items():
            w = layer.weight
            bits = kernels.smallest_magnitude_mask(w, prune.pruned_weights(w.numel(), sparsity))
            w.mul_(kernels.unpack_bits(bits, w.numel()).view(w.shape))
            found[name] = bits
    return found


def compressed(model, shape, bits=None, sparsity=0.6, batch=4):
    """A network in evaluation mode: pruned, quantized, its ranges and statistics set by images."""
    layers = architectures.layers(model)
    if bits is None:
        stem, last = architectures.stem_name(model), architectures.classifier_name(model)
        bits = {name: FOUR for name in layers if name not in (stem, last)} | {last: CLASSIFIER}
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias)
    masks = masks_of(model, sparsity) if sparsity else {}
    convert_(model, bits, masks)
    model.train()
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(batch, *shape))
    return model.eval()


# Networks of many blocks with fewer of them: every kind of block and every width are left.
SHORTER = {
    "resnet10": lambda: torchvision.models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10),
    "mobilenet_v2 of five blocks": lambda: torchvision.models.MobileNetV2(
        10, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2], [6, 96, 2, 2]]
    ),
    "efficientnet-b0 of half its depth": lambda: EfficientNet.from_name(
        "efficientnet-b0", image_size=None, num_classes=10, depth_coefficient=0.5
    ),
}


def network(arch, size, **options):
    make = SHORTER.get(arch) or functools.partial(micronet.create_model, arch, num_classes=10)
    return compressed(make(), (3, size, size), **options)


def grey_network(arch, size, statistics=IMAGENET_STATISTICS, **options):
    """A network whose first layer reads the grey values of images."""
    model = micronet.create_model(arch, num_classes=10)
    stem, last = architectures.stem_name(model), architectures.classifier_name(model)
    bits = dict.fromkeys(architectures.layers(model), FOUR)
    bits |= {stem: grey_images.bits_of(statistics, **options), last: CLASSIFIER}
    return compressed(model, (3, size, size), bits)


def packed(model, shape):
    return writer.pack_network(model, shape, About("test"))


def content_of(file):
    return container.to_bytes(file.document.to_plain(), file.contents.tensors)


def bits_of(x):
    return x.detach().contiguous().view(torch.int32)


@torch.no_grad()
def assert_same(model, again, *batches):
    """Both give the same bits, whatever lies in them."""
    for images in batches:
        wanted, found = model(images.clone()), again(images.clone())
        assert wanted.shape == found.shape
        nans = wanted.isnan()
        assert torch.equal(nans, found.isnan())
        assert torch.equal(bits_of(wanted[~nans]), bits_of(found[~nans]))


def batches_for(rng, shape):
    """Images of several kinds: none, one, many, in either order of memory, large, constant."""
    images = torch.randn(3, *shape, generator=rng)
    last = images.contiguous(memory_format=torch.channels_last)
    return [images[:0], images[:1], images, last, 50 * last[:2], torch.zeros(2, *shape)]


class Everything(nn.Module):
    """Each kind of node, and layers of every kind of sums."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 12, (3, 2), (2, 1), (1, 0), (1, 2), groups=4)
        self.wide = nn.Conv2d(12, 12, 3, padding="same", bias=False)
        self.norm2 = nn.BatchNorm2d(12)
        self.squeeze, self.expand = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.one, self.two = nn.Conv2d(12, 8, 1), nn.Conv2d(12, 8, 1)
        self.drop, self.pool = nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1)
        self.fc, self.head = nn.Linear(20, 6), nn.Linear(6, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.stem(x))), 2)
        x = F.hardswish(self.grouped(x))
        x = F.silu(self.norm2(self.wide(x)))
        gate = torch.sigmoid(self.expand(F.relu6(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        x = gate * x
        parts = self.one(x) + self.two(x).relu_()
        parts = torch.cat([parts, F.pad(x[:, 2:10:2], (0, 0, 0, 0, 3, 5))], 1)
        parts += parts
        x = self.pool(self.drop(parts)).flatten(1)
        return self.head(F.hardsigmoid(self.fc(x)) * self.fc(x))


def changed(file, change):
    """The bytes of a packed file whose document was changed, with the checksum that fits."""
    plain = copy.deepcopy(file.document.to_plain())
    tensors = {name: tensor.copy() for name, tensor in file.contents.tensors.items()}
    change(plain, tensors)
    return container.to_bytes(plain, tensors)


def read(content):
    return reader.from_content(content, Path("file"))
