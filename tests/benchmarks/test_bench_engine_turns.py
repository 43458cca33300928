"""The turns of the engine's benchmark: processes that run when asked, and what is missing there."""

import io
import json
import sys
import time

import pytest

from benchmarks.engine import peer_models, settings, turns, worker
from benchmarks.engine.settings import B1, LITERT, OPENVINO, OURS, TORCH, Job, Setting
from engine_programs import program

ONE = Setting(B1, 1, 1)


def test_ours_takes_turns_in_each_form_and_each_peer_once(tmp_path):
    jobs = settings.jobs(Setting("resnet18", 1, 1), settings.ENGINES, tmp_path)
    labels = [job.label for job in jobs]
    assert labels[:4] == ["micronet 4/4", "micronet 8/8", "litert 8", "openvino 8"]
    assert len(set(labels)) == len(labels) == 8
    assert [job.label for job in settings.jobs(ONE, (TORCH, OURS), tmp_path)] == [
        "micronet 4/4",
        "torch 32",
    ]


@pytest.mark.parametrize(("seconds", "runs"), [(1.0, 1), (0.05, 3), (1e-5, turns.MOST_RUNS)])
def test_a_turn_has_a_length(seconds, runs):
    assert turns.runs_of_a_turn(seconds) == runs


def test_a_run_that_is_not_timed_comes_first():
    done = []
    found = worker.timed(lambda: done.append(1), 3)
    assert [len(times) for times in found.values()] == [3, 3]
    assert len(done) == 4


def test_the_processor_counts_what_a_run_works_and_not_what_it_waits():
    found = worker.timed(lambda: time.sleep(0.02), 2)
    assert min(found["seconds"]) >= 0.02 > 0.01 > max(found["processor"])


def test_a_worker_runs_as_often_as_each_line_says(monkeypatch):
    loaded = worker.Loaded(lambda: None, "7.1")
    monkeypatch.setitem(worker.LOADERS, OURS, lambda job: loaded)
    answers = io.StringIO()
    worker.serve(Job(OURS, ONE, "4/4", "."), io.StringIO("2\n5\n"), answers)
    ready, two, five = (json.loads(line) for line in answers.getvalue().splitlines())
    assert ready["version"] == "7.1" and ready["seconds"] >= 0
    assert (len(two["seconds"]), len(five["processor"])) == (2, 5)


def test_a_worker_says_what_is_missing(tmp_path):
    answers = io.StringIO()
    worker.serve(Job(OURS, ONE, "4/4", str(tmp_path)), io.StringIO("2\n"), answers)
    (line,) = answers.getvalue().splitlines()
    assert json.loads(line)["missing"].startswith("UserError: ")


def test_missing_peers_have_a_note_and_stop_nobody(no_peers, tmp_path):
    jobs = [Job(LITERT, ONE, "8", str(tmp_path)), Job(OPENVINO, ONE, "8", str(tmp_path))]
    found = turns.take_turns(jobs, 2, tmp_path / "log.txt", pause=0)
    assert {name: timed.seconds for name, timed in found.items()} == {
        "litert 8": [],
        "openvino 8": [],
    }
    assert all(timed.note.startswith("not installed") for timed in found.values())


ENDS = """#!{python}
import sys
print('{{"version": "1.0", "seconds": 1.0}}', flush=True)
sys.stdin.readline()
sys.exit(3)
"""
SERVES = """#!{python}
import json, sys
print('{{"version": "1.0", "seconds": 0.05}}', flush=True)
for line in sys.stdin:
    runs = int(line)
    print(json.dumps({{"seconds": [0.05] * runs, "processor": [0.04] * runs}}), flush=True)
"""


def test_an_engine_that_ends_in_its_turn_has_no_time(monkeypatch, tmp_path):
    python = program(tmp_path / "python", ENDS.format(python=sys.executable))
    monkeypatch.setattr(settings, "PEERS_PYTHON", python)
    job = Job(LITERT, ONE, "8", str(tmp_path))
    (timed,) = turns.take_turns([job], 3, tmp_path / "log.txt", pause=0).values()
    assert (timed.seconds, timed.note) == ([], "it ended with code 3")


def test_every_round_adds_the_runs_of_a_turn(monkeypatch, tmp_path):
    python = program(tmp_path / "python", SERVES.format(python=sys.executable))
    monkeypatch.setattr(settings, "PEERS_PYTHON", python)
    job = Job(LITERT, ONE, "8", str(tmp_path))
    (timed,) = turns.take_turns([job], 4, tmp_path / "log.txt", pause=0).values()
    assert (timed.version, timed.seconds, timed.processor) == ("1.0", [0.05] * 12, [0.04] * 12)


FAILS = """#!{python}
import pathlib, sys
pathlib.Path(r"{count}").open("a").write("x")
sys.exit("first line\\nLookupError: Keras has none")
"""
MAKES = """#!{python}
import pathlib
pathlib.Path(r"{count}").open("a").write("x")
"""


def test_models_are_made_once_and_failures_kept(monkeypatch, tmp_path):
    (tmp_path / "models").mkdir()
    count = tmp_path / "count"
    python = tmp_path / "python"
    monkeypatch.setattr(settings, "PEERS_PYTHON", python)
    for text, made in ((FAILS, 1), (MAKES, 2), (MAKES, 2)):
        program(python, text.format(python=sys.executable, count=count))
        peer_models.make(tmp_path, ["resnet20"], [LITERT, OURS], str)
        assert len(count.read_text()) == made
        note = json.loads(settings.peer_note(tmp_path, LITERT, "resnet20").read_text())
        assert note["failure"] == ("LookupError: Keras has none" if text == FAILS else "")
    monkeypatch.setattr(peer_models, "stamp", lambda: "another")
    peer_models.make(tmp_path, ["resnet20"], [LITERT, OURS], str)
    assert len(count.read_text()) == 3


def test_a_model_that_is_not_made_says_why(tmp_path):
    (tmp_path / "models").mkdir()
    note = settings.peer_note(tmp_path, OPENVINO, B1)
    note.write_text(json.dumps({"stamp": "", "failure": "no such operator"}))
    with pytest.raises(FileNotFoundError, match="its model was not made: no such operator"):
        worker._model(Job(OPENVINO, ONE, "8", str(tmp_path)))
    with pytest.raises(FileNotFoundError, match=r"its model was not made: no .*-1\.tflite"):
        worker._model(Job(LITERT, ONE, "8", str(tmp_path)))
