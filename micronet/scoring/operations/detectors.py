"""The networks of torchvision's detectors: what computes scores and boxes from images.

What comes before, images of all sizes resized to one, and after, anchors, decoding and suppression,
depends on what is seen and is no part of the count.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from micronet.utils.lazy_modules import is_imported, lazy

if TYPE_CHECKING:
    from torchvision import ops
    from torchvision.models import detection
else:
    ops = lazy("torchvision.ops")
    detection = lazy("torchvision.models.detection")

Forward = Callable[[Any, Tensor], object]


def forward_of(model: nn.Module) -> Forward:
    """Return what calls a network with a batch of images (N, channels, height, width)."""
    if is_imported("torchvision"):
        if isinstance(model, detection.generalized_rcnn.GeneralizedRCNN):
            return _two_stages
        if isinstance(model, (detection.ssd.SSD, detection.RetinaNet, detection.FCOS)):
            return _one_stage
    return lambda m, images: m(images)


def _features(model: Any, images: Tensor) -> OrderedDict[str, Tensor]:
    found = model.backbone(images)
    return OrderedDict([("0", found)]) if isinstance(found, Tensor) else found


def _one_stage(model: Any, images: Tensor) -> object:
    return model.head(list(_features(model, images).values()))


def _two_stages(model: Any, images: Tensor) -> None:
    """Compute what each head makes of as many crops as it is given at most."""
    features = _features(model, images)
    objectness, _ = model.rpn.head(list(features.values()))
    anchors = sum(scores[0].numel() for scores in objectness)
    heads = model.roi_heads
    boxes = min(model.rpn.post_nms_top_n(), anchors)
    heads.box_predictor(heads.box_head(_crops(heads.box_roi_pool, features, boxes)))
    kept = min(heads.detections_per_img, boxes)
    for kind in ("mask", "keypoint"):
        if getattr(heads, f"{kind}_roi_pool", None) is not None:
            pool, head, predictor = (
                getattr(heads, f"{kind}_{part}") for part in ("roi_pool", "head", "predictor")
            )
            predictor(head(_crops(pool, features, kept)))


def _crops(pool: nn.Module, features: OrderedDict[str, Tensor], boxes: int) -> Tensor:
    """Return so many crops of each image; a crop costs the same in whichever map it is taken."""
    if not isinstance(pool, ops.MultiScaleRoIAlign):
        raise ValueError(f"its boxes are cropped by {type(pool).__name__}, which has no rule")
    source = features[pool.featmap_names[0]]
    places = torch.empty(len(source) * boxes, 5, device=source.device)
    return ops.roi_align(source, places, pool.output_size, sampling_ratio=pool.sampling_ratio)
