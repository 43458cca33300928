"""A little of the fuzz target on every run, with another seed each time."""

import time

import fuzz_readers


def test_readers_answer_changed_files(tmp_path):
    seed = time.time_ns() % 10**6
    print(f"seed {seed}")
    assert fuzz_readers.fuzz(600, seed, tmp_path) == 0


def test_a_crash_would_be_seen(tmp_path, monkeypatch, capsys):
    def broken(path):
        raise KeyError("x")

    monkeypatch.setattr(fuzz_readers, "load_recipe", broken)
    assert fuzz_readers.fuzz(4, 0, tmp_path) == 2
    assert "KeyError" in capsys.readouterr().err
