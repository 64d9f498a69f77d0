"""``sdn-triton bench compare A B``: what changed from one run to another, and is not noise.

A provider's time in a case has changed if all of this holds:

1. the 99 % intervals of the two medians have nothing in common,
2. the medians differ by more than ``--threshold`` (10 %, on a CPU 30 %: two processes that run the same code on a
   shared machine were seen to differ by so much, whatever the intervals of each say),
3. the same holds for its times in multiples of the floor's, round by round. What slows a whole machine down, slows the
   floor of the same round, too. The floor itself, and runs that were not measured in turns, are judged by 1 and 2.

With fewer than eight rounds on one side no interval of 99 % exists, and nothing is said of the times.

The exit status is 0 if nothing got worse; 1 if something got slower, or has no time any more because it became wrong or
broke; 2 if a file cannot be read or the two have no case in common.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..measuring.intervals import Estimate, Interval, estimate, least_samples, ratio_samples
from ..runs.record import differences
from ..runs.saved_runs import Case, Result, Run, RunFileError, read_run
from ..runs.verdicts import floor_of
from ..terminal import BAD, FAINT, GOOD, Report, Table, milliseconds, ratio

LEVEL = 0.99
THRESHOLD = 0.10
CPU_THRESHOLD = 0.30
BROKEN = ("refused", "failed")
SAME, FASTER, SLOWER, UNKNOWN = "no change", "faster", "slower", "too few rounds"


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to below 1, as in 0.1 for 10 %")
    return value


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench compare``."""
    add = parser.add_argument
    add("before", type=Path, metavar="A", help="a file of `sdn-triton bench run`")
    add("after", type=Path, metavar="B", help="another one")
    add("--threshold", type=_share, help="differences below this are none (default: 0.1, on a CPU 0.3)")
    parser.set_defaults(run=run, parser=parser)


@dataclass(frozen=True)
class Change:
    """One provider in one case of both files. ``times`` is the second median over the first."""

    case: str
    provider: str
    verdict: str
    before: Estimate
    after: Estimate
    of_floor: bool

    @property
    def times(self) -> float:
        return self.after.median / self.before.median

    @property
    def interval(self) -> Interval:
        """Where the ratio of the true medians lies if both lie in their intervals."""
        (low_a, high_a), (low_b, high_b) = self.before.interval, self.after.interval
        return Interval(low_b / high_a, high_b / low_a)


def direction(before: Estimate, after: Estimate, threshold: float) -> str:
    """Whether the second is slower or faster beyond noise and threshold; a difference of exactly it is none."""
    if not before.interval.is_apart_from(after.interval):
        return SAME
    times = after.median / before.median
    if times > 1 + threshold:
        return SLOWER
    return FASTER if times < 1 / (1 + threshold) else SAME


class Comparison:
    """Two files, case by case."""

    def __init__(self, before: Run, after: Run, threshold: float = THRESHOLD) -> None:
        self.before, self.after, self.threshold = before, after, threshold
        old, new = ({case.id: case for case in run.cases} for run in (before, after))
        self.pairs = [(case, new[name]) for name, case in old.items() if name in new]
        self.only_before = [name for name in old if name not in new]
        self.only_after = [name for name in new if name not in old]
        both = ((a, b, x, y) for a, b in self.pairs for x, y in _results(a, b))
        self.changes = [self._change(*pair) for pair in both if pair[2].ok and pair[3].ok]

    def _change(self, a: Case, b: Case, old: Result, new: Result) -> Change:
        before, after = (estimate(result.samples, LEVEL) for result in (old, new))
        floors = floor_of(self.before, a), floor_of(self.after, b)
        of_floor = floors[0] is old
        verdict = direction(before, after, self.threshold)
        if min(old.rounds, new.rounds) < least_samples(LEVEL):
            verdict = UNKNOWN
        elif verdict != SAME and not of_floor and (pair := self._beside_floor((old, new), floors)) is not None:
            verdict = verdict if direction(*pair, self.threshold) == verdict else SAME
        return Change(a.id, old.provider, verdict, before, after, of_floor)

    def _beside_floor(
        self, results: tuple[Result, Result], floors: tuple[Result | None, Result | None]
    ) -> tuple[Estimate, Estimate] | None:
        """The times in multiples of the floor's of the same round, before and after; None without such rounds."""
        old, new = floors
        if old is None or new is None or not (self.before.interleaved and self.after.interleaved):
            return None
        pairs = zip(results, (old, new), strict=True)
        first, second = (estimate(ratio_samples(over.samples, under.samples), LEVEL) for over, under in pairs)
        return first, second

    def of(self, verdict: str) -> list[Change]:
        """The times with a verdict, the largest change first."""
        changes = [change for change in self.changes if change.verdict == verdict]
        return sorted(changes, key=lambda change: -max(change.times, 1 / change.times))

    @property
    def became(self) -> list[tuple[str, str, str, str, str | None]]:
        """Where a provider has a time on one side only: case, provider, both statuses, and why on the side without."""
        return sorted(
            (a.id, x.provider, x.status, y.status, y.why or x.why)
            for a, b in self.pairs
            for x, y in _results(a, b)
            if x.status != y.status
        )

    @property
    def is_worse(self) -> bool:
        """Whether anything got slower, wrong or broken."""
        return bool(self.of(SLOWER)) or any(after in BROKEN for _, _, _, after, _ in self.became)


