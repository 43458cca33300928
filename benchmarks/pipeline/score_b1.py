"""``python -m benchmarks.pipeline.score_b1 FILE``: the B1 of 2019 under the official rules.

States the exact totals of the 2019 entry's recipe in Markdown, and how they differ from its
score on the leaderboard, layer by layer.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from micronet.runs.checkpoint import write_atomically
from micronet.scoring.comparison import signed
from micronet.scoring.count import Score, score_subject
from micronet.scoring.network import accumulators
from micronet.scoring.network.plan_files import load_plan
from micronet.scoring.network.scored_network import ScoredNetwork, from_plan
from micronet.scoring.rules.ist_versions import LEADERBOARD
from micronet.scoring.rules.official import OFFICIAL
from micronet.utils.errors import UserError, reports_user_errors
from micronet.utils.number_format import decimal, fixed, markdown_grid

PLAN = "efficientnet_b1_plan"
_WORK_OF_LAYERS = {"multiplications", "additions", "bias additions", "convolution", "linear"}


def document() -> str:
    """Return the whole text; its figures are counted anew."""
    plan = load_plan(PLAN)
    meant = from_plan(plan, OFFICIAL)
    verified = score_subject(from_plan(plan, LEADERBOARD), LEADERBOARD)
    counted = score_subject(meant, OFFICIAL, ops=verified.ops)
    variants = _variants(meant, counted)
    return "\n".join(
        [
            *_HEAD,
            markdown_grid(_totals(variants, verified)),
            *_AFTER_TOTALS,
            markdown_grid(_by_cause(verified, counted)),
            *_BEFORE_LAYERS,
            markdown_grid(_by_layer(verified, counted, variants)),
            "",
        ]
    )


_HEAD = [
    "# EfficientNet-B1 of the 2019 entry under the official rules",
    "",
    "Made by `python -m benchmarks.pipeline.score_b1 benchmarks/results/score_b1.md`; nothing is"
    " trained or measured.",
    "The plan is `schedules/efficientnet_b1_plan.yaml`: the 2019 schedules' sparsities (61.2 % of"
    " the weights),",
    "4-bit weights and inputs at 224x224, a float stem, and a classifier of 5 levels with a float"
    " input.",
    "Rule set `micronet` unless said otherwise. Storage is in parameters of 32 bits, operations in"
    " operations on",
    "32 bits. Zeros of a plan are spread evenly over the output channels; widths of accumulators"
    " hold for any",
    "weights of these levels and zeros.",
    "",
]
_AFTER_TOTALS = [
    "",
    "The 2019 training code quantized no activation of this network (its quantizer wraps ReLU, and"
    " there is none),",
    "so the line without quantized inputs is what the entry's own network would have been billed."
    " Narrower",
    "accumulators may be claimed only by an engine that executes or proves them; ours has not been"
    " scored so.",
    "",
    "## Where the official count differs from the leaderboard's 0.3772",
    "",
    "32-bit accumulators, inputs quantized. In units of the score.",
    "",
]
_BEFORE_LAYERS = [
    "",
    "- Weights and masks: the entry billed its float stem 16 bits a weight, which is not allowed"
    " beside quantized",
    "  layers.",
    "- Biases: it billed the folded ones 4 bits, pruned like their layer; they are floats.",
    "- Scales and zero points: it billed none.",
    "- Layers: it divided depthwise work by the number of groups a second time; billed one bias a"
    " position instead of",
    "  one an output; and billed the classifier's products 3 bits, though its input is float.",
    "- Element-wise work: it billed three operations a swish instead of four, one more activation"
    " behind every",
    "  projection, in place of residual additions and where there are none, and a gate's sigmoid"
    " on the whole map; but",
    "  poolings at 4 bits.",
    "",
    "## Layer by layer",
    "",
    "With the element-wise work behind each layer; in units of the score. The last three columns:"
    " bits that the",
    "layer's additions are billed at, `proven`, and `tree` in the mean; and products of its"
    " longest sum.",
    "",
]


def _variants(meant: ScoredNetwork, counted: Score) -> dict[str, Score]:
    def score(subject: ScoredNetwork) -> Score:
        return score_subject(subject, OFFICIAL, ops=counted.ops)

    variants = {"as meant, accumulator 32": counted}
    for kind in accumulators.KINDS[1:]:
        narrow = dataclasses.replace(meant, accumulator=kind)
        variants[f"as meant, accumulator {kind}"] = score(narrow)
    variants["no input quantized"] = score(_with_inputs(meant, None))
    variants["every input at 4 bits, the image's and the classifier's too"] = score(
        _with_inputs(meant, 4)
    )
    return variants


def _with_inputs(subject: ScoredNetwork, bits: float | None) -> ScoredNetwork:
    """Return the plan with every layer's input at so many bits, weights as they are."""
    layers = {
        name: dataclasses.replace(f, bits=dataclasses.replace(f.bits, activation_bits=bits))
        for name, f in subject.layers.items()
    }
    return dataclasses.replace(subject, layers=layers)


