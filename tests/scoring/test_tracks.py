"""Tracks and verdicts: whole images, exact perplexities."""

import json

import pytest

from micronet.cli import score_arguments
from micronet.scoring.rules.tracks import TRACKS, find
from micronet.utils.errors import UserError


# Baselines and thresholds as the challenge's page on scoring has them at its deadline.
@pytest.mark.parametrize(
    ("name", "storage", "operations", "threshold", "images"),
    [
        ("imagenet", 6_900_000, 1_170_000_000, 37_500, 50_000),
        ("cifar100", 36_500_000, 10_490_000_000, 8_000, 10_000),
        ("wikitext103", 159_000_000, 318_000_000, 35, None),
    ],
)
def test_tracks(name, storage, operations, threshold, images):
    track = find(name)
    assert (track.baseline_storage, track.baseline_operations) == (storage, operations)
    assert (track.threshold, track.images) == (threshold, images)


@pytest.mark.parametrize(
    ("track", "text", "sentence", "passed"),
    [
        ("imagenet", "37512/50000", "37,512 of 50,000 correct, threshold 37,500: pass", True),
        ("imagenet", "37500/50000", "37,500 of 50,000 correct, threshold 37,500: pass", True),
        # 74.998 % is 75.00 % to two places, and not enough.
        ("imagenet", "37499/50000", "37,499 of 50,000 correct, threshold 37,500: fail", False),
        ("cifar100", "8000/10000", "8,000 of 10,000 correct, threshold 8,000: pass", True),
        (
            "imagenet",
            "801/1000",
            "801 of 1,000 correct: no verdict, the test set of track 'imagenet' has 50,000 images",
            None,
        ),
        ("wikitext103", "34.95", "perplexity 34.95, threshold 35: pass", True),
        ("wikitext103", "35", "perplexity 35, threshold 35: pass", True),
        ("wikitext103", "35.0000000001", "perplexity 35.0000000001, threshold 35: fail", False),
    ],
)
def test_verdicts(track, text, sentence, passed):
    verdict = score_arguments.verdict(text, TRACKS[track])
    assert (verdict.sentence, verdict.passed) == (sentence, passed)


def test_verdicts_of_files(tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"correct": 37512, "total": 50000, "top1": 75.024}))
    assert score_arguments.verdict(str(path), TRACKS["imagenet"]).passed
    path.write_text('{"perplexity": 35.00000000000000000001}')
    # As a double it would be 35.
    assert not score_arguments.verdict(str(path), TRACKS["wikitext103"]).passed
    path.write_text('{"perplexity": "34.95"}')
    assert score_arguments.verdict(str(path), TRACKS["wikitext103"]).passed


@pytest.mark.parametrize(
    ("track", "text", "message"),
    [
        ("imagenet", "75.02", "is judged by correct images, not by perplexity"),
        ("wikitext103", "1/2", "is judged by perplexity, not by correct images"),
        ("imagenet", "2/1", "2 of 1 images cannot be correct"),
        ("imagenet", "0/0", "0 of 0 images cannot be correct"),
        ("wikitext103", "0.5", "perplexity 0.5 is below 1"),
        ("imagenet", "no.json", "'no.json': it is no correct/images, no perplexity, and no file"),
        ("imagenet", "75%", "'75%': it is no correct/images"),
    ],
)
def test_results_that_cannot_be_judged(track, text, message):
    with pytest.raises(UserError, match=message):
        score_arguments.verdict(text, TRACKS[track])


@pytest.mark.parametrize("content", ["[]", '{"top1": 75.0}', '{"correct": 1.5, "total": 2}', "{"])
def test_files_that_cannot_be_judged(tmp_path, content):
    path = tmp_path / "result.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"result\.json' (has neither|is not a JSON file)"):
        score_arguments.verdict(str(path), TRACKS["imagenet"])
