"""The one exception that stands for a user's mistake, and the way it is reported."""

from __future__ import annotations

import difflib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """A mistake in the input: its message is one clear sentence naming the value and the file."""


def nearest(name: object, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the choice most like ``name``, or an empty string."""
    found = difflib.get_close_matches(str(name), list(choices), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def reports_user_errors(main: Callable[..., int]) -> Callable[..., int]:
    """Wrap a command's ``main``: a ``UserError`` is one line and exit code 2, Ctrl-C one word."""

    @functools.wraps(main)
    def wrapper(argv: list[str] | None = None) -> int:
        try:
            return main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return 128 + signal.SIGINT
        except BrokenPipeError:
            # The reader of a pipe, such as head, has seen enough; so has what is still buffered.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE

    return wrapper
