"""The pictures of a run: time, roofline and memory here, those of who is faster in ``standing_charts.py``.

Each function draws a figure, or returns None where the run has nothing for it. Themes: ``theme.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .runs import KINDS, PASSES, Case, Condition, Result, Run
from .standing_charts import overview_chart, speedup_chart
from .theme import Theme, styles
from .ticks import rate, round_ticks

PANEL = (4.4, 3.1)
"""Inches of one panel."""


class Chart(NamedTuple):
    """A picture: its name in file names, its title, how it is drawn, what it shows in a sentence."""

    name: str
    title: str
    draw: Callable[[Run, Condition, Theme], Figure | None]
    caption: str
    whole: bool = False
    """Whether it shows all conditions of a run at once."""


def time_chart(run: Run, condition: Condition, theme: Theme) -> Figure | None:
    """Medians with their confidence intervals against the size of the input."""

    def bar(result: Result) -> tuple[float, float, float]:
        low, high = result.interval or (result.median, result.median)
        return result.median, low, high

    return _against_size(run, condition, theme, "time a call [ms]", bar)


def memory_chart(run: Run, condition: Condition, theme: Theme) -> Figure | None:
    """Peak memory against the size of the input."""

    def peak(result: Result) -> tuple[float, float, float] | None:
        return None if result.peak_bytes is None else (result.peak_bytes / 2**20,) * 3

    return _against_size(run, condition, theme, "peak memory [MiB]", peak)


def _against_size(
    run: Run,
    condition: Condition,
    theme: Theme,
    label: str,
    value: Callable[[Result], tuple[float, float, float] | None],
) -> Figure | None:
    """A panel for each kind and pass; a line joins the cases of one network, kind and batch."""
    cases = run.under(condition)
    if not any(value(result) for case in cases for result in case.timed()):
        return None
    figure, panels = _panels(cases)
    for (kind, what), axes in panels.items():
        chosen = sorted((c for c in cases if (c.kind, c.what) == (kind, what)), key=lambda case: case.elements)
        for name in run.providers:
            style = styles(run.providers)[name]
            for series in dict.fromkeys((case.network, case.batch) for case in chosen):
                points = [
                    (case.elements, *found)
                    for case in chosen
                    if (case.network, case.batch) == series
                    and (result := case.result(name)) is not None
                    and result.ok
                    and (found := value(result)) is not None
                ]
                if points:
                    x, y, low, high = np.array(points).T
                    axes.plot(x, y, style.line, color=style.colour, linewidth=0.9, alpha=0.55)
                    axes.plot(x, y, linestyle="none", **style.options)
                    if (high > low).any():
                        axes.errorbar(x, y, (y - low, high - y), fmt="none", ecolor=style.colour, capsize=3)
        axes.set_xscale("log")
        _log_or_zero(axes)
        round_ticks(axes.xaxis)
        round_ticks(axes.yaxis)
    _name_axes(panels, "input elements", label)
    _finish(figure, run, cases)
    return figure


def _log_or_zero(axes: Axes) -> None:
    """A logarithmic axis of values; one that goes on to zero if a value is zero."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines] or [np.ones(1)])
    if (drawn > 0).all():
        axes.set_yscale("log")
    else:
        smallest = drawn[drawn > 0].min() if (drawn > 0).any() else 1.0
        axes.set_yscale("symlog", linthresh=float(smallest))


