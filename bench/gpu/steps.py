"""One step of ``make gpu``: a command with a limit of its own, whose output goes straight into a file.

Imports neither torch nor anything of the package, so that the run begins at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import ROOT
from .files import LARGEST, Folders

LOOK = 0.05
"""Seconds between two looks at a command that runs."""
LEAST = 8.0
"""A step is not begun, nor begun again, with less."""
FINAL = (0, 2)
"""Exit statuses after which a step is not begun again: it is done, or its options are wrong."""

Command = Callable[[Folders, float], Sequence[str]]
"""Makes a command from the folders and the seconds that it has."""


@dataclass(frozen=True)
class Step:
    """What one step runs.

    ``log`` is where its output goes: a result's name, else a file of the archive. ``published`` are results that it
    writes in the folder ``work``; the run puts them where they belong while it is at work. ``why_not`` says why it
    cannot run, ``is_urgent`` that it comes before all that is not.

    A step that ``goes_on`` where it was is begun again, while there is time, if something took it down. One that
    ``takes_slack`` may use what earlier ones left.
    """

    name: str
    seconds: float
    command: Command
    log: str = ""
    published: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None
    runs_in_work: bool = False
    goes_on: bool = False
    takes_slack: bool = False
    why_not: Callable[[Folders], str | None] = lambda folders: None
    is_urgent: Callable[[Folders], bool] = lambda folders: False

    def log_in(self, folders: Folders) -> Path:
        """The file that its output is added to."""
        return folders.out / self.log if self.log else folders.work / f"{self.name}.txt"


@dataclass(frozen=True)
class Outcome:
    """How a step ended; ``status`` is None if it was stopped or not begun, ``why`` says why."""

    status: int | None
    seconds: float
    why: str | None = None
    begun: int = 1
    """How often."""

    @property
    def went_well(self) -> bool:
        """Whether it came to its end with success, or had a reason not to be begun."""
        return self.status == 0 or not self.begun

    def describe(self) -> dict[str, Any]:
        """The facts for the JSON file."""
        return {"status": self.status, "seconds": round(self.seconds, 1), "why": self.why, "begun": self.begun}


def run_step(step: Step, folders: Folders, limit: float, look: Callable[[], None] = lambda: None) -> Outcome:
    """Run a step for at most ``limit`` seconds, again and again where it goes on and is taken down."""
    started, begun = time.perf_counter(), 0
    while True:
        left = limit - (time.perf_counter() - started)
        environment = {**(step.environment or {}), "PYTHONPATH": _path_with(ROOT)}
        where = folders.work if step.runs_in_work else ROOT
        outcome = run_command(step.command(folders, left), step.log_in(folders), left, environment, where, look)
        begun += 1
        outcome = replace(outcome, seconds=time.perf_counter() - started, begun=begun)
        if not step.goes_on or outcome.status in (None, *FINAL) or limit - outcome.seconds < LEAST:
            return outcome


def run_command(
    command: Sequence[str],
    log: Path,
    limit: float,
    environment: Mapping[str, str] | None = None,
    where: Path = ROOT,
    look: Callable[[], None] = lambda: None,
) -> Outcome:
    """Run a command for at most ``limit`` seconds, its output added to ``log`` and shown; ``look`` is called meanwhile.

    It writes into the file by itself, and gets a process group of its own: whatever becomes of this process, nothing
    of the output is lost, and whatever the command has started ends with it.
    """
    started = time.perf_counter()
    with log.open("ab") as sink, log.open("rb") as shown:
        shown.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            command,
            cwd=where,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            preexec_fn=os.setpgrp,
        )
        why = None
        try:
            while process.poll() is None and why is None:
                time.sleep(LOOK)
                _show(shown.read())
                look()
                if time.perf_counter() - started > limit:
                    why = f"cut off at {limit:.0f} s"
                elif shown.tell() > LARGEST:
                    why = f"cut off: it wrote more than {LARGEST >> 20} MiB"
        finally:
            _end_group(process)
        _show(shown.read())
        if why is not None:
            sink.write(f"\n{why}\n".encode())
    return Outcome(process.returncode if why is None else None, time.perf_counter() - started, why)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the command, and what it has started and left behind."""
    with suppress(ProcessLookupError):  # nothing of it may be left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _show(output: bytes) -> None:
    sys.stdout.write(output.decode(errors="replace"))
    sys.stdout.flush()


def _path_with(folder: Path) -> str:
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
