"""Two processes of one machine that find each other, for what several processes train together."""

import socket

from torch import multiprocessing

import prepared_processes


def spawn_two(process, *arguments):
    """Run ``process(rank, port, *arguments, answers)`` twice; return what each left in answers."""
    prepared_processes.context()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with multiprocessing.Manager() as manager:
        answers = manager.dict()
        multiprocessing.start_processes(
            process,
            (port, *arguments, answers),
            nprocs=2,
            start_method=prepared_processes.START_METHOD,
        )
        return answers[0], answers[1]
