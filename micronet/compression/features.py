"""What layers of a student and of its teacher compute, and how far the two are from each other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from micronet.quantization.layers import quantized_layers
from micronet.recipe.layer_patterns import layers_meant
from micronet.recipe.schema import DistillSection
from micronet.recipe.yaml_source import line_of
from micronet.utils.errors import UserError

_KEY = "distill.features"


@dataclass(frozen=True)
class FeaturePlan:
    """Which modules' outputs are compared.

    Attributes:
        names: of the modules, in their order in the student.
        weight: of their distance in the loss.
        where: how messages begin.
    """

    names: tuple[str, ...]
    weight: float
    where: str


def resolve(student: nn.Module, section: DistillSection, path: str) -> FeaturePlan | None:
    """Hold the patterns of a recipe to the modules of a network; None where it has none.

    Raises:
        UserError: a pattern names no module.
    """
    if not section.features or section.feature_weight is None:
        return None
    within = tuple(f"{name}." for name, _ in quantized_layers(student))
    known = [name for name, _ in student.named_modules() if name and not name.startswith(within)]
    meant: set[str] = set()
    for index, pattern in enumerate(section.features):
        key = f"{_KEY}[{index}]"
        meant.update(layers_meant(known, pattern, f"{line_of(path, key)}: {key}"))
    names = tuple(name for name in known if name in meant)
    return FeaturePlan(names, section.feature_weight, f"{line_of(path, _KEY)}: {_KEY}")


class Features:
    """Watches the same modules of two networks while both are called with the same images.

    Args:
        plan: names the modules.
        student: whose outputs are to be those of the teacher.
        teacher: gets no gradient.

    Raises:
        UserError: the teacher has no module of a name.
    """

    def __init__(self, plan: FeaturePlan, student: nn.Module, teacher: nn.Module) -> None:
        self._plan = plan
        self._networks = {"student": student, "teacher": teacher}
        known = dict(teacher.named_modules(remove_duplicate=False))
        for name in plan.names:
            if name not in known:
                raise UserError(f"{plan.where}: the teacher has no module {name!r}")
        self._seen: dict[tuple[str, str], list[Tensor]] = {}

    @contextlib.contextmanager
    def watched(self) -> Iterator[Features]:
        """Keep what the modules compute inside, a copy of each output, for ``loss``."""
        with contextlib.ExitStack() as hooks:
            for whose, network in self._networks.items():
                for name in self._plan.names:
                    module = network.get_submodule(name)
                    handle = module.register_forward_hook(self._keeping(whose, name))
                    hooks.callback(handle.remove)
            try:
                yield self
            finally:
                self._seen.clear()

    def _keeping(self, whose: str, name: str) -> Callable[..., None]:
        kept = whose, name

        def keep(module: nn.Module, inputs: object, output: object) -> None:
            if not isinstance(output, Tensor):
                kind = type(output).__name__
                raise self._refused(f"module {name!r} of the {whose} returns {kind}, no tensor")
            # What follows may write to it, as an activation in place does.
            self._seen.setdefault(kept, []).append(output.clone())

        return keep

    def loss(self) -> Tensor:
        """Return the weighted mean of the distances of what was computed since the last time.

        A module that was called several times counts as that often.

        Raises:
            UserError: a module was not called alike in both networks, or its outputs differ in
                shape.
        """
        seen, self._seen = self._seen, {}
        distances = []
        for name in self._plan.names:
            student, teacher = (seen.get((whose, name), []) for whose in self._networks)
            if not len(student) == len(teacher) > 0:
                often = f"{len(student)} times in the student, {len(teacher)} in the teacher"
                raise self._refused(f"module {name!r} was called {often}")
            for ours, theirs in zip(student, teacher, strict=True):
                if ours.shape != theirs.shape:
                    shapes = f"{tuple(ours.shape)} in the student, {tuple(theirs.shape)}"
                    raise self._refused(f"module {name!r} gives {shapes} in the teacher")
                distances.append(distance(ours, theirs))
        return self._plan.weight * torch.stack(distances).mean()

    def _refused(self, problem: str) -> UserError:
        return UserError(f"{self._plan.where}: {problem}")


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean square difference, as a share of the teacher's own mean square.

    So layers count alike, however large their values are. Where the teacher's are all zero it is
    the mean square difference itself.

    Args:
        student: any shape.
        teacher: the same shape; it gets no gradient.
    """
    wanted = teacher.detach().float()
    size = wanted.square().mean()
    return F.mse_loss(student.float(), wanted) / torch.where(size > 0, size, 1.0)
