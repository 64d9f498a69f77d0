"""The run of a benchmark: problems one after the other, every provider checked, every case of them timed in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch

from ..measuring.clocks import Call, CaptureFailedError, clock_for, is_usable, on_stream_of, why_no_mode
from ..measuring.intervals import least_samples
from ..measuring.rounds import Timing, interleave, peak_memory
from ..problems.cases import DTYPES, FORMATS, BenchCase, ProblemKey
from ..problems.checking import Finding, Problem, ReadyModule, Setting, check
from ..problems.providers import Provider
from ..terminal import first_line
from .budget import Budget
from .record import Record

ROUNDS = {"cpu": (8, 40), "cuda": (10, 100)}
"""Least and most: eight rounds are what an interval at 99 % takes, by which two runs are compared."""
ANY_TIME = 1e-3
"""Seconds: in less than they take, the least number of rounds is measured."""
GIVEN_UP = ("failed", "refused", "unavailable")
"""What became of a provider that is not tried again where a run goes on with a case."""

assert ROUNDS["cpu"][0] >= least_samples(0.99)

Row = dict[str, Any]
"""What became of one provider in one case, as it is in the JSON file."""


class UnusableDeviceError(RuntimeError):
    """A provider failed so that the rest has to be run in another process; the file knows which."""


Errors = Mapping[str, float | None]


def row(status: str, why: str | None = None, errors: Errors | None = None) -> Row:
    """A result without times; ``errors`` as a finding has them."""
    return {
        "status": status,
        "why": why,
        "median_ms": None,
        "interval_ms": None,
        "samples_ms": [],
        "peak_bytes": None,
        **(errors or Finding().figures()),
    }


def timed_row(timing: Timing, peak_bytes: int, errors: Errors | None = None) -> Row:
    """A result with times; no interval where the samples are too few to promise 95 %."""
    few = len(timing.samples) < least_samples()
    interval = None if few else [limit * 1e3 for limit in timing.interval]
    return row("ok", None, errors) | {
        "median_ms": timing.median * 1e3,
        "interval_ms": interval,
        "samples_ms": [sample * 1e3 for sample in timing.samples],
        "peak_bytes": peak_bytes,
    }


@dataclass
class Checked:
    """The providers of one problem: those that may be timed, and why the others may not."""

    is_complete: bool = False

    ready: dict[str, ReadyModule] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    seconds: float = 0.0
    """What one forward of each and, if gradients were checked, one backward took."""
    peaks: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass
class Runner:
    """What a run needs. ``rounds`` are the least and the most of every case."""

    device: torch.device
    providers: Sequence[str]
    record: Record
    budget: Budget
    rounds: tuple[int, int]

    def unfinished(self, cases: Sequence[BenchCase]) -> list[BenchCase]:
        """Those of the cases that the file has no results of."""
        return [case for case in cases if not self.record.is_finished(case.id, self._names(case))]

    def plan(self, cases: Sequence[BenchCase]) -> list[ProblemKey]:
        """Share the budget out over these cases; the problems that there will probably be no time to compile for."""
        self.budget.plan(cases, self._to_try)
        return self.budget.not_compiled()

    def _to_try(self, case: BenchCase) -> list[Provider]:
        """The providers that can run a case here and have not been given up in it."""
        given_up, dtype = self._given_up(case), DTYPES[case.dtype]
        chosen = [provider for provider in case.providers(self.providers) if provider.name not in given_up]
        return [provider for provider in chosen if not provider.unavailable(self.device, dtype)]

    def run(
        self,
        cases: Sequence[BenchCase],
        begin: Callable[[BenchCase], None] = lambda case: None,
        doing: Callable[[str], None] = lambda what: None,
        done: Callable[[BenchCase, Mapping[str, Row]], None] = lambda case, results: None,
    ) -> None:
        """Run what is not finished; every case is in the file when ``done`` is told of it.

        Raises:
            UnusableDeviceError: the rest has to be run in a new process. What failed is in the file as failed, what
                was not measured because of it as skipped.
        """
        todo = self.unfinished(cases)
        self.plan(todo)
        for _, group in groupby(todo, key=lambda case: case.problem):
            members, checked = list(group), Checked()
            for case in members:
                begin(case)
                rows: dict[str, Row] = {}
                try:
                    if not checked.is_complete and self.budget.left > 0:
                        self._check(members, checked, doing)
                    self._measure(case, checked, rows, doing)
                except UnusableDeviceError as error:
                    for interrupted in [case] if checked.is_complete else members:
                        self._leave(interrupted, rows or checked.rows, str(error))
                    raise
                self.budget.was_timed(case)
                results = {name: rows[name] for name in self._names(case)}
                self.record.add(case.describe() | {"results": results})
                done(case, results)

    def _names(self, case: BenchCase) -> list[str]:
        return [provider.name for provider in case.providers(self.providers)]

    def _given_up(self, case: BenchCase) -> dict[str, Row]:
        """The results, in an earlier process, of providers that are not to be tried again."""
        earlier = self.record.results(case.id)
        return {name: result for name, result in earlier.items() if result["status"] in GIVEN_UP}

    def _leave(self, case: BenchCase, rows: Mapping[str, Row], why: str) -> None:
        """Put a case into the file that another process goes on with."""
        known = {**rows, **self._given_up(case)}
        results = {name: known.get(name, row("skipped", why)) for name in self._names(case)}
        self.record.add(case.describe() | {"results": results})

    def _check(self, cases: Sequence[BenchCase], checked: Checked, doing: Callable[[str], None]) -> None:
        """Every provider's results against float64, before any of its times counts."""
        first = cases[0]
        dtype = DTYPES[first.dtype]
        backward = any(case.pass_ != "inference" for case in cases)
        problem = Problem(first.workload, Setting(self.device, dtype, FORMATS[first.memory_format], backward))
        given_up = [self._given_up(case) for case in cases]
        left, compiling = self.budget.left, 0.0
        for provider in first.providers(self.providers):
            if all(provider.name in rows for rows in given_up):
                continue
            doing(f"checking {provider.name}")
            if why_not := provider.unavailable(self.device, dtype):
                checked.rows[provider.name] = row("unavailable", why_not)
                continue
            if provider.compiled:
                if why_not := self.budget.why_not_compile(first.problem, checked.seconds):
                    checked.rows[provider.name] = row("skipped", why_not)
                    continue
                torch.compiler.reset()
            finding, ready = check(problem, provider)
            if finding.first_call_seconds is not None:
                if provider.compiled:
                    compiling += finding.first_call_seconds
                    self.budget.was_compiled(first.problem, finding.first_call_seconds)
                else:
                    checked.seconds += finding.first_call_seconds
            if ready is not None:
                checked.ready[provider.name], checked.findings[provider.name] = ready, finding
                continue
            checked.rows[provider.name] = row(finding.status, finding.why, finding.figures())
            if not is_usable(self.device):
                raise UnusableDeviceError(f"{provider.name} left the device unusable: {finding.why}")
        problem.forget()
        self.budget.was_checked(first.problem, left - self.budget.left - compiling)
        checked.is_complete = True

    def _measure(self, case: BenchCase, checked: Checked, rows: dict[str, Row], doing: Callable[[str], None]) -> None:
        """Put what becomes of every provider into ``rows``."""
        names = self._names(case)
        if obstacle := why_no_mode(self.device, case.mode):
            rows |= dict.fromkeys(names, row("unavailable", obstacle))
            return
        expected, left = checked.seconds * self.rounds[0], max(self.budget.left, 0.0)
        if not checked.is_complete or expected > left:
            needed = f"; this case takes about {expected:.0f}" if checked.is_complete else ""
            why = f"{left:.0f} of {self.budget.seconds:.0f} s are left{needed} (see --budget)"
            rows |= dict.fromkeys(names, row("skipped", why)) | checked.rows | self._given_up(case)
            return
        rows |= checked.rows | self._given_up(case)
        stop = self.budget.left - self.budget.share(case)
        clock = clock_for(self.device, case.mode, case.cache)
        with on_stream_of(clock):
            calls = self._calls(case, checked, rows, doing)
            doing("timing")
            timings = interleave(
                calls,
                self.device,
                max(self.budget.left - stop, ANY_TIME),
                self.rounds,
                clock=clock,
                on_failure=lambda name, error: self._note_failure(name, error, rows),
            )
        for name, timing in timings.items():
            rows[name] = timed_row(timing, checked.peaks[name, case.pass_], checked.findings[name].figures())

    def _calls(
        self, case: BenchCase, checked: Checked, rows: dict[str, Row], doing: Callable[[str], None]
    ) -> dict[str, Call]:
        """What is to be timed of those providers that are not in ``rows``, whose memory is measured here."""
        calls: dict[str, Call] = {}
        for name, module in checked.ready.items():
            if name in rows:
                continue
            try:
                # A graph cannot hold what has to be done before each backward, so that one forward serves all of them.
                call = module.step(case.pass_, retain=case.mode == "kernel")
                if (name, case.pass_) not in checked.peaks:
                    doing(f"memory of {name}")
                    checked.peaks[name, case.pass_] = peak_memory(module.step(case.pass_), self.device)
                calls[name] = call
            except Exception as error:
                self._note_failure(name, error, rows)
        return calls

    def _note_failure(self, name: str, error: Exception, rows: dict[str, Row]) -> None:
        rows[name] = _failed(error)
        if isinstance(error, CaptureFailedError) or not is_usable(self.device):
            raise UnusableDeviceError(f"{name} left the device unusable: {rows[name]['why']}") from error


def _failed(error: Exception) -> Row:
    cause = error.__cause__ if isinstance(error, CaptureFailedError) else error
    if isinstance(cause, torch.OutOfMemoryError):
        return row("unavailable", "out of memory")
    return row("failed", first_line(error))
