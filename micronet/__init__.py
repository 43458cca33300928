"""Make image networks small: prune them, quantize them to a few bits, train, evaluate and score.

    import micronet

    recipe = micronet.Recipe.load("cifar10_resnet20_learned_qat")
    compression = micronet.compress(model, recipe, steps_per_epoch=len(loader))

What is here is the whole interface of the library; ``micronet train`` and the other commands are
made of it.

Nothing is loaded before it is asked for: what reads a report, or runs before the kernels are built,
needs neither them nor torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from micronet.artifact.engine import Engine
    from micronet.artifact.exporting import export
    from micronet.artifact.reader import load_packed
    from micronet.compression.calibration import calibrate_
    from micronet.compression.compress import compress
    from micronet.compression.compression import Compression
    from micronet.compression.distillation import Teacher, distillation_loss
    from micronet.compression.one_shot import prune_, quantize_
    from micronet.compression.reestimation import reestimate_
    from micronet.compression.report import Report
    from micronet.data.datasets import Data, open_data
    from micronet.data.preprocessing import Preprocessing
    from micronet.models.architectures import create_model, load_weights, preprocessing
    from micronet.recipe.reader import Recipe
    from micronet.recipe.schema import (
        ActivationPrecision,
        AugmentSection,
        DistillSection,
        OscillationSection,
        ProgressiveStage,
        PruneGroup,
        PruneSection,
        QuantizeOverride,
        QuantizeSection,
        TrainSection,
        WeightPrecision,
    )
    from micronet.runs.folder import Loaded, load, save
    from micronet.scoring.count import Score, score
    from micronet.training.evaluation import Accuracy, evaluate
    from micronet.training.optimizer import learning_rate, set_learning_rate
    from micronet.utils.errors import UserError

# Where each name is, as type checkers see it above.
_HOMES = {
    "micronet.artifact.engine": "Engine",
    "micronet.artifact.exporting": "export",
    "micronet.artifact.reader": "load_packed",
    "micronet.compression.calibration": "calibrate_",
    "micronet.compression.compress": "compress",
    "micronet.compression.compression": "Compression",
    "micronet.compression.distillation": "Teacher distillation_loss",
    "micronet.compression.one_shot": "prune_ quantize_",
    "micronet.compression.reestimation": "reestimate_",
    "micronet.compression.report": "Report",
    "micronet.data.datasets": "Data open_data",
    "micronet.data.preprocessing": "Preprocessing",
    "micronet.models.architectures": "create_model load_weights preprocessing",
    "micronet.recipe.reader": "Recipe",
    "micronet.recipe.schema": (
        "ActivationPrecision AugmentSection DistillSection OscillationSection ProgressiveStage "
        "PruneGroup PruneSection QuantizeOverride QuantizeSection TrainSection WeightPrecision"
    ),
    "micronet.runs.folder": "Loaded load save",
    "micronet.scoring.count": "Score score",
    "micronet.training.evaluation": "Accuracy evaluate",
    "micronet.training.optimizer": "learning_rate set_learning_rate",
    "micronet.utils.errors": "UserError",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "Accuracy",
    "ActivationPrecision",
    "AugmentSection",
    "Compression",
    "Data",
    "DistillSection",
    "Engine",
    "Loaded",
    "OscillationSection",
    "Preprocessing",
    "ProgressiveStage",
    "PruneGroup",
    "PruneSection",
    "QuantizeOverride",
    "QuantizeSection",
    "Recipe",
    "Report",
    "Score",
    "Teacher",
    "TrainSection",
    "UserError",
    "WeightPrecision",
    "calibrate_",
    "compress",
    "create_model",
    "distillation_loss",
    "evaluate",
    "export",
    "learning_rate",
    "load",
    "load_packed",
    "load_weights",
    "open_data",
    "preprocessing",
    "prune_",
    "quantize_",
    "reestimate_",
    "save",
    "score",
    "set_learning_rate",
]


def __getattr__(name: str) -> Any:
    """Load a name of the library when it is first used."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'micronet' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Name what is here, loaded or not."""
    return sorted({*globals(), *__all__})
