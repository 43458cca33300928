"""Plans: networks that need not be trained to be scored, an architecture with targets.

A plan is written as YAML: ``arch``, and where wanted ``image_size``, ``num_classes``, ``schedules``
(files found from its own folder, whose ``prune`` and ``quantize`` sections count), and those two
sections themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from micronet.models import architectures, custom
from micronet.models.meta_device import meta_device
from micronet.pruning import prune
from micronet.quantization import quantize
from micronet.quantization.quantize import LayerBits
from micronet.recipe.checks import check
from micronet.recipe.reader import Recipe, load_recipe, recipe_from_dict
from micronet.recipe.schema import PruneSection, QuantizeSection
from micronet.recipe.shipped import located
from micronet.recipe.strict import build
from micronet.recipe.yaml_source import read_yaml
from micronet.scoring.network.assumptions import Assumptions
from micronet.utils.errors import UserError

CLASSES = 1000


@dataclass(frozen=True)
class PlanHead:
    """The keys of a plan file that a schedule has not."""

    arch: str
    image_size: int | None = None
    num_classes: int | None = None
    schedules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """An architecture and its targets; a section comes with the file that it stands in."""

    name: str
    arch: str
    image_size: int | None
    num_classes: int | None
    prune: tuple[PruneSection, str] | None
    quantize: tuple[QuantizeSection, str] | None

    def structure(self) -> nn.Module:
        """Return the network without weights, on the meta device.

        Raises:
            UserError: there is no such architecture.
        """
        with meta_device():
            return self.network()

    def network(self) -> nn.Module:
        """Return the network with initial weights.

        Raises:
            UserError: there is no such architecture.
        """
        if custom.is_own(self.arch):
            return custom.build(self.arch, self.num_classes)
        return architectures.create_model(self.arch, self.num_classes or CLASSES)

    def size_for(self, rules: Assumptions) -> int:
        """Return the side of the input in pixels: as planned, the rule set's, or the network's.

        Raises:
            UserError: a user's network has no size of its own.
        """
        if self.image_size is not None:
            return self.image_size
        own = architectures.default_image_size(self.arch)
        is_efficientnet = self.arch.startswith("efficientnet-b")
        return rules.image_size or own if is_efficientnet else own

    def targets(self, model: nn.Module) -> tuple[dict[str, float], dict[str, LayerBits] | None]:
        """Return the final sparsity of the pruned layers and the bits of all, None if unplanned.

        Raises:
            UserError: a section does not fit the network.
        """
        sparsities = prune.final_sparsities(model, *self.prune) if self.prune else {}
        return sparsities, quantize.plan(model, *self.quantize) if self.quantize else None


def plan_of(
    arch: str,
    schedules: Sequence[str] = (),
    image_size: int | None = None,
    num_classes: int | None = None,
) -> Plan:
    """Return the plan that an architecture and schedule files make.

    Raises:
        UserError: a schedule cannot be read, or two of them have the same section.
    """
    name = f"plan {', '.join(schedules)}" if schedules else "plan without a schedule"
    loaded = [load_recipe(path) for path in schedules]
    return _plan(name, PlanHead(arch, image_size, num_classes), loaded)


def load_plan(path: str) -> Plan:
    """Read a plan file.

    Raises:
        UserError: the file cannot be read, is not YAML, or a key or value in it is not allowed.
    """
    path = str(located(path, "plan"))
    document, place = _read(path)
    names = set(PlanHead.__dataclass_fields__)
    head = build(PlanHead, {k: v for k, v in document.items() if k in names}, "", place)
    for key in ("image_size", "num_classes"):
        value = getattr(head, key)
        if value is not None and value < 1:
            raise UserError(f"{path}: {key} {value} is not at least 1")
    sections = {k: v for k, v in document.items() if k not in names}
    schedules = [load_recipe(Path(path).parent / name) for name in head.schedules]
    if sections:
        schedules.append(recipe_from_dict(sections, place))
    return _plan(f"plan {path}", head, schedules)


def applied(path: str, schedule: Recipe) -> Recipe:
    """Return a schedule with the pruning and precision of a plan file in place of its own.

    A schedule that only prunes, or only quantizes, takes only that; one without either takes both.
    Its oscillations and stages of bits stay, unless the plan has its own.

    Raises:
        UserError: the plan cannot be read, has nothing that the schedule takes, or does not go with
            the schedule's stages.
    """
    plan, names = load_plan(path), ("prune", "quantize")
    taken = [name for name in names if getattr(schedule, name) is not None] or names
    found = {name: getattr(plan, name) for name in taken}
    sections = {name: section[0] for name, section in found.items() if section is not None}
    if not sections:
        raise UserError(f"plan {path!r} has no section {' or '.join(map(repr, taken))}")
    if "quantize" in sections and schedule.quantize is not None:
        sections["quantize"] = _with_training_of(sections["quantize"], schedule.quantize)
    made = dataclasses.replace(schedule, path=f"{schedule.path} with plan {path}", **sections)
    check(made)
    return made


def _with_training_of(plan: QuantizeSection, schedule: QuantizeSection) -> QuantizeSection:
    """Return a plan's section with what only a schedule has of how its precision is trained."""
    return dataclasses.replace(
        plan,
        oscillations=plan.oscillations or schedule.oscillations,
        progressive=plan.progressive or schedule.progressive,
    )


def _read(path: str) -> tuple[dict[str, Any], str]:
    document, place = read_yaml(path, "plan")
    if not isinstance(document, dict) or "arch" not in document:
        raise UserError(f"plan {path!r} has no key 'arch'; a schedule goes with --arch")
    return document, place


def _plan(name: str, head: PlanHead, schedules: Sequence[Recipe]) -> Plan:
    return Plan(
        name,
        head.arch,
        head.image_size,
        head.num_classes,
        _only("prune", schedules),
        _only("quantize", schedules),
    )


def _only(section: str, schedules: Sequence[Recipe]) -> Any:
    """Return a section and its file, None where no schedule has it."""
    found = [(getattr(s, section), s.path) for s in schedules if getattr(s, section) is not None]
    if len(found) > 1:
        raise UserError(f"both {found[0][1]} and {found[1][1]} have a section {section!r}")
    return found[0] if found else None
