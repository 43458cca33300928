"""Which layers names and patterns mean."""

import pytest

from micronet.recipe.layer_patterns import layers_meant, match_layers
from micronet.recipe.yaml_source import YamlPath
from micronet.utils.errors import UserError

NAMES = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer2.0.conv1", "fc"]


@pytest.mark.parametrize(
    "pattern,found",
    [
        ("fc", ["fc"]),
        ("layer1.*", NAMES[1:4]),
        ("layer?.0.conv1", ["layer1.0.conv1", "layer2.0.conv1"]),
        ("layer[2-9]*", ["layer2.0.conv1"]),
        (r"re:layer\d\.0\..*", [NAMES[1], NAMES[2], NAMES[4]]),
        ("re:(fc|conv1)", ["conv1", "fc"]),
        ("re:.*", NAMES),
    ],
)
def test_layers_meant(pattern, found):
    assert layers_meant(NAMES, pattern, "here") == found


@pytest.mark.parametrize(
    "pattern,parts",
    [
        ("layr1*", ["'layr1*' is no layer", "did you mean 'layer1.*'"]),
        ("layer2.0.conv9", ["did you mean 'layer2.0.conv1'"]),
        ("re:conv", ["'re:conv' is no layer"]),
        ("re:(conv", ["'(conv' is no regular expression", "unterminated"]),
        ("re:a{99999999999999999999}", ["no regular expression"]),
        ("", ["'' is no layer"]),
    ],
)
def test_what_means_none(pattern, parts):
    with pytest.raises(UserError) as caught:
        layers_meant(NAMES, pattern, "here")
    assert str(caught.value).startswith("here: ")
    for part in parts:
        assert part in str(caught.value)


def test_exact_names_win_then_the_first_pattern():
    patterns = {"a": ("re:layer1.*",), "b": ("layer*", "fc"), "c": ("layer1.1.conv1",)}
    assigned = match_layers(NAMES, patterns, "x.yaml")
    assert assigned == {
        "layer1.0.conv1": "a",
        "layer1.0.conv2": "a",
        "layer1.1.conv1": "c",
        "layer2.0.conv1": "b",
        "fc": "b",
    }


def test_a_message_names_line_and_key():
    path = YamlPath("x.yaml", {"a.layers": 7})
    with pytest.raises(UserError, match=r"^x\.yaml:7: a\.layers: 'f' is no layer"):
        match_layers(NAMES, {"a.layers": ("conv1", "f")}, path)
