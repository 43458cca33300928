"""Detect drawn shapes by a detector of torchvision, in float and then pruned and in few bits.

python examples/detect_shapes.py --arch ssdlite320_mobilenet_v3_large
python examples/detect_shapes.py --arch fasterrcnn_mobilenet_v3_large_320_fpn
"""

import argparse

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import box_iou

import micronet

CLASSES = ("background", "square", "disk")
Target = dict[str, Tensor]


def draw(count: int, size: int, seed: int) -> list[tuple[Tensor, Target]]:
    """Return images (3, size, size) of one or two shapes on noise, and their boxes."""
    random = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> float:
        return float(low + (high - low) * torch.rand((), generator=random)) * size

    rows, columns = torch.arange(size)[:, None], torch.arange(size)[None]
    samples = []
    for number in range(count):
        image, boxes, labels = 0.3 * torch.randn(3, size, size, generator=random), [], []
        for side in range(1 + number % 2):
            # The second shape is to the right of the first.
            x, y = uniform(0.2, 0.3) + 0.5 * size * side, uniform(0.25, 0.75)
            radius, kind = uniform(0.13, 0.2), int(torch.randint(1, 3, (), generator=random))
            down, right = (rows - y).abs(), (columns - x).abs()
            far = torch.maximum(down, right) if kind == 1 else torch.hypot(down, right)
            image += (far < radius) * (0.5 + torch.rand(3, 1, 1, generator=random))
            boxes.append([x - radius, y - radius, x + radius, y + radius])
            labels.append(kind)
        target = {"boxes": torch.tensor(boxes).clamp(0, size), "labels": torch.tensor(labels)}
        samples.append((image, target))
    return samples


def network(arch: str, size: int) -> nn.Module:
    """Return an untrained detector for images of one size, without published weights."""
    options = {"weights": None, "weights_backbone": None, "num_classes": len(CLASSES)}
    if arch.startswith("fasterrcnn"):
        options["box_batch_size_per_image"] = 32  # boxes of an image that its second stage learns
    model = torchvision.models.get_model(arch, **options)
    model.transform = GeneralizedRCNNTransform(
        size, size, [0.0] * 3, [1.0] * 3, size_divisible=1, fixed_size=(size, size)
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # the statistics of a short run
    return model


def train(
    model: nn.Module,
    data: list[tuple[Tensor, Target]],
    steps: int,
    lr: float,
    compression: micronet.Compression | None = None,
) -> None:
    """Train on batches of 8; the compression, where there is one, follows each step."""
    groups = compression.parameter_groups() if compression else model.parameters()
    optimizer = torch.optim.AdamW(groups, lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    random = torch.Generator().manual_seed(1)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(data), (8,), generator=random).tolist()
        losses = model([data[i][0] for i in chosen], [data[i][1] for i in chosen])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        if compression:
            compression.step()


@torch.no_grad()
def detections(model: nn.Module, data: list[tuple[Tensor, Target]]) -> list[Target]:
    """Return boxes, labels and scores of each image, the best first."""
    model.eval()
    return model([image for image, _ in data])


def average_precision(found: list[Target], data: list[tuple[Tensor, Target]]) -> float:
    """Return the mean over classes of the average precision at an IoU of 0.5."""
    precisions = []
    for kind in range(1, len(CLASSES)):
        hits, total = [], 0
        for ours, (_, theirs) in zip(found, data, strict=True):
            mine, real = (t["boxes"][t["labels"] == kind] for t in (ours, theirs))
            total += len(real)
            free = torch.ones(len(real), dtype=torch.bool)
            scores = ours["scores"][ours["labels"] == kind]
            for score, overlaps in zip(scores, box_iou(mine, real), strict=True):
                # Each box of the image is found once, by the detection of highest score.
                overlaps = overlaps * free
                hit = bool(free.any()) and bool(overlaps.max() >= 0.5)
                if hit:
                    free[overlaps.argmax()] = False
                hits.append((float(score), hit))
        ordered = sorted(hits, key=lambda detection: -detection[0])
        right = torch.tensor([hit for _, hit in ordered], dtype=torch.float)
        precision = right.cumsum(0) / torch.arange(1, len(right) + 1)
        precisions.append(float((precision * right).sum() / max(total, 1)))
    return sum(precisions) / len(precisions)


def main() -> None:
    """Train in float, compress, train again; compare, save and load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="ssdlite320_mobilenet_v3_large")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--steps", type=int, default=400, help="in float, and half as many after")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--out", default="runs/detect_shapes")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    args = parser.parse_args()
    steps, count = (1, 8) if args.quick else (args.steps, 512)

    torch.manual_seed(0)
    data, test = draw(count, args.size, seed=0), draw(min(count, 64), args.size, seed=1)
    model = network(args.arch, args.size)
    train(model, data, steps, lr=1e-3)
    before = micronet.score(model, args.size)
    quality = average_precision(detections(model, test), test)
    print(f"float32: AP50 {quality:.3f}, score {float(before.score):.4f}")

    # The first layer, and those whose outputs are scores and boxes, stay in float.
    stem = next(iter(before.layers))
    ends = [stem, "re:.*(cls_logits|cls_score|classification_head|bbox|regression_head).*"]
    micronet.prune_(model, 0.5, layers=["backbone.*"])
    compression = micronet.quantize_(model, args.bits, args.bits, floats=ends)
    train(model, data, max(steps // 2, 1), lr=5e-4, compression=compression)
    after = micronet.score(model, args.size)
    found = detections(model, test)
    quality, share = average_precision(found, test), float(compression.report().sparsity)
    print(f"{args.bits}/{args.bits} bits: AP50 {quality:.3f}, score {float(after.score):.4f}")
    print(f"{share:.0%} of the pruned layers' weights are zero")

    micronet.save(compression, args.out, image_size=args.size, classes=CLASSES)
    loaded = micronet.load(args.out, model=network(args.arch, args.size)).model
    again = detections(loaded, test)
    same = all(torch.equal(a[k], b[k]) for a, b in zip(found, again, strict=True) for k in a)
    print(f"loaded from {args.out}, it finds the same: {same}")


if __name__ == "__main__":
    main()
