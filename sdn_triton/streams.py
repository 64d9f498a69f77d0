"""What a command does where its output cannot be written: one line, an exit status, and no traceback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

NOT_WRITTEN = 74
"""The exit status where output could not be written, as sysexits.h has it."""
READER_GONE = 128 + signal.Signals["SIGPIPE"].value if hasattr(signal, "SIGPIPE") else 1
"""The exit status where who read the output has seen enough, as shells have it."""


def guarded(name: str, run: Callable[[], int]) -> int:
    """Run a command and return its exit status, or one of the above where output cannot be written."""
    if sys.stdout is None:
        return _failed(name, "standard output is closed")
    try:
        status = run()
        sys.stdout.flush()
    except BrokenPipeError:
        _close_standard_output()
        return READER_GONE
    except OSError as error:
        _close_standard_output()
        where = "" if error.filename is None else f"{error.filename}: "
        return _failed(name, f"{where}{error.strerror or error}")
    return status


def _failed(name: str, reason: str) -> int:
    if sys.stderr is not None:
        with suppress(OSError):
            print(f"{name}: error: {reason}", file=sys.stderr, flush=True)
    return NOT_WRITTEN


def _close_standard_output() -> None:
    """What is left in its buffer has nowhere to go, and Python would complain at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
