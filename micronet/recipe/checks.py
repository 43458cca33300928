"""What the numbers of a recipe may be; every error names the file, the line and the key."""

from __future__ import annotations

import re

import micronet_kernels as kernels
from micronet.recipe.quantize_checks import problems
from micronet.recipe.schema import (
    ACTIVATION_STEPS,
    CRITERIA,
    DECODERS,
    IMAGE,
    LR_SCHEDULES,
    METHODS,
    MOST_BITS,
    OPTIMIZERS,
    POLICIES,
    SECOND_ORDER,
    STARTS,
    STEPS,
    ActivationPrecision,
    AugmentSection,
    DistillSection,
    PruneGroup,
    PruneSection,
    QuantizeSection,
    Sections,
    TrainSection,
    WeightPrecision,
)
from micronet.recipe.strict import Inherit
from micronet.recipe.yaml_source import line_of
from micronet.utils.errors import UserError, nearest

STRUCTURES = ("element", "filter", "channel")
AMP = ("none", "bf16")
_BLOCK = re.compile(r"[1-9][0-9]{0,3}x[1-9][0-9]{0,3}|[0-9]{1,2}:[1-9][0-9]?")


def _require(condition: bool, path: str, key: str, problem: str) -> None:
    """Raise ``file:line: key problem`` unless the condition holds."""
    if not condition:
        raise UserError(f"{line_of(path, key)}: {key} {problem}")


def _one_of(value: str, names: tuple[str, ...], path: str, key: str) -> None:
    known = f"{value!r} is not one of {', '.join(names)}{nearest(value, names)}"
    _require(value in names, path, key, known)


def check(recipe: Sections) -> None:
    """Hold every number to its range.

    Raises:
        UserError: one is outside it.
    """
    if recipe.train is not None:
        check_train(recipe.train, recipe.path)
    if recipe.prune is not None:
        _check_prune(recipe.prune, recipe.path)
    if recipe.quantize is not None:
        _check_quantize(recipe.quantize, recipe.path)
    for key, problem in problems(recipe):
        _require(False, recipe.path, key, problem)
    if recipe.distill is not None:
        _check_distill(recipe.distill, recipe.path)
    if recipe.augment is not None:
        _check_augment(recipe.augment, recipe.path)
        _check_decoded(recipe.augment, recipe.train or TrainSection(), recipe.path)


def check_train(t: TrainSection, path: str) -> None:
    """Hold a train section to its ranges; also used after command-line overrides.

    Raises:
        UserError: a number is out of range or the learning-rate schedule is unknown.
    """
    _one_of(t.lr_schedule, LR_SCHEDULES, path, "train.lr_schedule")
    _one_of(t.optimizer, OPTIMIZERS, path, "train.optimizer")
    if t.step_optimizer is not None:
        _one_of(t.step_optimizer, OPTIMIZERS, path, "train.step_optimizer")
    _one_of(t.amp, AMP, path, "train.amp")
    _one_of(t.recompute, kernels.RECOMPUTED, path, "train.recompute")
    _one_of(t.decode, DECODERS, path, "train.decode")
    for key in ("epochs", "batch_size", "accumulate"):
        value = getattr(t, key)
        _require(value >= 1, path, f"train.{key}", f"{value} is not at least 1")
    unsigned = ("weight_decay", "warmup_epochs", "lr_start_epoch", "patience", "seed")
    for key in (*unsigned, "reestimate_batches"):
        value = getattr(t, key)
        _require(0 <= value < 2**63, path, f"train.{key}", f"{value} is negative or too large")
    for key in ("lr", "step_lr", "power", "loss_limit", "eps"):
        value = getattr(t, key)
        positive = value is None or 0 < value < float("inf")
        _require(positive, path, f"train.{key}", f"{value} is no positive number")
    for key in ("momentum", "label_smoothing", "model_ema", "alpha"):
        value = getattr(t, key)
        _require(0 <= value < 1, path, f"train.{key}", f"{value} is not in [0, 1)")
    _require(0 < t.gamma <= 1, path, "train.gamma", f"{t.gamma} is not in (0, 1]")
    two = len(t.betas) == 2 and all(0 <= beta < 1 for beta in t.betas)
    _require(two, path, "train.betas", f"{list(t.betas)} are not two numbers in [0, 1)")
    _check_together(t, path)


