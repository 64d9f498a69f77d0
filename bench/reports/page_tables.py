"""The tables and sentences of a report, before they become HTML or Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from statistics import median

from ..runs.record import flat
from ..runs.saved_runs import Case, Result, Run
from ..runs.verdicts import (
    LEAST_ROUNDS,
    VERDICTS,
    Speedup,
    fastest_baseline,
    floor_name,
    over_floor,
    share_of_roof,
    speedup_of,
    speedups_of,
    summaries,
)
from ..terminal import Cell, Table, error_size, figure, mebibytes, milliseconds, ratio


def times_as_fast(speedup: Speedup) -> Cell:
    """A speed-up with its verdict."""
    marks = {"faster": "good", "slower": "bad", "undecided": "faint"}
    return figure(speedup.factor, ratio(speedup.factor), marks[speedup.verdict])


def span(interval: tuple[float, float] | None, rounds: int, show: Callable[[float], str]) -> Cell:
    """An interval, of so many rounds; sorted by its width."""
    if interval is None or rounds < LEAST_ROUNDS:
        return Cell("too few rounds", None, "faint")
    return figure(interval[1] - interval[0], f"{show(interval[0])} to {show(interval[1])}")


def _ms(value: float) -> str:
    return milliseconds(value / 1e3)


def environment_table(run: Run) -> Table:
    """The machine that the figures come from, and the settings of the run."""
    table = Table("Environment and settings", ("what", "value"), text=True)
    for name, value in (*flat(run.environment).items(), *flat(run.settings).items()):
        table.add([name, _setting(value)])
    roofs = run.roofs
    if roofs is None:
        table.add(["measured roofs", "none"])
    else:
        table.add(["measured roof: copy", f"{roofs.copy / 1e9:.3g} GB/s"])
        table.add([f"measured roof: matrix product, {roofs.dtype}", f"{roofs.matmul / 1e9:.3g} Gflop/s"])
    return table


def _setting(value: object) -> str:
    if isinstance(value, list):
        return " ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in value)
    return {"None": "none", "True": "yes", "False": "no"}.get(str(value), str(value))


def provider_table(run: Run) -> Table:
    """Who took part, as what, and how often with what outcome."""
    table = Table("Providers", ("provider", "what it is", "role", "timed", "not timed"), text=True)
    for provider in run.providers.values():
        results = [r for case in run.cases if (r := case.result(provider.name)) is not None]
        timed = sum(result.ok for result in results)
        missing = len(results) - timed
        table.add(
            [
                provider.name,
                provider.title,
                provider.role,
                figure(timed, str(timed)),
                figure(missing, str(missing), "bad" if missing else ""),
            ]
        )
    return table


def summary_table(run: Run, by_condition: bool = True) -> Table:
    """How often each path of ours is faster and slower than the fastest baseline, and by how much."""
    by_condition = by_condition and len(run.conditions()) > 1
    columns = ["path", "workload", "pass", *(["condition"] if by_condition else []), "cases", *VERDICTS]
    columns += ["speed-up: median (least to most)", f"time / {floor_name(run)}: median (least to most)"]
    table = Table("Against the fastest baseline", columns, heads=columns.index("cases"), text=True)
    for summary in summaries(run, by_condition):
        counts = {verdict: summary.count(verdict) for verdict in VERDICTS}
        marks = {"slower": "bad" if counts["slower"] else "", "faster": "good" if counts["faster"] else ""}
        table.add(
            [
                summary.provider,
                summary.kind,
                summary.pass_,
                *([run.told_apart(summary.condition)] if by_condition and summary.condition else []),
                figure(len(summary.speedups), str(len(summary.speedups))),
                *(figure(count, str(count), marks.get(verdict, "")) for verdict, count in counts.items()),
                _range(summary.speedup_range),
                _range(summary.over_floor_range),
            ]
        )
    return table


def _range(values: tuple[float, float, float] | None) -> Cell:
    if values is None:
        return Cell("nothing to compare with", None, "faint")
    least, median, most = values
    return figure(median, f"{ratio(median)} ({ratio(least)} to {ratio(most)})")


def speedup_tables(run: Run) -> list[Table]:
    """Three tables, of the slower, undecided and faster cases of ours; within each the slowest first."""
    titles = {
        "slower": "Slower than the fastest baseline",
        "undecided": "Undecided: the confidence intervals overlap",
        "faster": "Faster than the fastest baseline",
    }
    speedups = sorted(speedups_of(run), key=lambda speedup: speedup.factor)
    tables = []
    for verdict in VERDICTS:
        chosen = [speedup for speedup in speedups if speedup.verdict == verdict]
        columns = ["case", "pass", *_condition(run, "condition"), "path"]
        columns += ["times as fast", "at least, at most", "fastest baseline"]
        table = Table(
            f"{titles[verdict]}: {len(chosen)} of {len(speedups)}",
            columns,
            heads=columns.index("times as fast"),
            text=True,
        )
        for s in chosen:
            cells = (s.case.label, s.case.pass_, *_condition(run, run.told_apart(s.case.condition)), s.own.provider)
            table.add(
                [
                    *cells,
                    times_as_fast(s),
                    span(s.interval, min(s.own.rounds, s.baseline.rounds), ratio),
                    s.baseline.provider,
                ]
            )
        tables.append(table)
    return tables


def _condition(run: Run, text: str) -> list[str]:
    """The column of conditions, where there is more than one."""
    return [text] if len(run.conditions()) > 1 else []


def untimed_table(run: Run) -> Table:
    """Who was refused, failed or could not run, why, and where."""
    table = Table("Not timed, and why", ("provider", "outcome", "reason", "cases", "which"), heads=2, text=True)
    cases_of: dict[tuple[str, str, str], list[Case]] = {}
    for case in run.cases:
        for result in case.results:
            if not result.ok:
                cases_of.setdefault((result.provider, result.status, result.why or ""), []).append(case)
    for (provider, status, why), cases in cases_of.items():
        everywhere = len(cases) == sum(case.result(provider) is not None for case in run.cases)
        which = "all" if everywhere else "; ".join(_place(run, c) for c in cases[:3])
        more = "" if everywhere or len(cases) <= 3 else f"; and {len(cases) - 3} more"
        mark = "bad" if status in ("refused", "failed") else "faint"
        table.add([provider, Cell(status, status, mark), why, figure(len(cases), str(len(cases))), which + more])
    return table


def _place(run: Run, case: Case) -> str:
    """A case among all others."""
    return f"{case.label} ({', '.join(filter(None, (case.pass_, run.told_apart(case.condition))))})"


def case_tables(run: Run) -> list[Table]:
    """A table for each network and condition: every provider in every case."""
    columns = ["shape", "pass", "provider", "time [ms]", "95% interval [ms]", f"/ {floor_name(run)}"]
    columns += ["against fastest baseline", "of the roof", "peak [MiB]", "error"]
    tables = []
    for network, condition in dict.fromkeys((case.network, case.condition) for case in run.cases):
        table = Table(f"{network}: {condition}", columns, heads=3, text=True)
        for case in run.under(condition):
            if case.network == network:
                for result in case.results:
                    table.add(_case_row(run, case, result))
        tables.append(table)
    return tables


def _case_row(run: Run, case: Case, result: Result) -> list[str | None]:
    names: list[str | None] = [f"{case.workload}: {case.shape}", case.pass_, result.provider]
    if not result.ok:
        mark = "bad" if result.status in ("refused", "failed") else "faint"
        return [*names, Cell(result.status, None, mark), *[None] * 4, None, _error(result)]
    floor, share, peak = over_floor(run, case, result.provider), share_of_roof(run, case, result), result.peak_bytes
    return [
        *names,
        figure(result.median, _ms(result.median)),
        span(result.interval, result.rounds, _ms),
        figure(floor, "" if floor is None else ratio(floor)),
        _against_baseline(run, case, result),
        figure(share, "" if share is None else f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"),
        figure(peak, "" if peak is None else mebibytes(peak)),
        _error(result),
    ]


def _error(result: Result) -> Cell:
    return figure(result.error, "" if result.error is None else error_size(result.error))


def _against_baseline(run: Run, case: Case, result: Result) -> Cell:
    """The speed-up of one of ours; of the baselines the fastest is named."""
    role, fastest = run.providers[result.provider].role, fastest_baseline(run, case)
    if role == "baseline" and result is fastest:
        return Cell("the fastest baseline")
    speedup = speedup_of(run, case, result.provider) if role == "ours" else None
    return Cell("") if speedup is None else times_as_fast(speedup)


def headline(run: Run) -> list[str]:
    """What a reader should know before any figure."""
    environment = run.environment
    git, load = environment.get("git") or {}, environment.get("load")
    device = environment.get("device") or {}
    cores = device.get("cores") if isinstance(device, Mapping) else None
    lines = []
    if not run.complete:
        lines.append("INCOMPLETE: this run was cut off. What it has is shown; what is missing is not known.")
    if not run.cases:
        lines.append("This run has no cases.")
    elif not any(case.timed() for case in run.cases):
        lines.append("No provider was timed in any case.")
    if git.get("dirty"):
        lines.append("The sources had changes that are in no revision, so these figures cannot be had again for sure.")
    if cores and load and load[0] > 0.5 * cores:
        lines.append(f"The machine was busy when the run began (load {load[0]:.1f} on {cores} cores).")
    return lines


TELLS = (
    "Times are medians of interleaved rounds; the interval holds the median with 95% confidence. Every provider's "
    "results are checked against float64 before it is timed; one that is wrong is refused and has no time.",
    "Speed-up is always against the fastest baseline of the same case: the time of that baseline over that of ours. "
    "Above 1 ours is faster, below 1 slower. It is undecided where the two medians' intervals overlap. At least, at "
    "most: the interval of the ratio, round by round; where the providers did not take turns it comes from the ends of "
    "both intervals and is wide.",
    "A floor is another, cheaper operator, such as the vanilla 3x3 convolution (conv2d) that times are divided by. It "
    "computes something else and is never a baseline.",
    "Of the roof: the least time that the measured copy and matrix product of this device would take for the bytes and "
    "operations that the layer needs, over the time taken. Small inputs lie in a cache, where more than the roof of a "
    "copy is possible. Where the roofs were measured in another dtype there is no such figure.",
    "Peak memory is what a call allocates at its worst moment beyond what was there before.",
)
DOES_NOT_TELL = (
    "The figures hold for the device, versions and settings below. They say nothing about other devices: figures of a "
    "CPU say nothing about a GPU, where other code runs.",
    "They are about layers, blocks and necks by themselves, with random inputs. They do not say how much faster a "
    "whole network trains, nor how well it segments.",
    "Intervals tell how far the median of this run is known. Another run on another day may differ by more, by clocks, "
    "temperature and memory layout; `sdn-triton bench compare` says what changed beyond the noise.",
)


def answer(run: Run) -> list[str]:
    """The outcome in a line for each path of ours: how often it is faster, by how much, and than what."""
    lines = []
    for provider in run.of_role("ours"):
        speedups = [s for s in speedups_of(run) if s.own.provider == provider.name]
        if not speedups:
            continue
        count = Counter(s.verdict for s in speedups)
        factors = sorted(s.factor for s in speedups)
        rivals = Counter(s.baseline.provider for s in speedups).most_common()
        fastest = ", ".join(f"{name} in {often}" for name, often in rivals)
        lines.append(
            f"{provider.name}: of {len(speedups)} cases faster than the fastest baseline in {count['faster']}, slower "
            f"in {count['slower']}, undecided in {count['undecided']}; times as fast: {ratio(median(factors))} in the "
            f"middle, {ratio(factors[0])} at worst, {ratio(factors[-1])} at best. The fastest baseline was {fastest}."
        )
    return lines


def measured(run: Run) -> str:
    """What was measured, in a sentence."""
    if not run.cases:
        return "Nothing was measured."
    networks = ", ".join(dict.fromkeys(case.network for case in run.cases))
    passes = ", ".join(dict.fromkeys(case.pass_ for case in run.cases))
    kinds = ", ".join(dict.fromkeys(case.kind for case in run.cases))
    conditions = "; ".join(map(str, run.conditions()))
    return f"{len(run.cases)} cases ({kinds}; {passes}) of {networks}, in {conditions}."
