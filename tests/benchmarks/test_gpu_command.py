"""The command behind `make gpu`: every stage on the CPU, limits, and what comes before them."""

import json
import os
import resource
import subprocess
import sys
import time

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import build, processes, table
from benchmarks.gpu.processes import FAILED, FINISHED, KILLED, Outcome
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.table import Stage
from micronet.utils.errors import UserError
from paths import ROOT

UNBUFFERED = {"PYTHONUNBUFFERED": "1"}
QUICK = ["--device", "cpu", "--quick", "--no-build"]


# As the command, but that each stage is measured in the process that asks for it: torch is read
# once, and a process of its own is what the stages below have.
IN_ONE_PROCESS = """\
import gc, sys
from benchmarks.gpu import __main__ as command, processes, stage
run = processes.run

def measured_here(words, log, limit, env):
    if words[2] != "benchmarks.gpu.stage":
        return run(words, log, limit, env)
    gc.freeze()  # what other stages left is not looked through before each timing
    stage.main(*words[3:])
    return processes.Outcome(processes.FINISHED, 0)

processes.run = measured_here
sys.exit(command.main())
"""


@pytest.mark.slow
def test_every_stage_runs_without_a_device(tmp_path):
    before = _seconds_of_children()
    words = [sys.executable, "-c", IN_ONE_PROCESS, *QUICK, "--out", str(tmp_path)]
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, cwd=ROOT, env=hidden, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    known = json.loads((tmp_path / "gpu.json").read_text())
    stages = {found["stage"]["letter"]: found for found in known["stages"]}
    assert list(stages) == [stage.letter for stage in table.STAGES]
    assert all(s["outcome"]["status"] == FINISHED and s["found"]["tables"] for s in stages.values())
    assert all(row["tests"] > 0 for row in stages["a"]["found"]["tables"]["Tests"])
    last = json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT "))
    assert last == known["summary"] and tuple(last) == table.FIGURES
    assert {name for name, value in last.items() if value is None} == set(known["missing"])
    page = (tmp_path / "gpu.md").read_text()
    assert all(f"- {name}: " in page for name in (*table.FIGURES, "torch", "triton", "nvcc"))
    # So few that all come back from a machine that gives back few.
    assert {path.name for path in tmp_path.iterdir()} == {"gpu.json", "gpu.md", "log.txt"}
    # A minute of two cores; the clock on the wall would tell of other work as well.
    assert _seconds_of_children() - before < 2 * 60


def _seconds_of_children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


BLOCKED = """\
import sys
for name in ("micronet_kernels", "efficientnet_pytorch", "torchvision", "rich", "yaml"):
    sys.modules[name] = None
import benchmarks.gpu.__main__
"""


@pytest.mark.slow
def test_the_command_starts_before_kernels_and_packages_are_there():
    done = subprocess.run([sys.executable, "-c", BLOCKED], cwd=ROOT, check=False, text=True)
    assert done.returncode == 0


# One stage after the other ----------------------------------------------------------------------


@pytest.fixture
def stages(monkeypatch):
    """Stages of which the first does not start, and the second is over at once."""
    found = (
        Stage("x", "no_such_module", "Broken", 60, ("figure",)),
        Stage("y", "machine", "Facts", 60),
        Stage("z", "machine", "Late", 60),
    )
    monkeypatch.setattr(table, "STAGES", found)
    return found


@pytest.mark.slow
def test_a_stage_that_fails_stops_no_other(stages, tmp_path, capsys, monkeypatch):
    written, run_stage = [], command.run_stage

    def noting(stage, settings, out, budget):
        if stage in stages:
            written.append(len(json.loads((out / "gpu.json").read_text())["stages"]))
        return run_stage(stage, settings, out, budget)

    monkeypatch.setattr(command, "run_stage", noting)
    assert command.main([*QUICK, "--only", "x,y", "--out", str(tmp_path)]) == 1
    assert written == [0, 1]  # what is known lies there before the next stage starts
    known = json.loads((tmp_path / "gpu.json").read_text())
    broken, facts = known["stages"]
    assert broken["outcome"]["status"] == FAILED
    assert "No module named 'benchmarks.gpu.stages.no_such_module'" in broken["outcome"]["note"]
    assert facts["outcome"]["status"] == FINISHED and facts["found"]["tables"]
    assert "RESULT {" in capsys.readouterr().out


def test_a_stage_for_which_no_time_is_left_says_so(tmp_path):
    budget = command.Budget(time.monotonic() - 1, None)
    result = command.run_stage(table.STAGES[0], None, tmp_path, budget)
    assert result.outcome == Outcome(processes.LEFT_OUT, 0, "no time was left")