def _check_together(t: TrainSection, path: str) -> None:
    _require(t.momentum > 0 or not t.nesterov, path, "train.nesterov", "needs train.momentum > 0")
    _check_is_read(t, path)
    _require(0 <= t.lr_min <= t.lr, path, "train.lr_min", f"{t.lr_min} is not in [0, train.lr]")
    finite = 0 <= t.clip_grad_norm < float("inf")
    _require(finite, path, "train.clip_grad_norm", f"{t.clip_grad_norm} is not a norm")
    divides = t.batch_size % t.accumulate == 0
    parts = f"{t.accumulate} does not divide train.batch_size {t.batch_size}"
    _require(divides, path, "train.accumulate", parts)
    rising = list(t.milestones) == sorted(set(t.milestones)) and min(t.milestones, default=1) >= 1
    problem = f"{list(t.milestones)} are not rising epochs of at least 1"
    _require(rising, path, "train.milestones", problem)
    needed = (t.lr_schedule == "step") == bool(t.milestones)
    problem = (
        f"and lr_schedule {t.lr_schedule!r}: step needs milestones, and nothing else uses them"
    )
    _require(needed, path, "train.milestones", problem)


# What only some optimizers read.
_OF_OPTIMIZERS = {
    "momentum": ("sgd", "rmsprop"),
    "alpha": ("rmsprop",),
    "betas": ("adam", "adamw"),
    "eps": ("adam", "adamw", "rmsprop"),
    "nesterov": ("sgd",),
}


def _check_is_read(t: TrainSection, path: str) -> None:
    """Refuse a value that is not the default where neither optimizer reads it."""
    chosen = {t.optimizer, t.step_optimizer or t.optimizer}
    for key, optimizers in _OF_OPTIMIZERS.items():
        is_default = getattr(t, key) == getattr(TrainSection, key)
        problem = f"is of {' and '.join(optimizers)}, not of {' and '.join(sorted(chosen))}"
        _require(is_default or bool(chosen & {*optimizers}), path, f"train.{key}", problem)


def _check_prune(p: PruneSection, path: str) -> None:
    _one_of(p.method, METHODS, path, "prune.method")
    for i, group in enumerate(p.groups):
        where = f"prune.groups[{i}]"
        _check_timing(p, group, where, path)
        _check_target(p, group, where, path)
        _check_structure(group, where, path)
        _check_criterion(p, group, where, path)
    some = any(g.final_sparsity != 0 for g in p.groups)
    _require(some, path, "prune.groups", "prunes nothing: every final_sparsity is 0")


def _check_timing(p: PruneSection, g: PruneGroup, where: str, path: str) -> None:
    """Hold a group's own epochs, where it has them, and the section's, to each other."""

    def key(name: str) -> str:
        return f"{where}.{name}" if getattr(g, name) is not None else f"prune.{name}"

    start, end, frequency = (
        getattr(p, name) if getattr(g, name) is None else getattr(g, name)
        for name in ("start_epoch", "end_epoch", "frequency")
    )
    _require(start >= 0, path, key("start_epoch"), f"{start} is negative")
    _require(frequency >= 1, path, key("frequency"), f"{frequency} is not at least 1")
    if p.method == "one-shot":
        unused = f"{end} is of no use: one-shot pruning happens at start_epoch"
        _require(end is None, path, key("end_epoch"), unused)
    else:
        _require(end is not None, path, key("end_epoch"), "is missing, which gradual needs")
        order = f"{end} is not after {key('start_epoch')} {start}"
        _require(end is not None and end > start, path, key("end_epoch"), order)


