"""What the readers of Distiller's schedules share: names, errors, and where a refusal is explained.

What has no counterpart here has a row in a table of ``DOCUMENT``, which says why; the error names
the row by its first cell.
"""

from __future__ import annotations

import re

from micronet.recipe.yaml_source import line_of
from micronet.utils.errors import UserError

DOCUMENT = "docs/from_distiller.md"

SPLICING = "SplicingPruner, BaiduRNNPruner"
RANKING = (
    "L2Ranked..., APoZ, mean-activation, gradient, random, Bernoulli and reconstruction ranking, "
    "group thresholds"
)
BLOCKS = "group_type: Blocks"
OTHER_GROUPS = "group_size above 1, and other group types"
OTHER_WEIGHTS = "biases, normalization, recurrent and embedding weights pruned where they are named"
LOOSE_MASKS = "use_double_copies, discard_masks_at_minibatch_end"
LEVELS = "levels of a policy"
TWICE = "one weight in several pruners, or in several policies"
MIXED = "gradual and one-shot pruners in one file"
EPOCHS = "epochs that are not evenly spaced"
GAMMAS = "MultiStepMultiGammaLR with several gammas"
OTHER_RATES = "the other classes of torch.optim.lr_scheduler, several of them"
SEVERAL_QUANTIZERS = "several quantizers"
REGULARIZERS = (
    "L1Regularizer, GroupLassoRegularizer, GroupVarianceRegularizer, DropFilterRegularizer"
)
OTHER_EXTENSIONS = "other extensions"
OTHER_QUANTIZERS = "DoReFa, WRPN, PACT, the quantizer of NCF"
POST_TRAINING = "PostTrainLinearQuantizer, its options and its files of activation statistics"
AMC = "early exits, --greedy, AMC, --thinnify, --extras"
ROWS = (
    *(SPLICING, RANKING, BLOCKS, OTHER_GROUPS, OTHER_WEIGHTS, LOOSE_MASKS, LEVELS, TWICE, MIXED),
    *(EPOCHS, GAMMAS, OTHER_RATES, SEVERAL_QUANTIZERS, REGULARIZERS, OTHER_EXTENSIONS),
    *(OTHER_QUANTIZERS, POST_TRAINING, AMC),
)


def error(path: str, where: str, problem: str) -> UserError:
    """Return the error of a key: its place, its name, and what is wrong with it."""
    return UserError(f"{line_of(path, where)}: {where} {problem}")


def no_counterpart(row: str) -> str:
    """Return the end of a sentence about what has none, with the row that says why."""
    return f"has no counterpart: see '{row}' in {DOCUMENT}"


def without_parallel(name: str) -> str:
    """Return a name, or an expression of names, without what DataParallel puts into it.

    The whole network may be wrapped, as in ``module.fc``, or a part, as in ``features.module.0``.
    """
    return re.sub(r"\bmodule\\?\.", "", name)
