"""The tables of a comparison."""

from __future__ import annotations

import statistics

from ..measuring.rounds import Timing
from ..problems.providers import FLOOR
from ..problems.workloads import Workload
from ..runs.session import Result, Session
from ..terminal import BAD, FAINT, GOOD, Table, error_size, mebibytes, milliseconds, ratio

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
)


def introduction(session: Session) -> list[str]:
    """What runs where, what does not, and how to read the tables."""
    environment, setting = session.environment, session.setting
    device = environment["device"]
    threads = f", {device['threads']} thread(s)" if "threads" in device else f", driver {device['driver']}"
    versions = ", ".join(f"{name} {environment[name]}" for name in ("torch", "triton", "python") if environment[name])
    git = environment["git"]
    revision = f", revision {git['revision'][:10]}{' (changed)' if git['dirty'] else ''}" if git["revision"] else ""
    layout = str(setting.memory_format).removeprefix("torch.").removesuffix("_format")
    lines = [
        f"{device['name']}{threads}; {versions}{revision}",
        f"{str(setting.dtype).removeprefix('torch.')}, {layout}; budget {session.budget.seconds:.0f} s",
    ]
    load, cores = (environment["load"] or [0.0])[0], device.get("cores")
    if cores and load > 0.5 * cores:
        lines.append(f"This machine is busy with other work (load {load:.1f} on {cores} cores): times will vary.")
    lines += ["", *(f"{p.name}: {p.title}" for p in session.providers)]
    lines += [f"{name}: not run: {reason}" for name, reason in session.absent.items()]
    if session.uncompiled and (compiled := [p.name for p in session.providers if p.compiled]):
        names = ", ".join(workload.name for workload in session.uncompiled)
        lines.append(f"{', '.join(compiled)}: left out of {names}: the budget is too short (see --budget)")
    return [*lines, "", *LEGEND, ""]


def workload_table(workload: Workload, results: list[Result]) -> Table:
    """One row a provider; what has no time has a note that says why."""
    floor = next((result for result in results if result.provider == FLOOR), None)
    table = Table(workload.title, COLUMNS)
    reasons: dict[str, list[str]] = {}
    for result in results:
        if result.status == "ok":
            table.add(_figures(result, floor))
            continue
        label = result.status.upper() if result.status in ("wrong", "failed") else result.status
        table.add([result.provider, label, *[""] * 5, *_worst_errors(result)], BAD if label.isupper() else FAINT)
        reasons.setdefault(f"{label}, not timed: {result.reason}", []).append(result.provider)
    if len(reasons) == 1 and all(result.status == "skipped" for result in results):
        return Table(workload.title, COLUMNS[:1], notes=list(reasons))
    table.notes += [f"{', '.join(names)} {reason}" for reason, names in reasons.items()]
    return table.without_empty_columns()


def _figures(result: Result, floor: Result | None) -> list[str]:
    return [
        result.provider,
        _time(result.forward),
        _over(result.forward, floor.forward if floor else None),
        _time(result.forward_backward),
        _over(result.forward_backward, floor.forward_backward if floor else None),
        _memory(result.forward_bytes),
        _memory(result.forward_backward_bytes),
        *_worst_errors(result),
    ]


def _time(timing: Timing | None) -> str:
    if timing is None:
        return ""
    return milliseconds(timing.median) + ("" if timing.spread is None else f" ±{timing.spread:.0%}")


def _over(timing: Timing | None, floor: Timing | None) -> str:
    return "" if timing is None or floor is None else ratio(timing.median / floor.median)


def _memory(size: int | None) -> str:
    return "" if size is None else mebibytes(size)


def _worst_errors(result: Result) -> tuple[str, str]:
    outputs, gradients = (
        [error for name, error in result.errors.items() if name.startswith(start)] for start in ("output", "gradient")
    )
    return error_size(max(outputs)) if outputs else "", error_size(max(gradients)) if gradients else ""


def conclusion(session: Session) -> list[Table]:
    """For each network and each path of sdn_triton that ran: where it wins and where it loses."""
    ours = [provider.name for provider in session.providers if provider.ours]
    networks = dict.fromkeys(workload.network for workload, _ in session.results)
    tables = (_conclusion_of(session, network, name) for network in networks for name in ours)
    return [table for table in tables if table.rows]


def _conclusion_of(session: Session, network: str, name: str) -> Table:
    """One row a workload: the time over the convolution's, and over that of the fastest other way."""
    table = Table(f"Summary, {network}: {name} against conv2d and the fastest other way to the same result", SUMMARY)
    for workload, results in session.results:
        timed = {result.provider: result for result in results}
        if workload.network != network or name not in timed or timed[name].forward is None:
            continue
        forward = _against(name, {p: r.forward for p, r in timed.items()})
        both = _against(name, {p: r.forward_backward for p, r in timed.items()})
        loses = any(cell.endswith("slower") for cell in (*forward, *both))
        table.add([workload.label, *forward, *both], BAD if loses else GOOD)
    return table.without_empty_columns()


def _against(name: str, timings: dict[str, Timing | None]) -> tuple[str, str, str]:
    own = timings[name]
    rivals = {p: t.median for p, t in timings.items() if t is not None and p not in (name, FLOOR)}
    if own is None or not rivals:
        return _over(own, timings.get(FLOOR)), "", ""
    fastest = min(rivals, key=lambda rival: rivals[rival])
    factor = rivals[fastest] / own.median
    verdict = f"{ratio(factor)} faster" if factor >= 1 else f"{ratio(1 / factor)} slower"
    return _over(own, timings.get(FLOOR)), fastest, verdict


def restlessness(session: Session) -> str | None:
    """A warning if the times of the run scatter so much that something else must have run."""
    timings = [t for _, results in session.results for r in results for t in (r.forward, r.forward_backward)]
    spreads = [timing.spread for timing in timings if timing is not None and timing.spread is not None]
    scatter = statistics.median(spreads) if spreads else 0.0
    if scatter <= RESTLESS:
        return None
    advice = "Try again when the machine is quiet, or with --threads 1."
    return f"The times scatter by ±{scatter:.0%}: other work was running. {advice}"
