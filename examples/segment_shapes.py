"""Segment drawn shapes by torchvision's LR-ASPP, in float and then pruned and in 4 bits.

python examples/segment_shapes.py
"""

import argparse

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import micronet

CLASSES = ("background", "square", "disk", "ring")


def draw(count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return images (count, 3, size, size) of a shape on noise, and each pixel's class."""
    random = torch.Generator().manual_seed(seed)
    center = (0.3 + 0.4 * torch.rand(2, count, 1, 1, generator=random)) * size
    radius = (0.2 + 0.1 * torch.rand(count, 1, 1, generator=random)) * size
    kind = torch.randint(1, len(CLASSES), (count, 1, 1), generator=random)
    down = (torch.arange(size)[None, :, None] - center[0]).abs()
    right = (torch.arange(size)[None, None, :] - center[1]).abs()
    far = torch.where(kind == 1, torch.maximum(down, right) * 1.2, torch.hypot(down, right))
    inside = (far < radius) & ((kind != 3) | (far > 0.5 * radius))
    color = 0.5 + torch.rand(count, 3, 1, 1, generator=random)
    noise = 0.3 * torch.randn(count, 3, size, size, generator=random)
    return inside[:, None] * color + noise, inside * kind


def train(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    steps: int,
    lr: float,
    compression: micronet.Compression | None = None,
) -> None:
    """Train on batches of 8; the compression, where there is one, follows each step."""
    random = torch.Generator().manual_seed(1)
    parameters = model.parameters() if compression is None else compression.parameter_groups()
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(data[0]), (8,), generator=random)
        images, labels = (tensor[chosen] for tensor in data)
        optimizer.zero_grad()
        F.cross_entropy(model(images)["out"], labels).backward()
        optimizer.step()
        schedule.step()
        if compression:
            compression.step()


@torch.no_grad()
def mean_iou(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """Return the mean over classes of intersection over union."""
    model.eval()
    images, labels = data
    found = torch.cat([model(part)["out"].argmax(1) for part in images.split(16)])
    shares = []
    for kind in range(len(CLASSES)):
        ours, theirs = found == kind, labels == kind
        shares.append((ours & theirs).sum() / (ours | theirs).sum())
    return float(torch.stack(shares).mean())


def main() -> None:
    """Train in float, compress, train again; compare, save and load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=300, help="in float, and half as many after")
    parser.add_argument("--out", default="runs/segment_shapes")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    args = parser.parse_args()
    steps, count = (2, 16) if args.quick else (args.steps, 512)

    def network() -> nn.Module:
        options = {"weights": None, "weights_backbone": None, "num_classes": len(CLASSES)}
        model = torchvision.models.get_model("lraspp_mobilenet_v3_large", **options)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1  # the statistics of a short run
        return model

    torch.manual_seed(0)
    data, test = draw(count, args.size, seed=0), draw(64, args.size, seed=1)
    model = network()
    train(model, data, steps, lr=2e-3)
    before = micronet.score(model, args.size)
    print(f"float32: mIoU {mean_iou(model, test):.3f}, score {float(before.score):.4f}")

    # The first and the last layers stay in float; all others get 4-bit weights and inputs.
    ends = ["backbone.0.0", "classifier.*_classifier"]
    micronet.prune_(model, 0.5, layers=["backbone.*"])
    compression = micronet.quantize_(model, 4, 4, floats=ends)
    train(model, data, max(steps // 2, 1), lr=1e-3, compression=compression)
    after = micronet.score(model, args.size)
    print(f"4/4 bits: mIoU {mean_iou(model, test):.3f}, score {float(after.score):.4f}")
    print(f"{float(compression.report().sparsity):.0%} of the pruned layers' weights are zero")

    micronet.save(compression, args.out, image_size=args.size, classes=CLASSES)
    loaded = micronet.load(args.out, model=network()).model
    with torch.no_grad():
        same = torch.equal(loaded(test[0])["out"], model(test[0])["out"])
    print(f"loaded from {args.out}, it computes the same: {same}")


if __name__ == "__main__":
    main()
