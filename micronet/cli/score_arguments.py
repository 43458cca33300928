"""The command line of ``python -m micronet.score``: options, and what they name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from micronet.artifact import accounting
from micronet.artifact.reader import is_packed, read
from micronet.cli.options import ScoreOptions
from micronet.cli.train_arguments import Parser, add_own, allow_own, positive
from micronet.recipe.shipped import is_shipped
from micronet.scoring.count import DEFAULT_RULES, RULES
from micronet.scoring.network.accumulators import KINDS
from micronet.scoring.network.plan_files import Plan, load_plan, plan_of
from micronet.scoring.network.scored_network import ScoredNetwork, from_plan, from_run, from_weights
from micronet.scoring.rules.rule_set import RuleSet
from micronet.scoring.rules.tracks import (
    DEFAULT,
    Track,
    Verdict,
    verdict_of_images,
    verdict_of_perplexity,
)
from micronet.utils.errors import UserError, nearest


def parser() -> Parser:
    """Return the parser of the command."""
    top = Parser(prog="python -m micronet.score", description="Count a network exactly.")
    _source_options(top)
    _rule_options(top)
    _output_options(top)
    return top


def _source_options(top: Parser) -> None:
    add = top.add_argument
    add("networks", nargs="*", help="plan (.yaml), run, checkpoint, saved or packed network")
    add("--arch", help="architecture of a plan, timm:NAME, or module:function of your own")
    add_own(top)
    add("--schedule", metavar="FILE", action="append", help="the plan's recipe; may be repeated")
    add("--weights", metavar="FILE", help="count these weights: zeros and values as they are")
    add("--image-size", type=positive, help="side of a plan's input in pixels")
    add("--num-classes", type=positive, help="of a plan (default 1000)")
    add("--assume-bits", action="store_true", help="bill a run in the rule set's usual bits")


def _rule_options(top: Parser) -> None:
    add = top.add_argument
    name = DEFAULT_RULES.name
    add("--rules", default=name, help=f"{', '.join(RULES)} (default {name})")
    add("--track", default=DEFAULT.name, help=f"whose baselines divide (default {DEFAULT.name})")
    add("--accumulator", choices=KINDS, default=KINDS[0], help="width that additions are billed at")
    add("--result", metavar="C/N|PPL|FILE", help="evaluation: correct images, perplexity, or JSON")


def _output_options(top: Parser) -> None:
    add = top.add_argument
    formats = top.add_mutually_exclusive_group()
    for name, text in (("json", "one JSON object"), ("csv", "CSV"), ("markdown", "Markdown")):
        formats.add_argument(f"--{name}", action="store_true", help=f"print {text}")
    add("--as-published", action="store_true", help="add the figures of the rule set's own script")
    add("--layers", action="store_true", help="print a line for every layer")
    add("--entries", action="store_true", help="print every operation and stored tensor")
    add("--proof", action="store_true", help="print how wide each accumulator must be")
    add("--waterfall", metavar="FILE", help="draw where the score comes from (SVG)")
    add("--compare", action="store_true", help="score several networks side by side")
    add("--sweep", metavar="LAYERS=WHAT:A..B", help="bits:2..8, inputs:2..8 or sparsity:0.5..0.9")
    add("--search", metavar="FILE", help="propose bits and sparsity by this sensitivity table")
    add("--target", help="score that --search is to reach")
    add("--proposal", metavar="FILE", help="write what --search proposes as a plan")


FORMS = ("json", "csv", "markdown")


def parse(argv: Sequence[str] | None) -> ScoreOptions:
    """Read a command line, and allow the networks of a user's own that it names.

    Raises:
        UserError: an option is unknown or its value is wrong.
    """
    args = vars(parser().parse_args(argv))
    allow_own(args)
    form = next((name for name in FORMS if args[name]), "text")
    known = {field.name for field in dataclasses.fields(ScoreOptions)}
    return ScoreOptions(**{k: v for k, v in args.items() if k in known}, form=form)


def rules_named(name: str) -> RuleSet:
    """Return a rule set by name.

    Raises:
        UserError: there is none.
    """
    if name not in RULES:
        raise UserError(f"there is no rule set {name!r}{nearest(name, RULES)}")
    return RULES[name]


def check(options: ScoreOptions, rules: RuleSet) -> None:
    """Hold options to each other.

    Raises:
        UserError: two of them contradict each other, or one lacks another.
    """
    if options.accumulator != KINDS[0] and not rules.bills_accumulators:
        raise UserError(f"rule set {options.rules!r} bills additions at widths of its own")
    if options.as_published and rules.published is None:
        raise UserError(f"rule set {options.rules!r} has no program whose figures to repeat")
    _check_jobs(options)
    if options.arch and options.assume_bits:
        raise UserError("--assume-bits belongs to a run; a plan's bits are in its schedule")
    if options.assume_bits and rules is DEFAULT_RULES:
        raise UserError(f"--assume-bits: rule set {options.rules!r} takes no bits for granted")


def _check_jobs(options: ScoreOptions) -> None:
    if bool(options.search) != bool(options.target):
        raise UserError("--search FILE and --target SCORE go together")
    if options.proposal and not options.search:
        raise UserError(f"--proposal {options.proposal} needs --search")
    jobs = [job for job in ("compare", "sweep", "search") if getattr(options, job)]
    if len(jobs) > 1:
        raise UserError(f"--{jobs[0]} and --{jobs[1]} are two jobs: give one of them")
    if options.compare and len(options.networks) < 2:
        raise UserError("--compare needs two or more plans, runs or checkpoints")


def subjects(options: ScoreOptions, rules: RuleSet) -> list[ScoredNetwork]:
    """Return the networks that the command line names, at least one.

    Raises:
        UserError: it names none, or options that do not go with them.
    """
    if bool(options.networks) == bool(options.arch):
        raise UserError("give a run or checkpoint, or a plan by --arch, and not both")
    if options.arch:
        return [_of_plan(_plan(options), options, rules)]
    if len(options.networks) > 1 and not options.compare:
        raise UserError(f"{len(options.networks)} networks are given: add --compare")
    return [_named(name, options, rules) for name in options.networks]


def is_plan(path: str) -> bool:
    """Whether a path is a plan file's, by its ending, or a name that of a shipped plan."""
    return path.endswith((".yaml", ".yml")) or is_shipped(path)


