"""Fuzzing at length: chunks are counted once, and one that fails is not counted."""

import pytest

import fuzz_engine

PROGRAM = """#!/bin/sh
echo "seed $1"
test "$1" -ne 3 || exit 1
echo "{\\"inputs\\":$MICRONET_FUZZ_INPUTS,\\"ran\\":$1,\\"most memory\\":$((10 - $1))}"
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program"
    path.write_text(PROGRAM)
    path.chmod(0o755)
    return path


def test_chunks_add_up_and_are_not_run_again(program, tmp_path):
    record = tmp_path / "record.jsonl"
    wanted = {"inputs": 20, "ran": 1, "most memory": 10}
    assert fuzz_engine.fuzz(program, record, 20, 10, 0) == (wanted, 0)
    program.write_text("#!/bin/sh\nexit 1\n")
    assert fuzz_engine.fuzz(program, record, 15, 10, 0) == (wanted, 0)
    assert len(record.read_text().splitlines()) == 2


def test_a_chunk_that_fails_is_told_and_runs_again(program, tmp_path, capsys):
    record = tmp_path / "record.jsonl"
    counts, failed = fuzz_engine.fuzz(program, record, 30, 10, 2)
    assert failed == 1 and counts == {"inputs": 20, "ran": 6, "most memory": 8}
    assert f"MICRONET_FUZZ_INPUTS=10 {program} 3: exit code 1" in capsys.readouterr().out
    assert fuzz_engine.fuzz(program, record, 30, 10, 2)[1] == 1
