"""Who runs tasks: this process, or one that may die of them and is then replaced."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal, Protocol

import torch

from .where import Place

Row = dict[str, Any]


class Task(Protocol):
    """What is run; it can be pickled."""

    @property
    def family(self) -> str: ...

    @property
    def spoils_its_process(self) -> bool:
        """Whether nothing else can be run where it has been."""
        ...

    def facts(self) -> Row:
        """What is known before it runs."""
        ...

    def run(self, place: Place) -> Row:
        """Its line; ``raised`` in it says that something went wrong of which a process may not recover."""
        ...

    def variants(self, place: Place) -> Iterable[Task]:
        """What is tried if its line says that it is wrong."""
        ...


class Here:
    """Runs tasks in this process."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def run(self, task: Task, seconds: float) -> Row:
        return task.run(self.place)

    def close(self) -> None:
        """There is nothing to end."""


class Apart:
    """Runs tasks in a process of its own; after one that it may not have recovered from, the next gets another."""

    def __init__(self, place: Place, method: Literal["spawn", "fork"] = "spawn") -> None:
        """``method`` is how processes are made: a fork is at hand at once, and must not be asked of who uses a GPU."""
        self.place, self.method = place, method
        self._process: BaseProcess | None = None

    def run(self, task: Task, seconds: float) -> Row:
        """The line of a task that has so many seconds; where no line comes, the line says what became of it."""
        if self._process is None:
            self.start()
        failed = {"ok": False} | task.facts()
        try:
            self._connection.send(task)
            if not self._connection.poll(None if seconds == float("inf") else seconds):
                self.close()
                return failed | {"ok": None, "why": f"no answer within {seconds:.0f} s: stopped"}
            row: Row = self._connection.recv()
        except (EOFError, ConnectionError):
            return failed | {"why": self._ending()}
        if row.get("raised"):
            self.close()
        return row

    def start(self) -> None:
        """Make the process."""
        context: Any = multiprocessing.get_context(self.method)
        self._connection, theirs = context.Pipe()
        self._process = process = context.Process(target=_serve, args=(theirs, self.place), daemon=True)
        process.start()
        theirs.close()

    def _ending(self) -> str:
        """How the process ended by itself."""
        assert self._process is not None
        self._process.join()
        status = self._process.exitcode or 0
        self._process = None
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return f"the process ended: {how}"

    def close(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def _serve(connection: Connection, place: Place) -> None:
    """Run what comes in until nothing more does."""
    torch.set_num_threads(1)  # several processes share the processor, and what they compute there is small
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(task.run(place))
