"""YAML as recipes read it: numbers of YAML 1.2, no key twice, and the line of every key."""

import math

import pytest

from micronet.recipe.yaml_source import line_of, read_yaml
from micronet.utils.errors import UserError

SCALARS = {
    "1e-4": 1e-4,
    "1e5": 1e5,
    "1.5E+3": 1500.0,
    ".5": 0.5,
    "1.": 1.0,
    "-3": -3,
    "+3": 3,
    "010": 10,
    "0x1F": 31,
    "0o17": 15,
    "-.INF": -math.inf,
    "2:4": "2:4",
    "12:30:45": "12:30:45",
    "2019-07-26": "2019-07-26",
    "1_000": "1_000",
    ".": ".",
    "true": True,
    "~": None,
}


def read(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return read_yaml(str(path), "recipe")


@pytest.mark.parametrize("text", SCALARS)
def test_scalars(tmp_path, text):
    document, _ = read(tmp_path, f"a: {text}")
    assert document == {"a": SCALARS[text]}
    assert type(document["a"]) is type(SCALARS[text])


def test_not_a_number(tmp_path):
    assert math.isnan(read(tmp_path, "a: .nan")[0]["a"])


def test_lines(tmp_path):
    _, path = read(tmp_path, "a:\n  b: 1\n  c:\n    - x: 1\n    - {y: 2,\n       z: 3}\n")
    for key, line in {"a": 1, "a.b": 2, "a.c[0].x": 4, "a.c[1].z": 6, "a.c[1].q": 5}.items():
        assert line_of(path, key) == f"{path}:{line}"
    assert line_of(path, "q") == str(path)


@pytest.mark.parametrize(
    "text,message",
    [
        ("a: 1\nb: 2\na: 3", "x.yaml:3: a is given twice, in line 1 first"),
        ("a:\n  - b: {c: 1}\n  - b: {c: 1,\n        c: 2}", "x.yaml:4: a[1].b.c is given twice"),
    ],
)
def test_key_twice(tmp_path, text, message):
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)


def test_equal_text_of_other_types_is_another_key(tmp_path):
    assert read(tmp_path, "1: a\n'1': b")[0] == {1: "a", "1": "b"}


def test_anchors_and_merges(tmp_path):
    document, _ = read(tmp_path, "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")
    assert document["b"] == {"x": 1, "y": 3}
