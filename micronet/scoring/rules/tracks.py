"""The tracks of the MicroNet Challenge 2019: what divides a score, what an entry must reach.

Source: the challenge's page on scoring, as of the deadline. Baselines: MobileNetV2-1.4 for
ImageNet, WRN-28-10 for CIFAR-100, the tied LSTM of 2048 units for WikiText-103.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from micronet.utils.errors import UserError, nearest
from micronet.utils.number_format import decimal


@dataclass(frozen=True)
class Track:
    """A task: its baselines, in parameters of 32 bits and in operations, and its threshold.

    The threshold is a number of correct images of ``images``, or a perplexity where that is None.
    """

    name: str
    baseline_storage: Fraction
    baseline_operations: Fraction
    threshold: int
    images: int | None


TRACKS = {
    track.name: track
    for track in (
        Track("imagenet", Fraction(6_900_000), Fraction(1_170_000_000), 37_500, 50_000),
        Track("cifar100", Fraction(36_500_000), Fraction(10_490_000_000), 8_000, 10_000),
        Track("wikitext103", Fraction(159_000_000), Fraction(318_000_000), 35, None),
    )
}
DEFAULT = TRACKS["imagenet"]


def find(name: str) -> Track:
    """Return a track by name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in TRACKS:
        raise UserError(f"there is no track {name!r}{nearest(name, TRACKS)}")
    return TRACKS[name]


@dataclass(frozen=True)
class Verdict:
    """Whether an evaluation result reaches a track's threshold; None where it cannot tell."""

    sentence: str
    passed: bool | None


def verdict_of_images(track: Track, correct: int, images: int) -> Verdict:
    """Judge a number of correct images: whole images, never a percentage.

    Raises:
        UserError: the track is judged by perplexity, or more images are correct than there are.
    """
    if track.images is None:
        raise UserError(f"track {track.name!r} is judged by perplexity, not by correct images")
    if images < 1 or not 0 <= correct <= images:
        raise UserError(f"{correct} of {images} images cannot be correct")
    counted = f"{correct:,} of {images:,} correct"
    if images != track.images:
        test_set = f"the test set of track {track.name!r} has {track.images:,} images"
        return Verdict(f"{counted}: no verdict, {test_set}", None)
    passed = correct >= track.threshold
    return Verdict(f"{counted}, threshold {track.threshold:,}: {_word(passed)}", passed)


def verdict_of_perplexity(track: Track, perplexity: Fraction) -> Verdict:
    """Judge a word-level test perplexity, exactly as given: 35.001 is above 35.

    Raises:
        UserError: the track is judged by correct images, or the perplexity is below 1.
    """
    if track.images is not None:
        raise UserError(f"track {track.name!r} is judged by correct images, not by perplexity")
    if perplexity < 1:
        raise UserError(f"perplexity {float(perplexity):g} is below 1")
    passed = perplexity <= track.threshold
    shown = f"perplexity {decimal(perplexity)}"
    return Verdict(f"{shown}, threshold {track.threshold}: {_word(passed)}", passed)


def _word(passed: bool) -> str:
    return "pass" if passed else "fail"
