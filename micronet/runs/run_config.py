"""What a run records of its own settings, so that it can be continued without them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from micronet.recipe.reader import Recipe, recipe_from_dict, recipe_to_dict
from micronet.runs.directory import RunDirectory
from micronet.utils.errors import UserError


@dataclass(frozen=True)
class Overrides:
    """Options that go before the keys of a recipe's ``train`` section; None leaves the recipe's."""

    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    accumulate: int | None = None
    amp: str | None = None
    model_ema: float | None = None
    compile: bool | None = None
    channels_last: bool | None = None
    seed: int | None = None

    def given(self) -> dict[str, Any]:
        """Return those that were given, by the key of the section."""
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Request:
    """What a run was asked for by options; None where one was not given.

    Attributes:
        arch: name of the network.
        data: name or folder of the images.
        image_size: side of the input in pixels.
        holdout: share of the training images to validate on.
        schedule: file or name of the recipe.
        plan: file or name of a plan whose sparsities and bits are taken.
        source: the run that it starts from, ``--from``.
        weights: file of weights to start from.
        pretrained: whether it starts from downloaded weights.
        teacher: network or run to distil from.
        teacher_weights: file of the teacher's weights.
        overrides: of the recipe.
    """

    arch: str | None = None
    data: str | None = None
    image_size: int | None = None
    holdout: float | None = None
    schedule: str | None = None
    plan: str | None = None
    source: str | None = None
    weights: str | None = None
    pretrained: bool | None = None
    teacher: str | None = None
    teacher_weights: str | None = None
    overrides: Overrides = Overrides()

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Request:
        """Take what a mapping holds by the names of the options; others are left alone."""
        own: dict[str, Any] = {
            f.name: options.get(option_of(f.name)) for f in dataclasses.fields(cls)
        }
        names = [f.name for f in dataclasses.fields(Overrides)]
        own["overrides"] = Overrides(**{name: options.get(name) for name in names})
        return cls(**own)

    def by_option(self) -> dict[str, Any]:
        """Return everything by the names of the options."""
        own = {option_of(key): value for key, value in vars(self).items() if key != "overrides"}
        return own | vars(self.overrides)


def option_of(field: str) -> str:
    """Return the name of the option that a field of ``Request`` stands for."""
    return "from" if field == "source" else field


@dataclass(frozen=True)
class RunConfig:
    """The settings of a run: its stage, what was asked for, and the recipe that came of it."""

    stage: str
    request: Request
    recipe: Recipe

    @classmethod
    def of_run(cls, run: RunDirectory) -> RunConfig:
        """Return what a run recorded.

        Raises:
            UserError: the record is missing or damaged.
        """
        record = run.config()
        recipe = recipe_from_dict(record["recipe"], str(run.config_file))
        if recipe.train is None:
            raise UserError(f"{recipe.path}: the run's configuration has no train section")
        return cls(str(record["stage"]), Request.of(record), recipe)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that ``of_run`` reads back."""
        return {**self.request.by_option(), "stage": self.stage, "recipe": self.recipe_as_data()}

    def recipe_as_data(self) -> dict[str, Any]:
        """Return the recipe as plain data."""
        return recipe_to_dict(self.recipe)
