"""The tables of ``sdn-triton compare``: one a workload, whose two passes stand side by side, and a summary."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping

from ..measuring.rounds import Timing
from ..runs.saved_runs import Case, Result, Run
from ..runs.verdicts import speedup_of
from ..terminal import BAD, FAINT, GOOD, Table, milliseconds
from .run_tables import WRONG, error_cell, memory_cell, over_floor_cell, reasons, status_label, times_faster

PASSES = ("inference", "training")
COLUMNS = (
    "provider",
    "forward\nms",
    "\n/conv",
    "fwd+bwd\nms",
    "\n/conv",
    "fwd\nMiB",
    "f+b\nMiB",
    "output\nerror",
    "grad\nerror",
)
SUMMARY = (
    "workload",
    "forward\n/conv",
    "fastest\nother",
    "against\nit",
    "fwd+bwd\n/conv",
    "fastest\nother",
    "against\nit",
)
RESTLESS = 0.15
"""A median spread above this is said."""
LEGEND = (
    "forward: evaluation without gradients. fwd+bwd: a training step with the gradients of inputs and weights.",
    "ms: median, and half the distance between the quartiles. /conv: time over that of the 3x3 convolution (conv2d).",
    "MiB: peak memory beyond inputs and weights. error: against float64, largest over all outputs or gradients.",
    "Against it: than the fastest other way to the same result; ?: not by more than noise, or too few rounds to say.",
)

Passes = Mapping[str, Case]
"""The cases of one workload by their pass."""


def by_workload(cases: Iterable[Case]) -> list[Passes]:
    """The cases of each workload, in their order."""
    workloads: dict[tuple[object, ...], dict[str, Case]] = {}
    for case in cases:
        workloads.setdefault((case.network, case.workload, case.stages, case.batch), {})[case.pass_] = case
    return list(workloads.values())


def workload_table(run: Run, title: str, passes: Passes, told: set[tuple[str, str]]) -> Table:
    """One row a provider; what has no time has a note that says why, unless that was ``told`` before."""
    table = Table(title, COLUMNS)
    results = [result for case in passes.values() for result in case.results]
    # A reason that both passes have is one reason.
    untimed = {(result.provider, str(result.why)): result for result in results if not result.ok}
    news = {provider for provider, why in untimed if (provider, why) not in told}
    table.notes += reasons(untimed.values(), told)
    if not any(result.ok or result.status in WRONG for result in results):
        return Table(title, (), notes=table.notes)
    for name in dict.fromkeys(result.provider for result in results):
        by_pass = {pass_: result for pass_, case in passes.items() if (result := case.result(name)) is not None}
        first = next(iter(by_pass.values()))
        if any(result.ok for result in by_pass.values()):
            table.add(_figures(run, passes, by_pass))
        elif name in news:
            errors = error_cell(first.output_error), error_cell(first.gradient_error)
            table.add([name, status_label(first), *[""] * 5, *errors], BAD if first.status in WRONG else FAINT)
    return table.without_empty_columns()


def _figures(run: Run, passes: Passes, by_pass: Mapping[str, Result]) -> list[str]:
    timed = [by_pass[pass_] if pass_ in by_pass and by_pass[pass_].ok else None for pass_ in PASSES]
    cells = [next(iter(by_pass.values())).provider]
    for pass_, result in zip(PASSES, timed, strict=True):
        cells += ["", ""] if result is None else [_time(result), over_floor_cell(run, passes[pass_], result)]
    cells += ["" if result is None else memory_cell(result.peak_bytes) for result in timed]
    checked = next(result for result in timed if result is not None)
    return [*cells, error_cell(checked.output_error), error_cell(checked.gradient_error)]


def _time(result: Result) -> str:
    spread = Timing(result.samples).spread
    return milliseconds(result.median / 1e3) + ("" if spread is None else f" ±{spread:.0%}")


def summary_tables(run: Run) -> list[Table]:
    """For each network and each path of sdn_triton that ran: where it wins and where it loses."""
    networks = dict.fromkeys(case.network for case in run.cases)
    tables = (_summary(run, network, ours.name) for network in networks for ours in run.of_role("ours"))
    return [table for table in tables if table.rows]


def _summary(run: Run, network: str, name: str) -> Table:
    """One row a workload: the time over the convolution's, and over that of the fastest other way."""
    table = Table(f"Summary, {network}: {name} against conv2d and the fastest other way to the same result", SUMMARY)
    for passes in by_workload(case for case in run.cases if case.network == network):
        case = next(iter(passes.values()))
        cells = [case.workload if len(case.stages) > 1 else f"{case.workload} {case.shape}"]
        verdicts = []
        for pass_ in PASSES:
            result = passes[pass_].result(name) if pass_ in passes else None
            if result is None or not result.ok:
                cells += ["", "", ""]
                continue
            speedup = speedup_of(run, passes[pass_], name)
            cells.append(over_floor_cell(run, passes[pass_], result))
            cells += ["", ""] if speedup is None else [speedup.baseline.provider, times_faster(speedup)]
            verdicts.append(speedup.verdict if speedup else "undecided")
        if verdicts:
            table.add(cells, BAD if "slower" in verdicts else GOOD if "faster" in verdicts else FAINT)
    return table.without_empty_columns()


def restlessness(run: Run) -> str | None:
    """A warning if the times of the run scatter so much that something else must have run."""
    timings = [Timing(result.samples) for case in run.cases for result in case.timed()]
    spreads = [timing.spread for timing in timings if timing.spread is not None]
    scatter = statistics.median(spreads) if spreads else 0.0
    if scatter <= RESTLESS:
        return None
    advice = "Try again when the machine is quiet, or with --threads 1."
    return f"The times scatter by ±{scatter:.0%}: other work was running. {advice}"
