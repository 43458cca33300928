"""What a run and its checkpoints say of themselves."""

from __future__ import annotations

from typing import Any

from torch import nn

from micronet.cli import stage
from micronet.data.datasets import Data
from micronet.data.preprocessing import Preprocessing, statistics_to_record, to_record
from micronet.models import architectures
from micronet.runs.description import versions
from micronet.runs.run_config import RunConfig
from micronet.training.plan import TrainingPlan


def facts(model: nn.Module, data: Data) -> dict[str, Any]:
    """Return what the run's configuration records for its reader."""
    return {
        "num_classes": data.num_classes,
        "channels": data.channels,
        "resolved_image_size": data.image_size,
        "images": stage.image_counts(data),
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": versions(),
    }


def header(
    config: RunConfig,
    model: nn.Module,
    data: Data,
    plan: TrainingPlan,
    preprocessing: Preprocessing | None,
) -> dict[str, Any]:
    """Return what every checkpoint of the run says of itself."""
    return {
        "arch": config.request.arch,
        "num_classes": data.num_classes,
        "channels": data.channels,
        "image_size": data.image_size,
        "preprocessing": to_record(preprocessing),
        "normalization": statistics_to_record(data.statistics),
        "transform_input": architectures.transforms_input(model),
        "stage": config.stage,
        "data": config.request.data,
        "holdout": config.request.holdout,
        "classes": list(data.classes),
        "channels_last": plan.train.channels_last,
    }