def test_a_stage_knows_when_it_is_killed(tmp_path, monkeypatch):
    given = []

    def run(words, log, limit, env):
        given.append((Settings.from_json(words[4]), limit))
        return Outcome(FINISHED, 1)

    monkeypatch.setattr(processes, "run", run)
    settings = Settings("cpu", True, str(tmp_path))
    command.run_stage(table.STAGES[0], settings, tmp_path, command.Budget(time.monotonic() + 9, 7))
    ((settings, limit),) = given
    assert limit == 7 and 6 < settings.left() <= 7


def test_the_smaller_limit_counts():
    stage = Stage("x", "m", "t", 60)
    soon = command.Budget(time.monotonic() + 5, None)
    assert 4 < soon.of(stage) <= 5
    assert command.Budget(time.monotonic() + 500, None).of(stage) == 60
    assert command.Budget(time.monotonic() + 500, 7).of(stage) == 7


# Processes --------------------------------------------------------------------------------------

CHILD_TOO = """\
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600 if sys.argv[1] == "stay" else 0)
"""


@pytest.mark.parametrize("how,status", [("stay", KILLED), ("leave", FINISHED)])
def test_a_process_ends_with_all_that_it_started(how, status, tmp_path):
    log = tmp_path / "log"
    done = processes.run([sys.executable, "-c", CHILD_TOO, how], log, 2, {})
    assert done.status == status
    assert done.note == ("stopped at its limit of 2 s" if status == KILLED else "")
    child = int(log.read_text().splitlines()[-1])
    for _ in range(50):
        if not _is_alive(child):
            return
        time.sleep(0.1)
    raise AssertionError("what the command started goes on")


def _is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_failed_process_leaves_its_last_words(tmp_path):
    words = "import sys; print('first'); print(); sys.exit('what was wrong')"
    done = processes.run([sys.executable, "-c", words], tmp_path / "log", 60, UNBUFFERED)
    assert (done.status, done.note) == (FAILED, "exit code 1: what was wrong")
    assert "first" in (tmp_path / "log").read_text()


# Before the stages ------------------------------------------------------------------------------


@pytest.fixture
def commands(monkeypatch):
    """The commands that would have run, with their environment; the second fails."""
    ran = []

    def run(words, log, limit, env):
        ran.append((words, limit, env))
        return Outcome(FAILED, 3, "no compiler") if len(ran) == 2 else Outcome(FINISHED, 3)

    monkeypatch.setattr(processes, "run", run)
    return ran


def test_wheels_and_the_build_share_one_limit(commands, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "architecture", lambda device: {"MICRONET_CUDA_ARCHITECTURES": "90"})
    done = build.prepare(["a.whl"], True, "cuda", tmp_path / "log", 10, tmp_path / "site")
    assert (done.status, done.seconds, done.note) == (FAILED, 6, "no compiler")
    (install, first, env), (compiling, second, _) = commands
    assert install[1:] == [
        *("-m", "pip", "install", "--no-index", "--no-deps", "--upgrade"),
        *("--target", str(tmp_path / "site"), "a.whl"),
    ]
    assert compiling[1:] == ["setup.py", "build_ext", "--inplace"]
    assert (first, second) == (10, 7)
    assert (env["MICRONET_CUDA_ARCHITECTURES"], env["MICRONET_WERROR"]) == ("90", "OFF")
    assert env["PYTHONPATH"].split(":")[:2] == [str(ROOT), str(tmp_path / "site")]
    assert (tmp_path / "site" / "micronet_kernels" / "dispatch.py").exists()


def test_nothing_is_compiled_where_none_is_wanted(commands, tmp_path):
    done = build.prepare([], False, "cpu", tmp_path / "log", 10, tmp_path / "site")
    assert done == Outcome(FINISHED, 0, "nothing was compiled: --no-build") and not commands


def test_the_cpu_is_all_that_is_seen_where_it_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert build.environment("cpu", tmp_path)["CUDA_VISIBLE_DEVICES"] == ""
    assert build.environment("cuda", tmp_path)["CUDA_VISIBLE_DEVICES"] == "0"


def test_a_folder_without_wheels_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no wheel"):
        build.wheels_in(tmp_path)
    assert build.wheels_in(None) == []


@pytest.mark.parametrize(
    "words,message",
    [
        (["--only", "a,q"], "there is no stage 'q'; there are a, b, c, d, e, f, g"),
        (["--stage-limit", "0"], "0 is no positive number of seconds"),
        (["--stage-limit", "soon"], "soon is no positive number of seconds"),
        (["--images", "/no/such"], "there is no '/no/such'"),
    ],
)
def test_wrong_options_are_one_sentence(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        command.parse(words)
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_stages_stay_in_the_order_of_their_worth():
    assert [stage.letter for stage in table.chosen("c, a")] == ["a", "c"]
    assert table.chosen("") == table.STAGES