def _check_target(p: PruneSection, g: PruneGroup, where: str, path: str) -> None:
    targets = ("final_sparsity", "threshold", "sensitivity")
    given = [name for name in targets if getattr(g, name) is not None]
    free = not given and ":" in g.structure
    one = f"gives {' and '.join(given) or 'no target'}: it needs one of {', '.join(targets)}"
    _require(len(given) == 1 or free, path, where, one)
    for name in ("threshold", "sensitivity"):
        value = getattr(g, name)
        if value is not None:
            positive = 0 < value < float("inf")
            _require(positive, path, f"{where}.{name}", f"{value} is no positive number")
            plain = g.structure == "element" and g.scope == "layer"
            _require(plain, path, f"{where}.{name}", "goes with structure element and scope layer")
    once = g.sensitivity is None or p.method == "one-shot"
    _require(once, path, f"{where}.sensitivity", "needs prune.method one-shot")
    if g.final_sparsity is not None:
        _check_sparsity(p, g, g.final_sparsity, where, path)


def _check_sparsity(p: PruneSection, g: PruneGroup, final: float, where: str, path: str) -> None:
    for key in ("initial_sparsity", "final_sparsity"):
        value = getattr(g, key)
        _require(0 <= value < 1, path, f"{where}.{key}", f"{value} is not in [0, 1)")
    rises = final >= g.initial_sparsity or p.method == "one-shot"
    below = f"{final} is below {where}.initial_sparsity {g.initial_sparsity}"
    _require(rises, path, f"{where}.final_sparsity", below)


def _check_structure(g: PruneGroup, where: str, path: str) -> None:
    known = g.structure in STRUCTURES or _BLOCK.fullmatch(g.structure) is not None
    hint = nearest(g.structure, STRUCTURES)
    names = f"{g.structure!r} is not element, filter, channel, a block such as 4x1, or N:M{hint}"
    _require(known, path, f"{where}.structure", names)
    _one_of(g.scope, ("layer", "group"), path, f"{where}.scope")
    if ":" in g.structure:
        kept, of = map(int, g.structure.split(":"))
        inside = 0 < kept < of
        _require(inside, path, f"{where}.structure", f"{g.structure!r} does not keep some of {of}")
        agrees = g.final_sparsity in (None, 1 - kept / of)
        other = f"{g.final_sparsity} is not the {1 - kept / of:g} of {g.structure}"
        _require(agrees, path, f"{where}.final_sparsity", other)
        _require(
            g.scope == "layer", path, f"{where}.scope", f"group is of no use for {g.structure}"
        )


def _check_criterion(p: PruneSection, g: PruneGroup, where: str, path: str) -> None:
    key = f"{where}.criterion"
    _one_of(g.criterion, CRITERIA, path, key)
    if g.criterion == SECOND_ORDER:
        share = g.threshold is None and g.sensitivity is None
        _require(share, path, key, f"{SECOND_ORDER} goes with final_sparsity, not a magnitude")
        start = p.start_epoch if g.start_epoch is None else g.start_epoch
        early = (
            f"{SECOND_ORDER} needs gradients before the first masks: a start_epoch of at least 1"
        )
        _require(start >= 1, path, key, early)


def _check_quantize(q: QuantizeSection, path: str) -> None:
    start = q.start_epoch
    _require(start >= 0, path, "quantize.start_epoch", f"{start} is negative")
    places = [("quantize", q.weights, q.activations)]
    for i, override in enumerate(q.overrides):
        places.append((f"quantize.overrides[{i}]", override.weights, override.activations))  # type: ignore[arg-type]
    for where, weights, activations in places:
        for name, precision in (("weights", weights), ("activations", activations)):
            if precision is not None and not isinstance(precision, Inherit):
                _check_precision(precision, f"{where}.{name}", path)


def _check_precision(p: WeightPrecision | ActivationPrecision, where: str, path: str) -> None:
    is_input = isinstance(p, ActivationPrecision)
    _one_of(p.step, ACTIVATION_STEPS if is_input else STEPS, path, f"{where}.step")
    if p.step == IMAGE:
        # What little may be said of it is checked with the layers that it is said of.
        return
    _check_levels(p, where, path)
    if isinstance(p, ActivationPrecision):
        _check_activation(p, where, path)
    else:
        _check_weight(p, where, path)


