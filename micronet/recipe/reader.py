"""A recipe: strict YAML in, frozen dataclasses out, and back to plain data for a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from micronet.recipe.checks import check
from micronet.recipe.distiller import schedules
from micronet.recipe.schema import Sections
from micronet.recipe.shipped import located
from micronet.recipe.strict import build, to_plain
from micronet.recipe.yaml_source import line_of, read_yaml
from micronet.utils.errors import UserError


class Recipe(Sections):
    """What a user writes: how a network is trained, pruned, quantized and distilled.

    Its sections are ``train``, ``prune``, ``quantize``, ``distill`` and ``augment``, each of which
    may be None. It is read from a file, or made of sections or of plain data:

        Recipe.load("cifar10_resnet20_qat")
        Recipe.from_dict({"quantize": {"weights": {"bits": 4}, "activations": {"bits": 4}}})
        Recipe(prune=PruneSection((PruneGroup(("*",), final_sparsity=0.6),), end_epoch=5))
    """

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a file, ours or Distiller's, or a recipe of the package by its name.

        Raises:
            UserError: it cannot be read, is not YAML, or a key or value in it is not allowed.
        """
        return load_recipe(path)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Recipe:
        """Build a recipe from plain data, with the keys of a file.

        Raises:
            UserError: a key or value in it is not allowed.
        """
        plain = dict(document) if isinstance(document, Mapping) else document
        return recipe_from_dict(plain, cls.path)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that ``from_dict`` reads back."""
        return recipe_to_dict(self)

    def to_yaml(self) -> str:
        """Return the text of a file that ``load`` reads back."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a YAML file, our own or one of Distiller's, whose differences are noted.

    Args:
        path: the file, or the name of a recipe of the package.

    Raises:
        UserError: the file cannot be read, is not YAML, or a key or value in it is not allowed.
    """
    return recipe_from_dict(*read_yaml(str(located(path, "schedule")), "schedule"))


def recipe_from_dict(document: object, path: str) -> Recipe:
    """Build a recipe from plain data, as YAML or a run's ``config.json`` holds it.

    Raises:
        UserError: a key or value in it is not allowed.
    """
    if not isinstance(document, dict) or not document:
        raise UserError(f"schedule {str(path)!r} holds no sections")
    if schedules.is_distiller(document):
        converted = schedules.convert(document, path)
        recipe = recipe_from_dict(converted.recipe, converted.path(path))
        return dataclasses.replace(recipe, notes=tuple(converted.notes))
    for key in ("path", "notes"):
        if key in document:
            raise UserError(f"{line_of(path, key)}: unknown key {key!r}")
    recipe = build(Recipe, document, "", path)
    recipe = dataclasses.replace(recipe, path=path)
    check(recipe)
    return recipe


def checked(recipe: object) -> Recipe:
    """Hold a recipe that was put together in Python to what a file may say, and return it.

    Raises:
        UserError: it is none, or a key or value in it is not allowed.
    """
    if not isinstance(recipe, Recipe):
        raise UserError(
            f"a recipe is a micronet.Recipe, not {type(recipe).__name__}: Recipe.load reads one "
            "from a file, and Recipe.from_dict from plain data"
        )
    built: Recipe = build(Recipe, recipe_to_dict(recipe), "", recipe.path)
    check(built)
    return dataclasses.replace(built, path=recipe.path, notes=recipe.notes)


def recipe_to_dict(recipe: Sections) -> dict[str, Any]:
    """Turn a recipe into plain data that ``recipe_from_dict`` reads back."""
    plain = to_plain(recipe)
    for key in ("path", "notes"):
        plain.pop(key, None)
    return {key: value for key, value in plain.items() if value is not None}