def plan_named(options: ScoreOptions) -> Plan | None:
    """Return the one plan that the command line names, None where it names another network."""
    if options.arch:
        return _plan(options)
    return load_plan(options.networks[0]) if is_plan(options.networks[0]) else None


def _plan(options: ScoreOptions) -> Plan:
    return plan_of(
        str(options.arch), options.schedule or (), options.image_size, options.num_classes
    )


def _of_plan(plan: Plan, options: ScoreOptions, rules: RuleSet) -> ScoredNetwork:
    if options.weights:
        return from_weights(plan, options.weights, rules, options.accumulator)
    return from_plan(plan, rules, options.accumulator)


def _named(name: str, options: ScoreOptions, rules: RuleSet) -> ScoredNetwork:
    inside_plan = {"--schedule": options.schedule, "--image-size": options.image_size}
    inside_plan |= {"--num-classes": options.num_classes}
    for option, value in inside_plan.items():
        if value is not None:
            shown = value[0] if isinstance(value, list) else value
            hint = "is in the plan file" if is_plan(name) else "belongs to a plan"
            raise UserError(f"{option} {shown} {hint}: give --arch, not {name!r}")
    if is_plan(name):
        if options.assume_bits:
            raise UserError("--assume-bits belongs to a run; a plan's bits are in its schedule")
        return _of_plan(load_plan(name), options, rules)
    if options.weights:
        raise UserError(f"--weights {options.weights} goes with --arch or a plan, not with a run")
    if is_packed(name):
        if options.assume_bits:
            raise UserError("--assume-bits belongs to a run; a packed file says its bits")
        return accounting.subject(read(name), rules, options.accumulator)
    return from_run(name, rules, options.assume_bits, options.accumulator)


def verdict(text: str, track: Track) -> Verdict:
    """Judge an evaluation result: ``correct/images``, a perplexity, or a file of them.

    A file holds the JSON object of ``micronet.train eval --json`` (``correct``, ``total``), or one
    with ``perplexity``, a number or, to be exact, its decimal as text.

    Raises:
        UserError: it is none of these, or not what the track is judged by.
    """
    correct, slash, images = text.partition("/")
    if slash and correct.strip().isdecimal() and images.strip().isdecimal():
        return verdict_of_images(track, int(correct), int(images))
    try:
        perplexity = Fraction(text)
    except (ValueError, ZeroDivisionError):
        return _verdict_of_file(text, track)
    return verdict_of_perplexity(track, perplexity)


def _verdict_of_file(path: str, track: Track) -> Verdict:
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"), parse_float=Fraction)
    except OSError as error:
        hint = "it is no correct/images, no perplexity, and no file"
        raise UserError(f"--result {path!r}: {hint} ({error.strerror})") from None
    except ValueError:
        raise UserError(f"--result {path!r} is not a JSON file") from None
    record = record if isinstance(record, dict) else {}
    if all(type(record.get(key)) is int for key in ("correct", "total")):
        return verdict_of_images(track, record["correct"], record["total"])
    try:
        perplexity = Fraction(record["perplexity"])
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"--result {path!r} has neither whole numbers 'correct' and 'total' nor 'perplexity'"
        ) from None
    return verdict_of_perplexity(track, perplexity)