def _results(a: Case, b: Case) -> Iterator[tuple[Result, Result]]:
    """The results of each provider that both cases have."""
    for old in a.results:
        if (new := b.result(old.provider)) is not None:
            yield old, new


def run(args: argparse.Namespace) -> int:
    """Show what differs between the environments, what changed, and how much was compared."""
    try:
        before, after = read_run(args.before), read_run(args.after)
    except RunFileError as error:
        args.parser.error(str(error))
    on_cpu = before.environment.get("device", {}).get("type") == "cpu"
    threshold = args.threshold if args.threshold is not None else CPU_THRESHOLD if on_cpu else THRESHOLD
    comparison = Comparison(before, after, threshold)
    if not comparison.pairs:
        args.parser.error(f"{args.before} and {args.after} have no case in common")
    report = Report(0)
    for name, old, new in differences(before, after):
        report.say(f"The environments differ in {name}: {old!r}, then {new!r}", BAD)
    for run in (before, after):
        if not run.complete:
            report.say(f"{run.path} was cut off: only what it has is compared", FAINT)
    for table in tables(comparison):
        report.show(table)
    for line in conclusion(comparison):
        report.say(line)
    return int(comparison.is_worse)


def tables(comparison: Comparison) -> list[Table]:
    """Slower, then faster, then what has a time on one side only; nothing for what did not change."""
    changed = []
    for verdict, style in ((SLOWER, BAD), (FASTER, GOOD)):
        changes = comparison.of(verdict)
        table = Table(f"{verdict.capitalize()}: {len(changes)}", ("case", "provider", "A ms", "B ms", "B / A", "99 %"))
        for change in changes:
            name = f"{change.provider} (the floor: machine or libraries)" if change.of_floor else change.provider
            times = (milliseconds(side.median / 1e3) for side in (change.before, change.after))
            low, high = change.interval
            table.add([change.case, name, *times, ratio(change.times), f"{low:.2f}-{high:.2f}"], style)
        changed.append(table)
    became = Table("Status changed", ("case", "provider", "A", "B", "why"), text=True)
    for row in comparison.became:
        became.add([cell or "" for cell in row], BAD if row[3] in BROKEN else "")
    return [table for table in (*changed, became) if table.rows]


def conclusion(comparison: Comparison) -> Sequence[str]:
    """How much was compared, and what came of it."""
    counts = [f"{len(comparison.of(verdict))} {verdict}" for verdict in (SLOWER, FASTER, SAME, UNKNOWN)]
    share = f"{comparison.threshold:.0%}"
    lines = [
        f"{len(comparison.changes)} times in {len(comparison.pairs)} cases compared: {', '.join(counts)}.",
        f"Slower and faster: by more than {share}, intervals of 99 % apart, also in multiples of the floor's times.",
    ]
    for which, names in (("A", comparison.only_before), ("B", comparison.only_after)):
        if names:
            lines.append(f"Only in {which}: {len(names)} cases.")
    return lines
