"""The tables that ``sdn-triton bench run`` shows, a case each, and what they share with those of ``compare``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..measuring.intervals import Interval
from ..runs.saved_runs import Case, Result, Roofs, Run
from ..runs.verdicts import Speedup, over_floor, speedup_of, speedups_of
from ..terminal import BAD, FAINT, GOOD, Table, error_size, mebibytes, milliseconds, ratio

COLUMNS = (
    "provider",
    "ms",
    "95 %\nms",
    "\n/floor",
    "against the\nfastest baseline",
    "GB/s",
    "of\ncopy",
    "GFLOP/s",
    "of\nproduct",
    "MiB",
    "error\n/bound",
)
SUMMARY = ("case", "/floor", "fastest\nbaseline", "against\nit", "95 %", "verdict")
LEGEND = (
    "ms: median, and the interval that holds the true median at 95 %. /floor: over the time of the vanilla",
    "convolution. GB/s, GFLOP/s: the least traffic and the products of the operator over the time, beside it in",
    "shares of what a copy and a matrix product reach here. MiB: peak memory beyond inputs and weights.",
    "error/bound: the largest error against float64 in sizes of what is allowed.",
)
VERDICT_STYLES = {"faster": GOOD, "slower": BAD, "undecided": FAINT}
WRONG = ("refused", "failed")
"""What became of a provider whose results are not right."""


def introduction(run: Run, left_out: Mapping[str, str], *said: str) -> list[str]:
    """What runs where, what does not and why not, and what else is to be ``said`` before the tables."""
    environment = run.environment
    device, git = environment["device"], environment["git"]
    threads = f", {device['threads']} thread(s)" if "threads" in device else f", driver {device['driver']}"
    versions = ", ".join(f"{name} {environment[name]}" for name in ("torch", "triton", "python") if environment[name])
    revision = f", revision {git['revision'][:10]}{' (changed)' if git['dirty'] else ''}" if git["revision"] else ""
    lines = [f"{device['name']}{threads}; {versions}{revision}"]
    load, cores = (environment["load"] or [0.0])[0], device.get("cores")
    if cores and load > 0.5 * cores:
        lines.append(f"This machine is busy with other work (load {load:.1f} on {cores} cores): times will vary.")
    running = [provider for name, provider in run.providers.items() if name not in left_out]
    lines += ["", *(f"{provider.name} ({provider.role}): {provider.title}" for provider in running)]
    lines += [f"{name}: not run: {why}" for name, why in left_out.items()]
    return [*lines, "", *said, ""]


def status_label(result: Result) -> str:
    """Why there is no time, in a word, in capitals where the provider is not right."""
    return {"refused": "WRONG", "failed": "FAILED"}.get(result.status, result.status)


def reasons(results: Iterable[Result], told: set[tuple[str, str]]) -> list[str]:
    """Why results have no time: a line for each reason, unless it was ``told`` of the provider before.

    What cannot run here is told once, since it holds for every case.
    """
    providers_by_reason: dict[str, list[str]] = {}
    for result in results:
        reason = result.provider, str(result.why)
        if not result.ok and reason not in told:
            line = f"{status_label(result)}, not timed: {result.why}"
            providers_by_reason.setdefault(line, []).append(result.provider)
        if result.status == "unavailable":
            told.add(reason)
    return [f"{', '.join(names)} {reason}" for reason, names in providers_by_reason.items()]


def case_table(run: Run, case: Case, told: set[tuple[str, str]]) -> Table:
    """One row a provider; what has no time has a note that says why, unless that was ``told`` before."""
    table = Table(case.id, COLUMNS)
    for result in case.results:
        speedup = speedup_of(run, case, result.provider) if run.providers[result.provider].role == "ours" else None
        if result.ok:
            table.add(_figures(run, case, result, speedup), VERDICT_STYLES[speedup.verdict] if speedup else "")
        elif result.status in WRONG:
            table.add([result.provider, status_label(result), *[""] * 8, error_cell(result.error)], BAD)
    table.notes += reasons(case.results, told)
    return table.without_empty_columns()


def _figures(run: Run, case: Case, result: Result, speedup: Speedup | None) -> list[str]:
    return [
        result.provider,
        milliseconds(result.median / 1e3),
        "-".join(milliseconds(limit / 1e3) for limit in result.interval or ()),
        over_floor_cell(run, case, result),
        _against(speedup),
        *_rates(run.roofs, case, result.median / 1e3),
        memory_cell(result.peak_bytes),
        error_cell(result.error),
    ]


def _rates(roofs: Roofs | None, case: Case, seconds: float) -> list[str]:
    """Bytes and operations a second, each beside its share of the roof."""
    bytes_, flop = case.bytes / seconds, case.flop / seconds
    product = roofs.by_dtype.get(case.condition.dtype) if roofs else None
    shares = bytes_ / roofs.copy if roofs else None, flop / product if product else None
    of_copy, of_product = ("" if share is None else f"{share:.0%}" for share in shares)
    return [f"{bytes_ / 1e9:.3g}", of_copy, f"{flop / 1e9:.3g}", of_product]


def over_floor_cell(run: Run, case: Case, result: Result) -> str:
    """The time over the floor's; empty where one of the two is missing."""
    times = over_floor(run, case, result.provider)
    return "" if times is None else ratio(times)


def memory_cell(size: int | None) -> str:
    """Bytes in MiB."""
    return "" if size is None else mebibytes(size)


def error_cell(error: float | None) -> str:
    """An error, where it is known."""
    return "" if error is None else error_size(error)


def _against(speedup: Speedup | None) -> str:
    if speedup is None:
        return ""
    if speedup.verdict == "undecided":
        return f"undecided: {speedup.baseline.provider}"
    return f"{times_faster(speedup)} than {speedup.baseline.provider}"


def times_faster(speedup: Speedup) -> str:
    """By how much one of ours is faster or slower; with a question mark where the times do not decide it."""
    factor = speedup.factor
    number = f"{ratio(factor)} faster" if factor >= 1 else f"{ratio(1 / factor)} slower"
    return f"{number}?" if speedup.verdict == "undecided" else number


def summary_tables(run: Run) -> list[Table]:
    """For each of the library's own providers all cases, won and lost, the best first."""
    tables = [_summary(run, provider.name) for provider in run.of_role("ours")]
    return [table for table in tables if table.rows]


def _summary(run: Run, name: str) -> Table:
    table = Table(f"{name} beside the floor and the fastest baseline", SUMMARY)
    speedups = sorted((s for s in speedups_of(run) if s.own.provider == name), key=lambda s: -s.factor)
    for s in speedups:
        cells = [s.case.id, over_floor_cell(run, s.case, s.own), s.baseline.provider, ratio(s.factor)]
        table.add([*cells, _range(s.interval), s.verdict], VERDICT_STYLES[s.verdict])
    verdicts = [s.verdict for s in speedups]
    counts = ", ".join(f"{word} in {verdicts.count(word)}" for word in ("faster", "slower", "undecided"))
    table.notes.append(f"{len(speedups)} cases: {counts}. Against it: times as fast as the fastest baseline.")
    return table


def _range(interval: Interval) -> str:
    return f"{interval.low:.2f}-{interval.high:.2f}"
