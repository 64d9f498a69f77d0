"""Who is faster: every path of sdn_triton against the fastest baseline of the same case, and how sure that is."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .saved_runs import Case, Condition, Result, Run

VERDICTS = ("slower", "undecided", "faster")
"""Undecided where the two confidence intervals overlap, or one of them is not known."""
LEAST_ROUNDS = 6
"""With fewer samples not even their whole range holds the median with 95% confidence."""


@dataclass(frozen=True)
class Standing:
    """One of ours against the fastest baseline of a case: how many times as fast it is.

    ``interval`` is what the ends of the two confidence intervals allow at most; wider than an interval of the ratio.
    """

    case: Case
    own: Result
    baseline: Result
    verdict: str

    @property
    def speedup(self) -> float:
        return self.baseline.median / self.own.median

    @property
    def interval(self) -> tuple[float, float] | None:
        """The least and the most."""
        if self.own.interval is None or self.baseline.interval is None:
            return None
        return self.baseline.interval[0] / self.own.interval[1], self.baseline.interval[1] / self.own.interval[0]


def fastest_baseline(run: Run, case: Case) -> Result | None:
    """The baseline with the least median; None if none has a time."""
    timed = [result for result in case.timed() if run.providers[result.provider].role == "baseline"]
    return min(timed, key=lambda result: result.median, default=None)


def standing(run: Run, case: Case, provider: str) -> Standing | None:
    """How a provider stands in a case; None if it or every baseline has no time."""
    own, baseline = case.result(provider), fastest_baseline(run, case)
    if own is None or not own.ok or baseline is None:
        return None
    return Standing(case, own, baseline, verdict(own, baseline))


def verdict(own: Result, other: Result) -> str:
    """One of ``VERDICTS``, about ``own``."""
    if own.interval is None or other.interval is None or min(own.rounds, other.rounds) < LEAST_ROUNDS:
        return "undecided"
    if own.interval[1] < other.interval[0]:
        return "faster"
    return "slower" if own.interval[0] > other.interval[1] else "undecided"


def standings(run: Run, cases: Iterable[Case]) -> list[Standing]:
    """Everything that can be said about ours, in the order of the cases."""
    ours = [provider.name for provider in run.of_role("ours")]
    return [found for case in cases for name in ours if (found := standing(run, case, name)) is not None]


@dataclass(frozen=True)
class Summary:
    """All standings of one provider for one kind of workload, pass and condition."""

    provider: str
    kind: str
    what: str
    condition: Condition | None
    """None for all conditions."""
    standings: tuple[Standing, ...]
    over_floor: tuple[float, ...]
    """Its time over the floor's, for each case in which both have one."""

    def count(self, verdict: str) -> int:
        return sum(standing.verdict == verdict for standing in self.standings)

    @property
    def speedups(self) -> tuple[float, float, float] | None:
        """Least, median, most."""
        return _three([standing.speedup for standing in self.standings])

    @property
    def floors(self) -> tuple[float, float, float] | None:
        """Least, median, most of the times over the floor's."""
        return _three(self.over_floor)


def _three(values: Sequence[float]) -> tuple[float, float, float] | None:
    return (min(values), statistics.median(values), max(values)) if values else None


def summaries(run: Run, by_condition: bool = True) -> list[Summary]:
    """One for each provider of ours, kind and pass that has a time, for each condition or for all of them."""
    found = []
    for condition in run.conditions() if by_condition else [None]:
        cases = run.cases if condition is None else run.under(condition)
        for kind, what in dict.fromkeys((case.kind, case.what) for case in cases):
            chosen = [case for case in cases if (case.kind, case.what) == (kind, what)]
            for provider in run.of_role("ours"):
                timed = [case for case in chosen if (own := case.result(provider.name)) is not None and own.ok]
                stands = tuple(s for case in timed if (s := standing(run, case, provider.name)) is not None)
                ratios = tuple(r for case in timed if (r := over_floor(run, case, provider.name)) is not None)
                if timed:
                    found.append(Summary(provider.name, kind, what, condition, stands, ratios))
    return found


def over_floor(run: Run, case: Case, provider: str) -> float | None:
    """The provider's time over that of the floor: the first provider of that role."""
    own, floor = case.result(provider), case.result(floor_name(run))
    return own.median / floor.median if own is not None and own.ok and floor is not None and floor.ok else None


def floor_name(run: Run) -> str:
    """The floor that times are divided by; there may be others, to look at."""
    return next((provider.name for provider in run.of_role("floor")), "floor")


def share_of_roof(run: Run, case: Case, result: Result) -> float | None:
    """The least time at the measured roofs over the time; None without roofs of the case's dtype, or for host time.

    The least time is that of the case's least traffic or of its operations, whichever is longer.
    """
    roofs = run.roofs
    if roofs is None or roofs.dtype != case.condition.dtype or case.condition.mode == "host" or not result.ok:
        return None
    return max(case.bytes / roofs.copy, case.flop / roofs.matmul) * 1e3 / result.median