def _totals(variants: dict[str, Score], verified: Score) -> list[list[str]]:
    head = ["counted", "storage", "operations", "score", "exactly"]
    rows = [_total(name, score) for name, score in variants.items()]
    return [head, *rows, _total("as meant, rule set `leaderboard`", verified)]


def _total(name: str, score: Score) -> list[str]:
    return [
        name,
        decimal(score.storage),
        decimal(score.operations),
        fixed(score.score, 6),
        f"{score.score.numerator}/{score.score.denominator}",
    ]


def _by_cause(verified: Score, counted: Score) -> list[list[str]]:
    causes = {
        "weights and masks": ({"weights", "masks", "convolution", "linear"}, set()),
        "biases": ({"biases", "bias"}, set()),
        "scales and zero points": ({"scales and zero points"}, set()),
        "layers' products and additions": (set(), _WORK_OF_LAYERS),
        "element-wise work": (set(), None),
    }
    rows = [["", "leaderboard", "official", "difference"]]
    for cause, (stored, executed) in causes.items():
        old, new = (_part(score, stored, executed) for score in (verified, counted))
        rows.append([cause, fixed(old, 6), fixed(new, 6), signed(new - old)])
    total = [fixed(verified.score, 6), fixed(counted.score, 6)]
    return [*rows, ["sum", *total, signed(counted.score - verified.score)]]


def _part(score: Score, stored: set[str], executed: set[str] | None) -> Fraction:
    """Return the part of a score in some kinds; None stands for all work that is not of layers."""
    zero = Fraction(0)
    storage = sum((c.used for c in score.stored if c.kind in stored), zero)
    work = (
        c.used
        for c in score.executed
        if (c.kind in executed if executed is not None else c.kind not in _WORK_OF_LAYERS)
    )
    return score.share_of(storage, sum(work, zero))


def _by_layer(verified: Score, counted: Score, variants: dict[str, Score]) -> list[list[str]]:
    rows = [["layer", "leaderboard", "official", "difference", "proven", "tree", "products"]]
    for old, new in zip(verified.rows(), counted.rows(), strict=True):
        assert old.name == new.name and new.facts is not None
        proof = accumulators.prove(new.facts)
        widths = [str(proof.width), f"{proof.tree_mean:.2f}", str(proof.products)]
        difference = signed(new.score - old.score)
        rows.append([new.name, fixed(old.score, 6), fixed(new.score, 6), difference, *widths])
    difference = signed(counted.score - verified.score)
    return [
        *rows,
        ["sum", fixed(verified.score, 6), fixed(counted.score, 6), difference] + [""] * 3,
    ]


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write the document to the file that the command line names."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) != 1:
        raise UserError("give the one file to write")
    write_atomically(Path(arguments[0]), document().encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
