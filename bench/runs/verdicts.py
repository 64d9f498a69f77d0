"""Who is faster: every path of sdn_triton against the fastest baseline of the same case, and how sure that is."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ..measuring.intervals import Estimate, Interval, least_samples, median_interval, ratio_samples
from .saved_runs import Case, Condition, Result, Run

VERDICTS = ("slower", "undecided", "faster")
"""Undecided where the two confidence intervals overlap, or one of them is not known."""
LEAST_ROUNDS = least_samples()
"""With fewer samples not even their whole range holds the median with 95% confidence."""


@dataclass(frozen=True)
class Speedup:
    """One of ours against the fastest baseline of a case: how many times as fast it is.

    ``interval`` is that of ``factor``. The verdict asks for more: that the two medians' own intervals have nothing in
    common.
    """

    case: Case
    own: Result
    baseline: Result
    factor: float
    interval: Interval
    verdict: str


def relative(run: Run, over: Result, under: Result) -> Estimate:
    """The time of one provider in times of another's: of the medians, and the interval of the ratio in each round.

    Rounds that were not measured in turns cannot be set beside each other: there the interval is as wide as the ends
    of the two medians' intervals allow.
    """
    if run.interleaved and over.rounds == under.rounds:
        interval = median_interval(ratio_samples(over.samples, under.samples))
    else:
        interval = Interval(over.range.low / under.range.high, over.range.high / under.range.low)
    return Estimate(over.median / under.median, interval)


def fastest_baseline(run: Run, case: Case) -> Result | None:
    """The baseline with the least median; None if none has a time."""
    timed = [result for result in case.timed() if run.providers[result.provider].role == "baseline"]
    return min(timed, key=lambda result: result.median, default=None)


def speedup_of(run: Run, case: Case, provider: str) -> Speedup | None:
    """A provider against the fastest baseline of a case; None if it or every baseline has no time."""
    own, baseline = case.result(provider), fastest_baseline(run, case)
    if own is None or not own.ok or baseline is None:
        return None
    return Speedup(case, own, baseline, *relative(run, baseline, own), verdict(own, baseline))


def verdict(own: Result, baseline: Result) -> str:
    """One of ``VERDICTS``, about ``own``."""
    if own.interval is None or baseline.interval is None or min(own.rounds, baseline.rounds) < LEAST_ROUNDS:
        return "undecided"
    if not own.interval.is_apart_from(baseline.interval):
        return "undecided"
    return "faster" if own.interval.high < baseline.interval.low else "slower"


def speedups_of(run: Run) -> list[Speedup]:
    """Those of each path of ours in each case, in the order of the cases."""
    ours = [provider.name for provider in run.of_role("ours")]
    return [speedup for case in run.cases for name in ours if (speedup := speedup_of(run, case, name)) is not None]


@dataclass(frozen=True)
class Summary:
    """All speed-ups of one provider for one kind of workload, pass and condition."""

    provider: str
    kind: str
    pass_: str
    condition: Condition | None
    """None for all conditions."""
    speedups: tuple[Speedup, ...]
    over_floor: tuple[float, ...]
    """Its time over the floor's, for each case in which both have one."""

    def count(self, verdict: str) -> int:
        return sum(speedup.verdict == verdict for speedup in self.speedups)

    @property
    def speedup_range(self) -> tuple[float, float, float] | None:
        """Least, median, most of the speed-ups."""
        return _range([speedup.factor for speedup in self.speedups])

    @property
    def over_floor_range(self) -> tuple[float, float, float] | None:
        """Least, median, most of the times over the floor's."""
        return _range(self.over_floor)


def _range(values: Sequence[float]) -> tuple[float, float, float] | None:
    return (min(values), statistics.median(values), max(values)) if values else None


def summaries(run: Run, by_condition: bool = True) -> list[Summary]:
    """One for each provider of ours, kind and pass that has a time, for each condition or for all of them."""
    summarised = []
    for condition in run.conditions() if by_condition else [None]:
        cases = run.cases if condition is None else run.under(condition)
        for kind, pass_ in dict.fromkeys((case.kind, case.pass_) for case in cases):
            chosen = [case for case in cases if (case.kind, case.pass_) == (kind, pass_)]
            for provider in run.of_role("ours"):
                timed = [case for case in chosen if (own := case.result(provider.name)) is not None and own.ok]
                speedups = tuple(s for case in timed if (s := speedup_of(run, case, provider.name)) is not None)
                ratios = tuple(r for case in timed if (r := over_floor(run, case, provider.name)) is not None)
                if timed:
                    summarised.append(Summary(provider.name, kind, pass_, condition, speedups, ratios))
    return summarised


def over_floor(run: Run, case: Case, provider: str) -> float | None:
    """The provider's time over that of the floor."""
    own, floor = case.result(provider), floor_of(run, case)
    return own.median / floor.median if own is not None and own.ok and floor is not None else None


def floor_of(run: Run, case: Case) -> Result | None:
    """The floor's time in a case; None if it has none."""
    floor = case.result(floor_name(run))
    return floor if floor is not None and floor.ok else None


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
