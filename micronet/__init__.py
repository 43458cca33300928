"""Make image networks small: prune them, quantize them to a few bits, train, evaluate and score.

    import micronet

    recipe = micronet.Recipe.load("cifar10_resnet20_qat")
    compression = micronet.compress(model, recipe, steps_per_epoch=len(loader))

What is here is the whole interface of the library; ``micronet train`` and the other commands are
made of it.
"""

from micronet.compression.calibration import calibrate_
from micronet.compression.compression import Compression, compress
from micronet.compression.distillation import Teacher, distillation_loss
from micronet.compression.one_shot import prune_, quantize_
from micronet.compression.report import Report
from micronet.data.datasets import Data, open_data
from micronet.data.preprocessing import Preprocessing
from micronet.models.architectures import create_model, load_weights, preprocessing
from micronet.recipe.reader import (
    ActivationPrecision,
    AugmentSection,
    DistillSection,
    PruneGroup,
    PruneSection,
    QuantizeOverride,
    QuantizeSection,
    Recipe,
    TrainSection,
    WeightPrecision,
)
from micronet.scoring.count import Score, score
from micronet.training.evaluation import Accuracy, evaluate
from micronet.training.optimizer import learning_rate, set_learning_rate
from micronet.utils.errors import UserError

__all__ = [
    "Accuracy",
    "ActivationPrecision",
    "AugmentSection",
    "Compression",
    "Data",
    "DistillSection",
    "Preprocessing",
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
    "learning_rate",
    "load_weights",
    "open_data",
    "preprocessing",
    "prune_",
    "quantize_",
    "score",
    "set_learning_rate",
]
