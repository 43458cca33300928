"""What README and pages say can be done can be done: links, paths, commands, recipes, snippets."""

import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

import micronet
import micronet.export as export
from micronet import report
from micronet.cli import score_arguments, train_arguments
from micronet.recipe import shipped
from micronet.recipe.reader import load_recipe
from micronet.train import main as train
from micronet.utils.errors import UserError
from paths import ROOT

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *DOCS.glob("api/*.md")])
PAGES.append(ROOT / "examples" / "README.md")
# Folders whose paths in code spans are ours; a placeholder has capitals.
_FOLDERS = "csrc|kernels|micronet|tests|benchmarks|docs|examples|schedules"
_PATH = re.compile(rf"(?:{_FOLDERS})/[a-z0-9_./*]*")
# Options of torchrun, and of commands that are no commands of micronet.
_FOREIGN = {"--nproc-per-node", "--max-restarts", "--count", "--no-build-isolation", "--help"}


def named(page):
    return str(page.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=named)


def prose(page):
    """The text of a page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def spans(text):
    return re.findall(r"`([^`\n]+)`", text)


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def all_blocks(language):
    return [
        pytest.param(block, id=f"{named(page)} {number}")
        for page in PAGES
        for number, block in enumerate(blocks(page, language))
    ]


def commands(block):
    """The commands of a block of shell, as words."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def anchor(heading):
    """The anchor of a heading, as the site's generator makes it."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@every_page
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        path, _, fragment = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            assert fragment in map(anchor, headings), target


@every_page
def test_named_paths_are_there(page):
    if page.name == "CHANGELOG.md":
        return
    paths = [span for span in spans(prose(page)) if _PATH.fullmatch(span)]
    for path in paths:
        assert any(ROOT.glob(path.rstrip("/"))), path


@every_page
def test_words_of_make_are_targets(page):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named_words = re.findall(r"(?:^|`| {4})make ([a-z-]+)", page.read_text(), re.MULTILINE)
    assert set(named_words) <= set(targets)


def options_of_train():
    (stages,) = train_arguments.parser()._subparsers._group_actions
    actions = [a for command in stages.choices.values() for a in command._actions]
    return {option for action in actions for option in action.option_strings}


def options_of_score():
    return {o for action in score_arguments.parser()._actions for o in action.option_strings}


def options_of_report(capsys):
    with pytest.raises(SystemExit):
        report.main(["--help"])
    return set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


def options_of_export():
    return {o for action in export.parser()._actions for o in action.option_strings}


def test_options_in_prose_exist(capsys):
    known = options_of_train() | options_of_score() | options_of_export() | _FOREIGN
    known |= options_of_report(capsys)
    for page in PAGES:
        if page.name in ("from_distiller.md", "CHANGELOG.md"):
            continue
        for span in spans(prose(page)):
            found = set(re.findall(r"(?:^|\s)(--[a-z][a-z0-9-]*)", span))
            # A benchmark or a test has options of its own.
            assert found <= known, (named(page), span)


def check_command(words, capsys):
    """Hold one command line to the parser that would read it."""
    program, *rest = words
    if program == "torchrun":
        program, rest = "python", rest[rest.index("-m") :]
    if program == "micronet":
        program, rest = "python", ["-m", f"micronet.{rest[0]}", *rest[1:]]
    if program in ("make", "cmake"):
        return
    if program == "micronet-run":
        usage = (ROOT / "csrc" / "engine" / "command" / "main.cpp").read_text()
        assert all(f'"  {word} ' in usage for word in rest if word.startswith("--")), words
        return
    assert program == "python", words
    if rest[0] != "-m":
        assert (ROOT / rest[0]).exists(), words
        return
    module, *arguments = rest[1:]
    if module == "micronet.report":
        options = {word for word in arguments if word.startswith("--")}
        assert options <= options_of_report(capsys)
        return
    if module == "micronet.export":
        export.check(export.parser().parse_args(arguments))
        return
    parsers = {"micronet.train": train_arguments.parser, "micronet.score": score_arguments.parser}
    parsed = vars(parsers[module]().parse_args(arguments))
    schedules = parsed.get("schedule") or ()
    names = [schedules] if isinstance(schedules, str) else [*schedules]
    names += [parsed["file"]] if parsed.get("command") == "schedule" else []
    names += parsed.get("networks", ())
    # Files and runs are the reader's own.
    own = ("runs/", "packed")
    known = {name for name in names if not Path(name).suffix and not name.startswith(own)}
    assert known <= set(shipped.names()), words


@pytest.mark.parametrize("block", all_blocks("bash"))
def test_commands_can_be_read(block, capsys):
    for words in commands(block):
        check_command(words, capsys)


def test_a_command_that_is_wrong_is_found(capsys):
    wrong = [
        "python -m micronet.train qat --schedul x --out y",
        "python -m micronet.train qat --schedule cifar10_resnet20_qta --out y",
        "python -m micronet.score no_such_plan",
        "micronet export runs/qat",
        "python tests/support/nothing.py",
    ]
    for line in wrong:
        with pytest.raises((AssertionError, KeyError, UserError)):
            check_command(shlex.split(line), capsys)


@pytest.mark.parametrize("block", all_blocks("yaml"))
def test_recipes_can_be_read(block, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(block)
    load_recipe(path)


@pytest.mark.parametrize("block", all_blocks("python"))
def test_snippets_run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "snippet", "exec"), {"__name__": "snippet"})
    assert not list(tmp_path.iterdir())


def test_every_recipe_of_the_package_is_listed():
    section = (DOCS / "recipes.md").read_text().split("## Recipes of the package")[1]
    table = "\n".join(re.findall(r"^\| (`.*?) \|", section.split("## Layers")[0], re.MULTILINE))
    assert sorted(spans(table)) == shipped.names()


def test_a_recipe_of_the_readme_can_be_shown(capsys):
    assert train(["schedule", "cifar10_resnet20_qat", "--arch", "resnet20"]) == 0
    assert capsys.readouterr().out


def test_from_the_map_one_step_leads_there():
    section = (DOCS / "architecture.md").read_text().split("## From here in one step")[1]
    _, *rows = re.findall(r"^\| (.*?) \| (.*) \|$", section.split("\n## ")[0], re.MULTILINE)
    wanted = {
        "the learning-rate schedule": "def learning_rate(",
        "the rule that bills a swish": '"swish": (3, 1)',
        "the AVX2 loop of the depthwise convolution": "__m256i",
    }
    assert set(wanted) <= {change for change, _ in rows}
    for change, place in rows:
        paths = [span for span in spans(place) if _PATH.fullmatch(span)]
        assert paths, change
        text = "\n".join((ROOT / path).read_text() for path in paths)
        assert wanted.get(change, "") in text, change
        for name in set(spans(place)) - set(paths):
            assert name.removeprefix("import ") in text, (change, name)


def test_every_page_is_on_the_site():
    nav = (ROOT / "mkdocs.yml").read_text().split("\nnav:")[1]
    listed = {str(path) for path in re.findall(r"[a-z_/]+\.md", nav)}
    assert listed == {str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md")}


def test_modules_of_the_reference_are_there():
    words = [m for p in PAGES for m in re.findall(r"^::: (\S+)$", p.read_text(), re.MULTILINE)]
    exported = {f"micronet.{name}" for name in micronet.__all__}
    assert len(words) > 20 and all(word in exported or find_spec(word) for word in words)
    assert len(exported & set(words)) >= 9 and all(hasattr(micronet, n) for n in micronet.__all__)


def test_results_are_those_of_the_benchmarks():
    results = (ROOT / "benchmarks" / "results" / "cifar10_resnet20.md").read_text()
    cells = {cell.strip() for line in results.splitlines() for cell in line.split("|")}
    for page in (ROOT / "README.md", DOCS / "benchmarks.md"):
        rows = re.findall(r"^\| (?:fit|prune|qat) .*\|$", page.read_text(), re.MULTILINE)
        assert len(rows) == 3
        for row in rows:
            assert {cell.strip() for cell in row.split("|")} <= cells, row


STEPS = {
    "micronet, 4/4 bits": "micronet",
    "micronet, 8/8 bits": "micronet-8/8",
    "micronet, 4/4 bits, learned steps": "micronet-learned",
    "micronet, 4/4 bits, learned steps and offsets": "micronet-offset",
    "micronet, 4/4 bits, integers made again": "micronet-recompute",
    "plain, as the package makes it": "plain",
    "plain, torch.compile": "plain-compiled",
    "straight-through QAT, torch.compile": "compiled-qat",
    "torch.fused_moving_avg_obs_fake_quant": "torch-fused",
    "Distiller's chain": "distiller",
    "torch FX QAT": "torch-fx",
}


def test_times_and_memory_are_those_of_the_benchmarks():
    results = json.loads((ROOT / "benchmarks" / "results" / "qat_step_cpu.json").read_text())
    warm = [row for row in results["steps"] if row["allocator"] == "warm"]
    # Of a variant in two groups the first counts.
    times = {row["variant"]: row["ratio"] for row in reversed(warm)}
    memory = {row["variant"]: row for row in results["memory"]}
    section = (DOCS / "benchmarks.md").read_text().split("## A training step")[1]
    rows = re.findall(r"^\| (.*) \|$", section.split("\n## ")[0], re.MULTILINE)[1:]
    assert [row.split(" | ")[0] for row in rows] == list(STEPS)
    for row in rows:
        label, time, saved, peak = (cell.strip() for cell in row.split("|"))
        variant = STEPS[label]
        assert time == f"{times[variant]:.2f}", label
        for text, key in ((saved, "saved_mib"), (peak, "peak_mib")):
            value = memory[variant][key]
            over = None if value is None else value / memory["plain-silu"][key]
            assert text == ("" if over is None else f"{over:.2f}"), (label, key)


def test_the_version_has_an_entry():
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert f"\n## [{version.group(1)}] - " in (ROOT / "CHANGELOG.md").read_text()
