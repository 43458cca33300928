"""Processes that start at once: forks of one that has imported what takes seconds."""

import multiprocessing
import os
from multiprocessing import forkserver
from unittest import mock

# What multiprocessing calls the way in which these processes start.
START_METHOD = "forkserver"


def context():
    """Return what starts such processes; all make the same sums, on one thread, in one order."""
    found = multiprocessing.get_context(START_METHOD)
    found.set_forkserver_preload(["micronet.train"])
    with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):
        forkserver.ensure_running()
    return found
