"""An engine where its process is forked, has no room for threads, or copies it."""

import copy
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from micronet.artifact.engine import Engine
from micronet.utils.errors import UserError
from packed_by_hand import integer_network

BATCH = 8


@pytest.fixture
def content(rng):
    return integer_network(rng)


def images(engine):
    return np.random.default_rng(0).standard_normal((BATCH, *engine.input_shape), np.float32)


def ended(child, seconds=60.0):
    """The exit code of a forked child; fails where it waits for something."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("the forked process hangs")


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_forked_process_runs_and_closes_it(content, threads):
    engine = Engine.from_bytes(content, threads)
    batch = images(engine)
    wanted = engine(batch)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            same = all(np.array_equal(engine(batch), wanted) for _ in range(3))
            del engine
            code = 0 if same else 2
        finally:
            os._exit(code)
    assert ended(child) == 0
    assert np.array_equal(engine(batch), wanted)


def test_a_forked_process_closes_what_it_never_ran(content):
    engine = Engine.from_bytes(content, 3)
    child = os.fork()
    if child == 0:
        del engine
        os._exit(0)
    assert ended(child) == 0
    assert engine(images(engine)).shape[0] == BATCH


NO_ROOM = """
import resource, sys
from pathlib import Path
from micronet import Engine, UserError
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (200 << 20),) * 2)
try:
    Engine(sys.argv[1], threads=256)
except UserError as error:
    print(error)
"""


def test_threads_that_there_is_no_room_for_are_one_sentence(content, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    command = [sys.executable, "-c", NO_ROOM, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1 and done.stdout.strip(), done.stderr


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_it_is_not_copied(content, copied):
    engine = Engine.from_bytes(content)
    with pytest.raises(TypeError, match="an Engine cannot be copied or pickled: open its file"):
        copied(engine)
    assert engine(images(engine)).shape[0] == BATCH


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_that_call_one_engine_wait_for_each_other(content, threads):
    engine = Engine.from_bytes(content, threads)
    random = np.random.default_rng(1)
    batches = [
        random.standard_normal((size, *engine.input_shape), np.float32) for size in (1, 8, 3, 5)
    ]
    wanted = [engine(batch) for batch in batches]

    def calls(number):
        return [np.array_equal(engine(batches[number]), wanted[number]) for _ in range(200)]

    with ThreadPoolExecutor(len(batches)) as pool:
        found = list(pool.map(calls, range(len(batches))))
    assert all(map(all, found))


@pytest.mark.parametrize("threads", [2.5, "2", None, 2**32 + 1, -1, 0, 257])
def test_numbers_of_threads_that_there_are_not(content, threads):
    with pytest.raises(UserError, match="threads are not 1 to 256"):
        Engine.from_bytes(content, threads)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_content_may_be_any_bytes(content, kind):
    engine, other = Engine.from_bytes(kind(content)), Engine.from_bytes(content)
    assert np.array_equal(engine(images(engine)), other(images(engine)))


def test_a_path_ends_where_it_ends(content, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is no path: it has a null character"):
        Engine(f"{path}\0junk")