def roofline_chart(run: Run, condition: Condition, theme: Theme) -> Figure | None:
    """Operations a second against operations a byte, below the two roofs that were measured."""
    roofs, cases = run.roofs, [case for case in run.under(condition) if case.timed()]
    if roofs is None or roofs.dtype != condition.dtype or condition.mode == "host" or not cases:
        return None
    figure, panels = _panels(cases)
    intensities = [case.flop / case.bytes for case in cases]
    ridge = roofs.matmul / roofs.copy
    x = np.geomspace(min(*intensities, ridge) / 3, max(*intensities, ridge) * 3, 200)
    for (kind, what), axes in panels.items():
        axes.loglog(x, np.minimum(x * roofs.copy, roofs.matmul) / 1e9, color=theme.ink, linewidth=1.6)
        for case in cases:
            if (case.kind, case.what) != (kind, what):
                continue
            for result in case.timed():
                style = styles(run.providers)[result.provider]
                speed = case.flop / result.median * 1e3 / 1e9
                axes.plot(case.flop / case.bytes, speed, linestyle="none", **style.options)
        axes.annotate(
            f"matrix product {rate(roofs.matmul, 'flop/s')}",
            (x[-1], roofs.matmul / 1e9),
            xytext=(0, 4),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )
        axes.annotate(
            f"copy {rate(roofs.copy, 'B/s')}",
            (x[0], x[0] * roofs.copy / 1e9),
            xytext=(10, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
        round_ticks(axes.xaxis)
        round_ticks(axes.yaxis)
    _name_axes(panels, "operations a byte of least traffic", "Gflop/s")
    _finish(figure, run, cases)
    return figure


def _panels(cases: Sequence[Case]) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """A figure with a row of panels for each kind of workload and a column for each pass."""
    kinds = [kind for kind in KINDS if any(case.kind == kind for case in cases)]
    passes = [what for what in PASSES if any(case.what == what for case in cases)]
    size = (PANEL[0] * max(len(passes), 1.4) + 0.4, PANEL[1] * len(kinds) + 0.7)
    figure = Figure(size, layout="constrained")
    grid = figure.subplots(len(kinds), len(passes), squeeze=False, sharex="row", sharey="row")
    panels = {}
    for i, kind in enumerate(kinds):
        for j, what in enumerate(passes):
            grid[i, j].set_title(f"{kind}, {what}")
            panels[kind, what] = grid[i, j]
    return figure, panels


def _name_axes(panels: dict[tuple[str, str], Axes], x: str, y: str) -> None:
    """Name the axes at the left and at the bottom only."""
    last, first = list(panels)[-1][0], next(iter(panels))[1]
    for (kind, what), axes in panels.items():
        if kind == last:
            axes.set_xlabel(x)
        if what == first:
            axes.set_ylabel(y)


def _finish(figure: Figure, run: Run, cases: Sequence[Case]) -> None:
    """One legend for all panels, below them, with what was drawn only."""
    drawn = [name for name in run.providers if any((r := case.result(name)) is not None and r.ok for case in cases)]
    handles = []
    for name in drawn:
        style = styles(run.providers)[name]
        handles.append(Line2D([], [], linestyle=style.line, label=name, **style.options))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))


CHARTS = (
    Chart(
        "overview",
        "All cases against the fastest baseline",
        overview_chart,
        "A mark for each case: how many times as fast as the fastest baseline. Right of 1 it is faster, left of 1 "
        "slower. Cases whose confidence intervals overlap count as undecided.",
        whole=True,
    ),
    Chart(
        "speedup",
        "Speed-up against the fastest baseline",
        speedup_chart,
        "Each number is the time of the fastest baseline of that shape over the time of this library's path: above 1 "
        "(blue) it is faster, below 1 (red) slower. A question mark says that the two confidence intervals overlap.",
    ),
    Chart(
        "time",
        "Time against size",
        time_chart,
        "Median time of a call against the number of elements of the input, both logarithmic. Bars are 95% confidence "
        "intervals of the median; lines join the stages of one network.",
    ),
    Chart(
        "roofline",
        "Roofline",
        roofline_chart,
        "Operations a second against operations a byte of the least traffic. The roofs are a copy and a matrix "
        "product measured on this device in the same run. Operations and bytes are those that the layer needs, not "
        "those that a provider spends, so a point shows how much of the device reaches the result. What fits in a "
        "cache may lie above the slope.",
    ),
    Chart(
        "memory",
        "Peak memory",
        memory_chart,
        "Memory allocated at the worst moment of a call, beyond what was there before it, against the number of "
        "elements of the input.",
    ),
)
