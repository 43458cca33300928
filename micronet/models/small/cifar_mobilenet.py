"""A MobileNetV2 for CIFAR (Sandler et al. 2018, arXiv:1801.04381): a depthwise network to try on.

The paper's stem and its first stages halve an image of 224 pixels three times more than one of 32
can bear, so that here the stem keeps every pixel and the last map is 4x4. It computes 25.5 million
multiply-adds for an image and has 0.48 million parameters. ReLU takes the place of ReLU6, whose
bound a quantizer's range sets again, and which a tensor of integers waits through.
"""

from __future__ import annotations

from torch import Tensor, nn

# The paper's table 2 down to its sixth row: expansion, channels, blocks, stride of the first.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 1), (6, 96, 2, 2))
_STEM, _HEAD = 32, 512


class InvertedResidual(nn.Module):
    """A 1x1 expansion, a 3x3 depthwise convolution and a 1x1 projection without activation.

    An expansion of 1 is left out. The input is added where the output has its shape.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.expand = nn.Conv2d(inputs, hidden, 1, bias=False) if expansion > 1 else None
        if self.expand is not None:
            self.bn1 = nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.project = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.adds_input = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        out = x
        if self.expand is not None:
            out = self.relu(self.bn1(self.expand(out)))
        out = self.relu(self.bn2(self.depthwise(out)))
        out = self.bn3(self.project(out))
        return x + out if self.adds_input else out


class CifarMobileNetV2(nn.Module):
    """A 3x3 stem, twelve inverted residuals, a 1x1 head, mean pooling and one linear layer.

    Args:
        num_classes: size of the output.
        channels: of the input images.
    """

    def __init__(self, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, _STEM, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        inputs, blocks = _STEM, []
        for expansion, outputs, count, stride in _STAGES:
            for index in range(count):
                step = stride if index == 0 else 1
                blocks.append(InvertedResidual(inputs, outputs, step, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv2d(inputs, _HEAD, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(_HEAD)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(_HEAD, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, H, W) to logits (N, num_classes)."""
        x = self.blocks(self.relu(self.bn1(self.conv1(x))))
        x = self.relu(self.bn2(self.head(x)))
        return self.fc(self.avgpool(x).flatten(1))