def _check_activation(p: ActivationPrecision, where: str, path: str) -> None:
    _require(0 <= p.decay < 1, path, f"{where}.decay", f"{p.decay} is not in [0, 1)")
    _one_of(p.start, STARTS, path, f"{where}.start")
    if p.step == "learned":
        unused = f"{p.decay} is of no use: a learned step follows no average"
        default = p.decay == ActivationPrecision.decay
        _require(default, path, f"{where}.decay", unused)
        return
    for key, given in (("offset", p.offset), ("start", p.start != ActivationPrecision.start)):
        value = getattr(p, key)
        shown = str(value).lower() if isinstance(value, bool) else value
        unused = f"{shown} is of no use: it belongs to a learned step"
        _require(not given, path, f"{where}.{key}", unused)


def _check_weight(p: WeightPrecision, where: str, path: str) -> None:
    learned = p.step == "learned"
    both = "true is of no use: a learned step has no range that could be symmetric"
    _require(not (learned and p.symmetric), path, f"{where}.symmetric", both)
    if learned or p.symmetric:
        # Two levels would be -step and 0: no positive level, which the initial step divides by.
        key, value = ("bits", p.bits) if p.levels is None else ("levels", p.levels)
        what = "a learned step of weights needs" if learned else "symmetric weights need"
        few = f"{value} is 2 levels, but {what} 3 or more"
        _require((p.levels or 2.0 ** (p.bits or 0)) >= 3, path, f"{where}.{key}", few)


def _check_levels(p: WeightPrecision | ActivationPrecision, where: str, path: str) -> None:
    one = (p.bits is None) != (p.levels is None)
    _require(one, path, where, "needs one of bits and levels")
    if p.bits is not None:
        problem = f"{p.bits:g} is not between 1 and {MOST_BITS}"
        _require(1 <= p.bits <= MOST_BITS, path, f"{where}.bits", problem)
    if p.levels is not None:
        problem = f"{p.levels} is not between 2 and {2**MOST_BITS}"
        _require(2 <= p.levels <= 2**MOST_BITS, path, f"{where}.levels", problem)


def _check_distill(d: DistillSection, path: str) -> None:
    warm = 0 < d.temperature < float("inf")
    _require(warm, path, "distill.temperature", f"{d.temperature} is no positive number")
    share = d.student_weight
    _require(0 <= share <= 1, path, "distill.student_weight", f"{share} is not in [0, 1]")
    for key in ("distill_weight", "feature_weight"):
        value = getattr(d, key)
        positive = value is None or 0 < value < float("inf")
        _require(positive, path, f"distill.{key}", f"{value} is no positive number")
    weighed = not d.features or d.feature_weight is not None
    _require(weighed, path, "distill.features", "needs distill.feature_weight")
    named = bool(d.features) or d.feature_weight is None
    _require(named, path, "distill.feature_weight", "needs distill.features")
    start = d.start_epoch
    _require(start >= 0, path, "distill.start_epoch", f"{start} is negative")
    alone = d.teacher is not None or d.teacher_weights is None
    _require(alone, path, "distill.teacher_weights", "needs distill.teacher")


def _check_augment(a: AugmentSection, path: str) -> None:
    _one_of(a.policy, POLICIES, path, "augment.policy")
    for key in ("operations", "magnitude"):
        value = getattr(a, key)
        # torchvision's RandAugment has 31 magnitudes, from 0.
        _require(1 <= value <= 30, path, f"augment.{key}", f"{value} is not between 1 and 30")
    for key in ("mixup", "cutmix"):
        value = getattr(a, key)
        _require(
            0 <= value < float("inf"), path, f"augment.{key}", f"{value} is negative or no number"
        )


def _check_decoded(a: AugmentSection, t: TrainSection, path: str) -> None:
    on_cpu = a.policy == "none" or t.decode == "cpu"
    changes = f"device: augment.policy {a.policy!r} changes images on the CPU, one by one"
    _require(on_cpu, path, "train.decode", changes)
