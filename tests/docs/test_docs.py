"""What the documents say exists: every test that they name, and every command and key."""

import dataclasses
import re

import pytest

from micronet.cli.train_arguments import parser
from micronet.recipe import schema
from paths import ROOT

DISTILLER = (ROOT / "docs" / "from_distiller.md").read_text()


def test_every_oddity_names_a_test_that_is_there():
    rows = re.findall(r"^\| (\d+) \|.*\| ([^|]*) \|$", DISTILLER, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 35))
    for number, tests in rows:
        named = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", tests)
        assert named, number
        for file, name in named:
            (found,) = (ROOT / "tests").rglob(file)
            text = found.read_text()
            assert not name or f"def {name}(" in text, (number, file, name)


@pytest.mark.parametrize("section", ["train", "prune", "quantize", "distill"])
def test_keys_are_those_of_the_sections(section):
    known = {
        f.name
        for kind in vars(schema).values()
        if dataclasses.is_dataclass(kind)
        for f in dataclasses.fields(kind)
    }
    named = set(re.findall(rf"`{section}\.(\w+)", DISTILLER))
    assert named <= known, named - known


def test_options_are_those_of_the_command_line():
    (commands,) = parser()._subparsers._group_actions
    known = {
        o
        for command in commands.choices.values()
        for a in command._actions
        for o in a.option_strings
    }
    tables = DISTILLER.split("## The oddities")[0]
    ours = "\n".join(row.split("|")[2] for row in tables.splitlines() if row.count("|") >= 3)
    named = set(re.findall(r"`(--[a-z][a-z-]*)", ours)) - {"--rules"}
    assert len(named) > 10 and named <= known, named - known
