"""A plugin of pytest: each test is in a file the moment it ends, and a broken CUDA context costs only its own process.

``python -m pytest -p bench.gpu.reporting --report FILE --group NAME``.

A line each, ``passed 0.12 tests/...``, what a
failure said behind it, and how the group ended. After an illegal access every further call to CUDA in that process
fails: a worker of pytest-xdist ends then, and another takes its place.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

INDENT = "    "
LINES, WIDEST = 30, 300
"""Of what a failure says the last lines, and the first characters of each."""
BROKEN = 70
"""The exit status of a worker whose CUDA context is broken."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two options."""
    parser.addoption("--report", type=Path, help="the file that every test is added to")
    parser.addoption("--group", default="tests", help="what the tests of this run are called there")


def pytest_configure(config: pytest.Config) -> None:
    """Begin to write, in the process that is told of every test."""
    is_worker = hasattr(config, "workerinput")
    if is_worker:
        config.pluginmanager.register(ContextGuard(), "context-guard")
    elif config.getoption("--report"):
        config.pluginmanager.register(Reporter(config.getoption("--report"), config.getoption("--group")), "reporter")


class Reporter:
    """Adds what is told of to a file, whole lines at once: several processes may add to one."""

    def __init__(self, path: Path, group: str) -> None:
        self.path, self.group = path, group
        self.counts: Counter[str] = Counter()
        self.started = time.perf_counter()
        self._write(f"== {group}: begun\n")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of how a test ended; of its setup and teardown only where they did not pass."""
        if report.when in ("setup", "teardown") and report.passed:
            return
        self.counts[report.outcome] += 1
        text = f"{report.outcome} {report.duration:.2f} {report.nodeid}\n"
        if report.failed:
            text += said(report)
        self._write(text)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be imported has no tests to be told of."""
        if report.failed:
            self.counts["failed"] += 1
            self._write(f"failed 0.00 {report.nodeid}\n{said(report)}")

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """The last line of the group."""
        counts = ", ".join(f"{self.counts[word]} {word}" for word in ("passed", "failed", "skipped"))
        seconds = time.perf_counter() - self.started
        self._write(f"== {self.group}: ended: {counts} in {seconds:.1f} s, exit status {int(exitstatus)}\n")

    def _write(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)


def said(report: pytest.TestReport | pytest.CollectReport) -> str:
    """What a failure says, indented."""
    return "".join(f"{INDENT}{line[:WIDEST]}\n" for line in report.longreprtext.splitlines()[-LINES:])


class ContextGuard:
    """Ends a worker after a test that has broken its CUDA context."""

    def __init__(self) -> None:
        self.failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember a failure."""
        self.failed |= report.failed

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Generator[None, Any, Any]:
        """Look at the context after each test that failed; what it reported is on its way already."""
        result = yield
        if self.failed and context_is_broken():
            os._exit(BROKEN)
        self.failed = False
        return result


def context_is_broken() -> bool:
    """Whether CUDA refuses whatever it is asked."""
    import torch

    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
