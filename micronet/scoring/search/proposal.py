"""What a search proposes, as text, and as a plan file that can be scored and trained by."""

from __future__ import annotations

import json
from collections import defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml

from micronet.quantization.quantize import LayerBits
from micronet.runs.checkpoint import write_atomically
from micronet.scoring.comparison import signed
from micronet.scoring.count import Score
from micronet.scoring.network.layer_facts import LayerFacts
from micronet.scoring.network.plan_files import Plan
from micronet.scoring.search.changes import check_is_plan
from micronet.scoring.search.search import Proposal, Step, search
from micronet.scoring.search.sensitivity import load_sensitivity
from micronet.utils.errors import UserError
from micronet.utils.number_format import decimal, exact, fixed, grid, markdown_grid

# Epochs of pruning where the plan has none: those of the 2019 entry's recipe.
_END_EPOCH = 20


def propose(
    base: Score,
    plan: Plan | None,
    sensitivities: str,
    proposal_file: str | None,
    goal: str,
    form: str,
) -> str:
    """Search for a plan that reaches a score, write it, and return the explanation.

    Args:
        base: the planned network's score.
        plan: whose plan it is.
        sensitivities: file of the table to search by.
        proposal_file: where the plan that is found goes, None for nowhere.
        goal: the score to reach, as text.
        form: of the explanation: text, json or markdown.

    Raises:
        UserError: the network is no plan, the table is wrong, or the score is out of reach.
    """
    check_is_plan(base.subject, "--search")
    try:
        target = Fraction(goal)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"--target {goal!r} is not a number") from None
    found = search(base, load_sensitivity(sensitivities, base.subject), target)
    if proposal_file and plan is not None:
        write_atomically(Path(proposal_file), plan_text(found.result, plan).encode())
    return _text(found, base, target, form)


def _text(proposal: Proposal, base: Score, target: Fraction, form: str) -> str:
    if form == "json":
        return json.dumps(_record(proposal, target), indent=2)
    write = markdown_grid if form == "markdown" else grid
    if form == "csv":
        raise UserError("--search has no CSV form; --json has all of it")
    head = ["step", "layer", "from", "to", "loss", "score", "why"]
    rows = [[str(i), *_cells(step)] for i, step in enumerate(proposal.steps, 1)]
    score, planned = proposal.result.score, base.score
    lines = [
        write([head, *rows], left=4),
        "",
        f"score    {fixed(score, 6)}, planned {fixed(planned, 6)} ({signed(score - planned)}), "
        f"target {decimal(target)}",
        f"loss     {decimal(proposal.loss)} in {len(proposal.chosen)} layers, "
        "if the losses of single layers add up",
        "search   greedy by score for loss, then given back what the target does not need",
    ]
    return "\n".join(lines)


def _cells(step: Step) -> list[str]:
    before, after = (str(o.change) or "as planned" for o in (step.before, step.after))
    return [step.layer, before, after, decimal(step.after.loss), fixed(step.score, 6), step.reason]


def _record(proposal: Proposal, target: Fraction) -> dict[str, Any]:
    layers = {
        name: {
            "bits": facts.bits.weight_bits,
            "inputs": facts.bits.activation_bits,
            "nonzeros": facts.nonzero,
        }
        for name, facts in proposal.result.subject.layers.items()
        if name in proposal.chosen
    }
    return {
        "target": exact(target),
        "score_exact": exact(proposal.result.score),
        "score": float(proposal.result.score),
        "loss": exact(proposal.loss),
        "layers": layers,
        "steps": [dict(zip(_FIELDS, _cells(step), strict=True)) for step in proposal.steps],
    }


_FIELDS = ("layer", "from", "to", "loss", "score", "why")


def plan_text(result: Score, plan: Plan) -> str:
    """Return a plan file, YAML, that gives this score: layers grouped by precision and sparsity."""
    document: dict[str, Any] = {"arch": plan.arch, "image_size": result.subject.image_size}
    if plan.num_classes is not None:
        document["num_classes"] = plan.num_classes
    layers = result.subject.layers
    if groups := _groups(layers):
        document["prune"] = _prune(groups, plan)
    if result.subject.is_quantized:
        document["quantize"] = _quantize(layers)
    return yaml.safe_dump(document, sort_keys=False, width=100)


def _groups(layers: Any) -> dict[float, list[str]]:
    """Return the layers by a sparsity whose product with their size is their number of zeros."""
    groups: dict[float, list[str]] = defaultdict(list)
    for name, facts in layers.items():
        if facts.kept < facts.numel:
            groups[_sparsity(facts)].append(name)
    return dict(sorted(groups.items()))


def _sparsity(facts: LayerFacts) -> float:
    """Return the shortest decimal that prunes exactly so many weights; see ``pruned_weights``."""
    zeros = facts.numel - facts.kept
    for digits in range(1, 17):
        # Any share in [zeros, zeros + 1) / numel does; the middle is safe from rounding.
        for value in (zeros / facts.numel, (zeros + 0.5) / facts.numel):
            share = round(value, digits)
            if 0 < share < 1 and int(share * facts.numel) == zeros:
                return share
    raise AssertionError(f"no sparsity prunes {zeros} of {facts.numel} weights")


def _prune(groups: dict[float, list[str]], plan: Plan) -> dict[str, Any]:
    section = plan.prune[0] if plan.prune else None
    when = {
        "start_epoch": section.start_epoch if section else 0,
        "end_epoch": (section and section.end_epoch) or _END_EPOCH,
        "frequency": section.frequency if section else 1,
    }
    return when | {
        "groups": [
            {"layers": names, "initial_sparsity": min(0.05, share), "final_sparsity": share}
            for share, names in groups.items()
        ]
    }


def _quantize(layers: Any) -> dict[str, Any]:
    alike: dict[LayerBits, list[str]] = defaultdict(list)
    for name, facts in layers.items():
        alike[facts.bits].append(name)
    overrides = [
        {
            "layers": names,
            "weights": _weights(bits),
            "activations": _activations(bits),
        }
        for bits, names in alike.items()
    ]
    return {"weights": None, "activations": None, "overrides": overrides}


def _weights(bits: LayerBits) -> dict[str, Any] | None:
    """Return the precision of weights as a schedule has it."""
    if bits.weight_bits is None:
        return None
    step = {"step": "learned"} if bits.weight_step == "learned" else {}
    symmetric = {"symmetric": True} if bits.symmetric else {}
    return {"bits": bits.weight_bits, **step, **symmetric}


def _activations(bits: LayerBits) -> dict[str, Any] | None:
    """Return that of inputs; a decay belongs to a range that is followed."""
    if bits.activation_bits is None:
        return None
    if bits.reads_image:
        return {"step": bits.activation_step}
    if bits.activation_step != "learned":
        return {"bits": bits.activation_bits, "decay": bits.decay}
    offset = {"offset": True} if bits.offset else {}
    start = {} if bits.activation_start == "mean" else {"start": bits.activation_start}
    return {"bits": bits.activation_bits, "step": "learned", **offset, **start}
