"""Segmentation and detection: interpolation by hand, heads of detectors, published counts."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models import detection, segmentation
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import micronet
from micronet.scoring.count import score_model
from micronet.scoring.operations import operation_walk
from micronet.scoring.operations.records import Conv, Interpolation, Linear
from micronet.utils.errors import UserError


def detector(name, **options):
    with torch.device("cpu"):
        return torchvision.models.get_model(name, weights=None, weights_backbone=None, **options)


def macs(ops):
    return sum(op.weights * op.positions for op in ops if isinstance(op, (Conv, Linear)))


class Resized(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.conv, self.options = nn.Conv2d(3, 5, 1), options

    def forward(self, x):
        return F.interpolate(self.conv(x), **self.options)


@pytest.mark.parametrize("mode,taps", [("bilinear", 4), ("bicubic", 16)])
@pytest.mark.parametrize("size", [{"size": (9, 7)}, {"scale_factor": 2}])
def test_interpolation_by_hand(mode, taps, size):
    result = score_model(Resized(mode=mode, **size), 6)
    numel = 5 * 9 * 7 if "size" in size else 5 * 12 * 12
    assert result.ops[-1] == Interpolation("", numel, taps)
    work = {c.part: c.dense for c in result.executed if c.kind == "interpolations"}
    assert work == {"multiply": taps * numel, "add": (taps - 1) * numel}


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_the_nearest_element_is_free(mode):
    ops = operation_walk.walk(Resized(mode=mode, scale_factor=2), 6)
    assert len(ops) == 1 and isinstance(ops[0], Conv)


def test_interpolation_without_a_rule_is_refused():
    smooth = Resized(mode="bilinear", size=3, antialias=True)
    with pytest.raises(ValueError, match="calls interpolate, which has no rule"):
        operation_walk.walk(smooth, 6)


def test_published_counts():
    """``_ops`` of torchvision's weights, in billions; images of 520 are floored to 33 positions."""
    ops = operation_walk.walk(detector("ssdlite320_mobilenet_v3_large", num_classes=91), 320)
    weights = detection.SSDLite320_MobileNet_V3_Large_Weights.DEFAULT
    assert round(macs(ops) / 1e9, 3) == weights.meta["_ops"]
    ops = operation_walk.walk(detector("lraspp_mobilenet_v3_large", num_classes=21), 520)
    weights = segmentation.LRASPP_MobileNet_V3_Large_Weights.DEFAULT
    assert round(macs(ops) / 1e9, 3) == weights.meta["_ops"]


def test_every_layer_of_a_detector_has_a_row():
    for name in ("ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"):
        model = detector(name, num_classes=4)
        result = score_model(model, 96)
        assert set(result.layers) == {row.name for row in result.rows() if row.facts is not None}
        assert all(row.multiplications > 0 for row in result.rows() if row.facts is not None)


@pytest.mark.parametrize("size", [64, 320])
def test_heads_of_a_second_stage_are_counted_for_each_box(size):
    """As many as are kept, or as there are anchors: 15 at each position of three maps."""
    model = detector("fasterrcnn_mobilenet_v3_large_320_fpn", num_classes=4)
    ops = operation_walk.walk(model, size)
    sides = [size // 32, size // 32, size // 64]
    boxes = min(150, 15 * sum(side * side for side in sides))
    found = {op.name: op.positions for op in ops if isinstance(op, Linear)}
    heads = ("box_head.fc6", "box_head.fc7", "box_predictor.cls_score", "box_predictor.bbox_pred")
    assert found == {f"roi_heads.{name}": boxes for name in heads}
    crops = [op for op in ops if isinstance(op, Interpolation)]
    assert crops == [Interpolation("", boxes * 256 * 7 * 7, 16)]


@pytest.mark.slow
def test_a_quantized_detector_is_counted_as_it_is():
    model = detector("ssdlite320_mobilenet_v3_large", num_classes=4)
    before = micronet.score(model, 96)
    micronet.prune_(model, 0.5)
    micronet.quantize_(model, 4, None)
    after = micronet.score(model, 96)
    assert after.weights == before.weights and after.nonzeros < 0.51 * before.nonzeros
    assert after.score < before.score


class Boxes(nn.Module):
    """A detector of somebody's own: a list of images of any size, and boxes by score."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1)

    def forward(self, images):
        maps = [self.head(self.body(image[None])) for image in images]
        return [m.flatten()[m.flatten().sort().indices[:4]] for m in maps]


def test_what_runs_the_layers_of_another_detector_is_given():
    with pytest.raises(UserError, match=r"Boxes cannot be counted: .*"):
        micronet.score(Boxes(), 16)
    result = micronet.score(Boxes(), 16, forward=lambda m, images: m.head(m.body(images)))
    assert [op.positions for op in result.ops] == [14 * 14, 14 * 14]


def test_what_a_detector_has_no_rule_for_is_one_sentence():
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    with pytest.raises(UserError, match=r"MaskRCNN cannot be counted: module .*ConvTranspose2d"):
        micronet.score(detection.MaskRCNN(backbone, num_classes=4), 64)
