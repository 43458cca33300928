"""Two processes of one machine that find each other, for what several processes train together."""

import socket

from torch import multiprocessing


def spawn_two(process, *arguments):
    """Run ``process(rank, port, *arguments, answers)`` twice; return what each left in answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with multiprocessing.Manager() as manager:
        answers = manager.dict()
        multiprocessing.spawn(process, (port, *arguments, answers), nprocs=2)
        return answers[0], answers[1]
