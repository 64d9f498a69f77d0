"""The time of a run, shared out over its cases: neither a case nor a compiler eats what the others need."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ..problems.cases import BenchCase, ProblemKey
from ..problems.providers import Provider

COMPILE_GUESS = 25.0
"""Seconds that compiling a layer is expected to take before the first one has been compiled."""
RESERVE = {"cpu": 6.0, "cuda": 2.0}
"""Seconds kept free for each case that follows when a compiler asks for time: at least these, ..."""
RESERVE_FACTOR = 3.0
"""... and this many times what checking the other providers has just taken."""
MOST_RESERVED = 0.55
"""Of what is left: in a run of many cases the first ones are compiled, and the last ones are left to another run."""


class Budget:
    """Seconds, and who may have how many of them.

    Compilers take longest. Problems of few layers are compiled first, whatever their place in the run: a problem is
    compiled if that leaves time to compile all smaller ones ahead, and to check and time every case ahead.
    """

    def __init__(self, seconds: float, device_type: str = "cpu", clock: Callable[[], float] = time.perf_counter):
        self.seconds, self.reserve, self.clock = seconds, RESERVE[device_type], clock
        self.stop = clock() + seconds
        self.layer_seconds = COMPILE_GUESS
        self._check_seconds = 0.0
        """For each unit of weight."""
        self.ahead: list[BenchCase] = []
        """The cases that are not timed yet."""
        self._layers: dict[ProblemKey, int] = {}
        """How many layers compilers have still to compile of each problem ahead."""

    @property
    def left(self) -> float:
        return self.stop - self.clock()

    def plan(self, cases: Sequence[BenchCase], providers: Callable[[BenchCase], Sequence[Provider]]) -> None:
        """These cases lie ahead, and these providers may have to be compiled for them."""
        self.ahead = list(cases)
        firsts = {case.problem: case for case in reversed(cases)}
        self._layers = {
            problem: _size(problem) * sum(provider.compiled for provider in providers(case))
            for problem, case in reversed(firsts.items())
        }

    def not_compiled(self) -> list[ProblemKey]:
        """The problems ahead whose compilation is not expected to fit."""
        fitting = self._fitting()
        return [problem for problem, layers in self._layers.items() if layers and problem not in fitting]

    def _fitting(self) -> dict[ProblemKey, float]:
        """The problems ahead whose compilation is expected to fit, and how long it takes."""
        room, seconds_of = self.left - self._reserved(self.reserve), {}
        for problem in sorted(self._layers, key=_size):
            seconds = self.layer_seconds * self._layers[problem]
            room -= seconds
            if room < 0:
                break
            seconds_of[problem] = seconds
        return seconds_of

    def _reserved(self, each: float) -> float:
        return min(each * len(self.ahead), MOST_RESERVED * max(self.left, 0.0))

    def why_not_compile(self, problem: ProblemKey, checking_seconds: float) -> str | None:
        """Why one more provider is not compiled for a problem, whose other providers took so long to be checked."""
        expected = self.layer_seconds * _size(problem)
        smaller = sum(layers for ahead, layers in self._layers.items() if _size(ahead) < _size(problem))
        reserved = self._reserved(max(self.reserve, RESERVE_FACTOR * checking_seconds))
        room = self.left - reserved - self.layer_seconds * smaller
        if expected <= room:
            return None
        return f"compiling takes about {expected:.0f} s, and {max(room, 0):.0f} s are left for it (see --budget)"

    def was_compiled(self, problem: ProblemKey, seconds: float) -> None:
        """How long a provider's compilation took."""
        self.layer_seconds = seconds / _size(problem)

    def was_checked(self, problem: ProblemKey, seconds: float) -> None:
        """Nothing of the problem is to be compiled any more; how long its check took without compilations."""
        self._layers.pop(problem, None)
        self._check_seconds = seconds / sum(_weight(case) for case in self.ahead if case.problem == problem)

    def share(self, case: BenchCase) -> float:
        """The seconds that belong to the timing of a case: its part of those that are not for checks and compilers."""
        checks = self._check_seconds * sum(_weight(ahead) for ahead in self.ahead if ahead.problem in self._layers)
        rest = self.left - checks - sum(self._fitting().values())
        return max(rest, 0.0) * _weight(case) / sum(map(_weight, self.ahead))

    def was_timed(self, case: BenchCase) -> None:
        """The case no longer lies ahead."""
        self.ahead.remove(case)


def _weight(case: BenchCase) -> float:
    """A large case takes longer, a small one more rounds."""
    return float(case.flop**0.5)


def _size(problem: ProblemKey) -> int:
    """How many layers a compiler has to do with: training a neck, each stage has one of its own."""
    return len(problem[0].stages)
