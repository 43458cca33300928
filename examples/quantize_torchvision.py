"""Quantize a torchvision network in Python, train it for a few steps, and count right answers.

python examples/quantize_torchvision.py --arch resnet18 --epochs 2
"""

import argparse

import torch.nn.functional as F
import torchvision
from torch import nn, optim

import micronet


def train(model: nn.Module, data: micronet.Data, epochs: int, lr: float) -> None:
    """Train as any network is trained: quantized layers ask for nothing special."""
    optimizer = optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for epoch in range(epochs):
        for images, labels in data.train(epoch):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()


def main() -> None:
    """Train in float, convert, train in 4 bits; evaluate after both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()

    data = micronet.open_data(
        "digits", image_size=args.image_size, batch_size=args.batch_size, seed=0
    )
    model = torchvision.models.get_model(args.arch, num_classes=data.num_classes)
    train(model, data, args.epochs, lr=0.05)
    result = micronet.evaluate(model, data.test())
    print(f"float32: {result.correct} of {result.total}")

    # The first and the last layer stay in float; all others get 4-bit weights and inputs.
    names = [name for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    compression = micronet.quantize_(model, 4, 4, floats=[names[0], names[-1]])
    print(compression.report())
    train(model, data, args.epochs, lr=0.01)
    result = micronet.evaluate(model, data.test())
    print(f"4/4 bits: {result.correct} of {result.total}")


if __name__ == "__main__":
    main()
