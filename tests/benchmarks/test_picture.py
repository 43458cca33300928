"""The README's picture is what its script makes of the committed results."""

import json
import xml.etree.ElementTree as ElementTree

from benchmarks.pipeline import picture

SVG = "{http://www.w3.org/2000/svg}"


def test_the_committed_picture_is_what_the_script_makes():
    assert picture.PICTURE.read_text() == picture.svg(), "run: make picture"


def test_bars_are_the_committed_numbers():
    times, memory = picture.step_bars()
    results = json.loads((picture.RESULTS / "qat_step_cpu.json").read_text())
    (ours,) = (bar for bar in times if bar.is_ours)
    assert round(ours.value, 3) == results["summary"]["step_vs_plain_silu"]
    (ours,) = (bar for bar in memory if bar.is_ours)
    peaks = {row["variant"]: row["peak_mib"] for row in results["memory"]}
    assert ours.value == peaks["micronet"] / peaks["plain-silu"]
    assert [bar.text for bar in picture.score_bars()] == [
        "0.0716, top-1 84.47 %",
        "0.0349, top-1 85.08 %",
        "0.0229, top-1 84.36 %",
    ]


def test_every_bar_and_text_is_inside():
    root = ElementTree.fromstring(picture.svg())
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    bars = root.findall(f"{SVG}rect")
    assert len(bars) == 2 * len(picture.STEPS) + len(picture.STAGES)
    for bar in bars:
        x, y, wide, high = (float(bar.attrib[key]) for key in ("x", "y", "width", "height"))
        assert x >= 0 and x + wide <= width and y >= 0 and y + high <= height
