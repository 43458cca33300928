"""The recipes that are compared: what each starts from, and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Plain = dict[str, Any]

# The network that every training of a seed starts from, and that teaches the quantized ones.
DENSE = "dense"

# All that multiplies but the stem, the classifier and depthwise convolutions, which hold few
# weights and lose most by it; ranked together, so that each layer finds its own share.
_PRUNED = "re:(?!conv1$|fc$|.*depthwise$).*"

_RANGE = {"weights": {"bits": 4}, "activations": {"bits": 4}}
_STEP = {"bits": 4, "step": "learned"}
_LEARNED = {"weights": _STEP, "activations": _STEP}
_OFFSET = {"weights": _STEP, "activations": {**_STEP, "offset": True, "start": "mse"}}
_BN = {"reestimate_batches": 50}
_FREEZE = {"oscillations": {"freeze": 0.015, "momentum": 0.01}}
_ADAM = {"step_optimizer": "adam", "step_lr": 1e-5}
# Five levels, as few as any layer has: the last stage of bits has to reach each layer's own.
_CLASSIFIER_BITS = 2.4


@dataclass(frozen=True)
class Epochs:
    """How long each stage trains."""

    fit: int
    prune: int
    qat: int


@dataclass(frozen=True)
class Variant:
    """One training: a stage of ``micronet.train``, the variant it starts from, and its recipe."""

    stage: str
    start: str | None
    recipe: Plain


def table(epochs: Epochs) -> dict[str, Variant]:
    """Return every variant by name, each after the one that it starts from."""
    bits = _progressive(epochs.qat)
    stages: Plain = {"progressive": bits} if bits else {}

    def sparse(**group: Any) -> Variant:
        return _sparse(epochs.prune, group)

    def four(start: str, *quantize: Plain, **train: Any) -> Variant:
        return _four_bits(epochs.qat, start, quantize, train)

    return {
        DENSE: _dense(epochs.fit),
        "sparse": sparse(),
        "sparse-1x4": sparse(structure="1x4"),
        "sparse-second-order": sparse(criterion="second-order"),
        "sparse-1x4-second-order": sparse(structure="1x4", criterion="second-order"),
        "range": four("sparse", _RANGE),
        "range+bn": four("sparse", _RANGE, **_BN),
        "range+bn+freeze": four("sparse", _RANGE, _FREEZE, **_BN),
        "range+bn+freeze+progressive": four("sparse", _RANGE, _FREEZE, stages, **_BN),
        "learned": four("sparse", _LEARNED),
        "learned+adam": four("sparse", _LEARNED, **_ADAM),
        "learned+bn": four("sparse", _LEARNED, **_BN),
        "learned+bn+freeze": four("sparse", _LEARNED, _FREEZE, **_BN),
        "learned+bn+freeze+progressive": four("sparse", _LEARNED, _FREEZE, stages, **_BN),
        "offset": four("sparse", _OFFSET),
        "offset+bn": four("sparse", _OFFSET, **_BN),
        "offset+bn+freeze": four("sparse", _OFFSET, _FREEZE, **_BN),
        "offset+bn+freeze+progressive": four("sparse", _OFFSET, _FREEZE, stages, **_BN),
        "range-1x4": four("sparse-1x4", _RANGE),
        "range-second-order": four("sparse-second-order", _RANGE),
        "range-1x4-second-order": four("sparse-1x4-second-order", _RANGE),
    }


def _train(epochs: int, lr: float, weight_decay: float, **keys: Any) -> Plain:
    return {"epochs": epochs, "lr": lr, "weight_decay": weight_decay, "nesterov": True, **keys}


def _dense(epochs: int) -> Variant:
    train = _train(epochs, 0.1, 5e-4, warmup_epochs=min(2, epochs // 5))
    return Variant("fit", None, {"train": train})


def _sparse(epochs: int, keys: Plain) -> Variant:
    group = {"layers": [_PRUNED], "final_sparsity": 0.6, "scope": "group", **keys}
    # A second order needs gradients before the first masks; the last epochs recover.
    start = min(1, epochs - 1)
    end = max(start + 1, -(-2 * epochs // 3))
    prune = {"start_epoch": start, "end_epoch": end, "groups": [group]}
    return Variant("prune", DENSE, {"train": _train(epochs, 0.05, 5e-4), "prune": prune})


def _four_bits(epochs: int, start: str, quantize: tuple[Plain, ...], keys: Plain) -> Variant:
    section: Plain = {
        "overrides": [
            {"layers": ["conv1"], "weights": None, "activations": None},
            {"layers": ["fc"], "weights": {"bits": _CLASSIFIER_BITS}, "activations": None},
        ]
    }
    for part in quantize:
        section |= part
    distill = {"temperature": 2.0, "student_weight": 0.3}
    train = _train(epochs, 0.02, 1e-4, **keys)
    return Variant("qat", start, {"train": train, "quantize": section, "distill": distill})


def _progressive(epochs: int) -> list[Plain]:
    """Return 8 -> 5 -> 4 bits, activations first, in the first half of the training.

    The last number of weights is the classifier's; the others have their 4 bits, no fewer. A
    training too short for all of these begins with 8 and skips some; one of a single epoch has no
    stages.
    """
    last = {"weights": _CLASSIFIER_BITS, "activations": 4}
    stages = [
        {"weights": 8, "activations": 8},
        {"activations": 5},
        {"weights": 5, "activations": last["activations"]},
        {"weights": last["weights"]},
    ]
    at = [index * epochs // 6 for index in range(len(stages))]
    together: dict[int, Plain] = {}
    for epoch, stage in zip(at, stages, strict=True):
        before = together.get(epoch, {})
        together[epoch] = stage | before if epoch == 0 else before | stage
    if len(together) == 1:
        return []
    reached = {item for stage in together.values() for item in stage.items()}
    together[max(together)] |= dict(last.items() - reached)
    return [{"epoch": epoch, **stage} for epoch, stage in together.items()]
