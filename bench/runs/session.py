"""One run of a comparison: for every workload check each provider, then measure those that are right."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ..measuring.environment import fingerprint
from ..measuring.rounds import Timing, interleave, peak_memory
from ..problems.checking import Case, Problem, Setting, violations
from ..problems.providers import Provider
from ..problems.workloads import Workload

SCHEMA = 1
RESERVE = {"cpu": 6.0, "cuda": 2.0}
"""Seconds kept free for every later workload when torch.compile asks for time: at least these, ..."""
RESERVE_FACTOR = 3.0
"""... and this many times what checking the other providers has just taken."""
ROUNDS = {"cpu": (3, 25), "cuda": (5, 100)}
QUICK_ROUNDS = (3, 7)
COMPILE_GUESS = 25.0
"""Seconds that the first compilation of a layer is expected to take."""
FORWARD_SHARE = 1 / 3


@dataclass
class Result:
    """What became of one provider in one workload; ``status`` is ok, wrong, failed or skipped."""

    provider: str
    status: str = "ok"
    reason: str | None = None
    errors: dict[str, float] = field(default_factory=dict)
    bounds: dict[str, float] = field(default_factory=dict)
    first_call_seconds: float | None = None
    forward: Timing | None = None
    forward_backward: Timing | None = None
    forward_bytes: int | None = None
    forward_backward_bytes: int | None = None

    def describe(self) -> dict[str, Any]:
        """The facts for the JSON file; an infinite error (nothing comparable came) is None there."""
        return {
            "provider": self.provider,
            "status": self.status,
            "reason": self.reason,
            "errors": {name: error if error < float("inf") else None for name, error in self.errors.items()},
            "bounds": self.bounds,
            "first_call_seconds": self.first_call_seconds,
            "forward": None if self.forward is None else self.forward.describe(),
            "forward_backward": None if self.forward_backward is None else self.forward_backward.describe(),
            "forward_peak_bytes": self.forward_bytes,
            "forward_backward_peak_bytes": self.forward_backward_bytes,
        }


def check(problem: Problem, provider: Provider) -> tuple[Result, Case | None]:
    """Run a provider and hold its outputs and gradients against float64; no case where it must not be timed."""
    result = Result(provider.name)
    backward = problem.setting.backward
    try:
        with _no_trials():
            result.bounds = problem.bounds(provider)
            start = time.perf_counter()
            case = problem.case(provider)
            answers = case.answers(backward)
            result.first_call_seconds = time.perf_counter() - start
            result.errors = problem.errors(provider, answers)
    except torch.OutOfMemoryError:
        result.status, result.reason = "skipped", "out of memory"
        return result, None
    except Exception as error:
        # A compiler that does not work here says nothing about the layers.
        result.status = "skipped" if provider.compiled else "failed"
        result.reason = first_line(error)
        return result, None
    if found := violations(result.errors, result.bounds):
        result.status, result.reason = "wrong", "; ".join(found)
        return result, None
    return result, case


@contextmanager
def _no_trials() -> Iterator[None]:
    """Inside, cuDNN does not time all of its algorithms to take the fastest: float64 references need no fast one."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def first_line(error: Exception) -> str:
    """The error's type and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"


class Budget:
    """The time of a run, shared out over its workloads; a neck counts as two layers."""

    def __init__(self, seconds: float, workloads: Sequence[Workload]) -> None:
        self.seconds, self.workloads = seconds, list(workloads)
        self.stop = time.perf_counter() + seconds
        self.ahead = sum(self._weight(workload) for workload in workloads)

    @staticmethod
    def _weight(workload: Workload) -> int:
        return 2 if workload.kind == "neck" else 1

    @property
    def left(self) -> float:
        return self.stop - time.perf_counter()

    def begin(self, workload: Workload) -> None:
        """This workload no longer lies ahead."""
        self.ahead -= self._weight(workload)

    def share(self, workload: Workload) -> float:
        """The seconds of what is left that belong to this workload."""
        weight = self._weight(workload)
        return self.left * weight / (self.ahead + weight)

    def compilations(self, reserve: float) -> list[Workload]:
        """The workloads whose compilation is expected to fit, those with few layers first."""
        left, found = self.seconds - reserve * sum(map(self._weight, self.workloads)), []
        for workload in sorted(self.workloads, key=_size):
            left -= COMPILE_GUESS * _size(workload)
            if left >= 0:
                found.append(workload)
        return found

    def has_room(self, seconds: float, reserve: float) -> bool:
        """Whether something this long fits, with a reserve for each of the workloads that follow."""
        return seconds + reserve * (self.ahead + 1) <= self.left


class Session:
    """The results so far, and how to get the next."""

    def __init__(self, setting: Setting, providers: Sequence[Provider], budget: Budget, quick: bool = False) -> None:
        self.setting, self.budget, self.quick = setting, budget, quick
        self.environment = fingerprint(setting.device)
        self.absent = {provider.name: why for provider in providers if (why := self._why_absent(provider))}
        self.providers = [provider for provider in providers if provider.name not in self.absent]
        self.results: list[tuple[Workload, list[Result]]] = []
        self.settings: dict[str, Any] = {"quick": quick, "budget_seconds": budget.seconds, "backward": setting.backward}
        self._compile_seconds = COMPILE_GUESS
        compiled = budget.compilations(RESERVE[setting.device.type])
        self.uncompiled = [workload for workload in budget.workloads if workload not in compiled]
        """The workloads that torch.compile is left out of from the beginning, for want of time."""

    def _why_absent(self, provider: Provider) -> str | None:
        if self.quick and provider.compiled:
            return "--quick leaves compilation out"
        return provider.unavailable(self.setting.device, self.setting.dtype)

    @property
    def went_wrong(self) -> bool:
        """Whether any provider gave wrong results or broke.

        What torch.compile makes of the plain formula is shown like the rest, but its mistakes are not this project's:
        Inductor of torch 2.13 loses the gradient of resized guidance on a CPU.
        """
        compiled = {provider.name for provider in self.providers if provider.compiled}
        return any(
            result.status in ("wrong", "failed") and result.provider not in compiled
            for _, results in self.results
            for result in results
        )

    def run(self, workload: Workload, doing: Callable[[str], None] = lambda what: None) -> list[Result]:
        """Check, then measure, all providers on one workload."""
        if self.budget.left <= 0:
            reason = f"the budget of {self.budget.seconds:.0f} s is used up (see --budget)"
            results = [Result(provider.name, "skipped", reason) for provider in self.providers]
        else:
            self.budget.begin(workload)
            start = time.perf_counter()
            problem = Problem(workload, self.setting)
            results, cases = [], {}
            for provider in self.providers:
                doing(f"{workload.network}, {workload.name}: checking {provider.name}")
                if provider.compiled and (why_not := self._why_not_compile(workload, time.perf_counter() - start)):
                    results.append(Result(provider.name, "skipped", why_not))
                    continue
                result, case = self._check(problem, provider)
                results.append(result)
                if case is not None:
                    cases[provider.name] = case
            problem.forget()
            doing(f"{workload.network}, {workload.name}: timing")
            until = time.perf_counter() + self.budget.share(workload)
            self._measure(cases, {result.provider: result for result in results}, until)
        self.results.append((workload, results))
        return results

    def _check(self, problem: Problem, provider: Provider) -> tuple[Result, Case | None]:
        result, case = check(problem, provider)
        if provider.compiled and result.first_call_seconds is not None:
            self._compile_seconds = result.first_call_seconds / _size(problem.workload)
        return result, case

    def _why_not_compile(self, workload: Workload, checking_seconds: float) -> str | None:
        expected = self._compile_seconds * _size(workload)
        if workload in self.uncompiled:
            return f"compiling takes about {expected:.0f} s, which the budget has no room for (see --budget)"
        reserve = max(RESERVE[self.setting.device.type], RESERVE_FACTOR * checking_seconds)
        if self.budget.has_room(expected, reserve):
            torch.compiler.reset()
            return None
        return f"compiling takes about {expected:.0f} s and {max(self.budget.left, 0):.0f} s are left (see --budget)"

    def _measure(self, cases: dict[str, Case], results: dict[str, Result], until: float) -> None:
        device = self.setting.device
        rounds = QUICK_ROUNDS if self.quick else ROUNDS[device.type]
        share = FORWARD_SHARE if self.setting.backward else 1.0
        for case in cases.values():
            case.module.eval()
        for name, case in cases.items():
            results[name].forward_bytes = peak_memory(case.forward, device)
        left = until - time.perf_counter()
        calls = {name: case.forward for name, case in cases.items()}
        for name, timing in interleave(calls, device, left * share, rounds).items():
            results[name].forward = timing
        if not self.setting.backward:
            return
        for case in cases.values():
            case.module.train()
        for name, case in cases.items():
            results[name].forward_backward_bytes = peak_memory(case.forward_backward, device)
        left = until - time.perf_counter()
        both = {name: case.forward_backward for name, case in cases.items()}
        for name, timing in interleave(both, device, left, rounds).items():
            results[name].forward_backward = timing

    def describe(self, complete: bool) -> dict[str, Any]:
        """All facts and raw figures, for the JSON file."""
        return {
            "schema": SCHEMA,
            "complete": complete,
            "environment": self.environment,
            "settings": self.settings,
            "absent": self.absent,
            "workloads": [
                workload.describe() | {"results": [result.describe() for result in results]}
                for workload, results in self.results
            ],
        }


def _size(workload: Workload) -> int:
    """How many layers' compilations this workload's takes: training a neck, each stage has one of its own."""
    return len(workload.stages)
