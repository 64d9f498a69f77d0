"""The pictures of a run: time, roofline and memory here, those of who is faster in ``verdict_charts.py``.

Each function draws a figure, or returns None where the run has nothing for it. Themes: ``theme.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..runs.saved_runs import KINDS, PASSES, Case, Condition, Result, Run
from .theme import Style, Theme, styles
from .ticks import rate, round_ticks
from .verdict_charts import overview_chart, speedup_chart

PANEL = (4.4, 3.1)
"""Inches of one panel."""
ACROSS = 2
"""Panels side by side: with more, words are too small to be read where a page is as wide as a README's."""
FEW = 3
"""Up to so many networks and batches in a panel each gets a line; more are shown by their medians."""


class Chart(NamedTuple):
    """A picture: its name in file names, its title, how it is drawn, what it shows in a sentence."""

    name: str
    title: str
    draw: Callable[[Run, Condition, Theme], Figure | None]
    caption: str
    whole: bool = False
    """Whether it shows all conditions of a run at once."""


class Point(NamedTuple):
    """A result to be drawn: its case and provider, the value and its interval."""

    case: Case
    provider: str
    value: float
    low: float
    high: float

    @property
    def panel(self) -> tuple[str, str]:
        """Where it is drawn."""
        return self.case.kind, self.case.pass_

    @property
    def series(self) -> tuple[str, int]:
        """What it is joined with."""
        return self.case.network, self.case.batch

    @property
    def figures(self) -> tuple[float, float, float, float]:
        """Size of the input, value, interval."""
        return self.case.elements, self.value, self.low, self.high


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
    """A panel for each kind and pass."""
    cases = sorted(run.under(condition), key=lambda case: case.elements)
    points = [
        Point(case, name, *figures)
        for name in run.providers
        for case in cases
        if (result := case.result(name)) is not None and result.ok and (figures := value(result)) is not None
    ]
    if not points:
        return None
    figure, panels = _panels(cases)
    for panel, axes in panels.items():
        inside = [point for point in points if point.panel == panel]
        draw = _draw_series if len({point.series for point in inside}) <= FEW else _draw_crowd
        for name in run.providers:
            if mine := [point for point in inside if point.provider == name]:
                draw(axes, mine, styles(run.providers)[name])
        axes.set_xscale("log")
        _at_least_a_factor(axes, [point.case.elements for point in points if point.case.kind == panel[0]])
        _log_or_zero(axes, [point.value for point in points])
        round_ticks(axes.xaxis)
        round_ticks(axes.yaxis)
    _name_axes(panels, "input elements", label)
    _finish(figure, run, cases)
    return figure


def _draw_series(axes: Axes, points: Sequence[Point], style: Style) -> None:
    """Every point with its interval, joined within a network and batch."""
    for series in dict.fromkeys(point.series for point in points):
        x, y, low, high = np.array([point.figures for point in points if point.series == series]).T
        axes.plot(x, y, style.line, color=style.colour, linewidth=0.9, alpha=0.55)
        axes.plot(x, y, linestyle="none", **style.options)
        if (high > low).any():
            axes.errorbar(x, y, (y - low, high - y), fmt="none", ecolor=style.colour, capsize=3)


def _draw_crowd(axes: Axes, points: Sequence[Point], style: Style) -> None:
    """Faint points, a line through the medians of sizes within a factor of two, and a band between their quartiles."""
    x, y = np.array([point.figures[:2] for point in points]).T
    axes.scatter(x, y, s=5, color=style.colour, alpha=0.35, linewidth=0)
    sizes = np.round(np.log2(x))
    quartiles = np.array([np.quantile(y[sizes == size], (0.25, 0.5, 0.75)) for size in np.unique(sizes)])
    centres = [np.median(x[sizes == size]) for size in np.unique(sizes)]
    axes.fill_between(centres, quartiles[:, 0], quartiles[:, 2], color=style.colour, alpha=0.12, linewidth=0)
    axes.plot(centres, quartiles[:, 1], linestyle=style.line, linewidth=1.4, **style.options)


def _at_least_a_factor(axes: Axes, sizes: Sequence[int], factor: float = 4.0) -> None:
    """In sight, around the sizes of a row of panels: by itself an axis of one size may get no width at all."""
    low, high = min(sizes, default=1), max(sizes, default=1)
    if high < factor * low:
        middle, side = math.sqrt(low * high), math.sqrt(factor)
        axes.set_xlim(middle / side, middle * side)


def _log_or_zero(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis of values; one that goes on to zero if a value is zero."""
    positive = [value for value in values if value > 0]
    if len(positive) == len(values):
        axes.set_yscale("log")
    else:
        axes.set_yscale("symlog", linthresh=min(positive, default=1.0))


def roofline_chart(run: Run, condition: Condition, theme: Theme) -> Figure | None:
    """Operations a second against operations a byte, below the two roofs that were measured."""
    roofs, cases = run.roofs, [case for case in run.under(condition) if case.timed()]
    if roofs is None or roofs.dtype != condition.dtype or condition.mode == "host" or not cases:
        return None
    figure, panels = _panels(cases)
    intensities = [case.flop / case.bytes for case in cases]
    ridge = roofs.matmul / roofs.copy
    x = np.geomspace(min(*intensities, ridge) / 3, max(*intensities, ridge) * 3, 200)
    for (kind, pass_), axes in panels.items():
        axes.loglog(x, np.minimum(x * roofs.copy, roofs.matmul), color=theme.ink, linewidth=1.6)
        chosen = [case for case in cases if (case.kind, case.pass_) == (kind, pass_)]
        size = 6 if len(chosen) <= 20 else 3.5
        for case in chosen:
            for result in case.timed():
                style = styles(run.providers)[result.provider]
                speed = case.flop / result.median * 1e3
                axes.plot(case.flop / case.bytes, speed, linestyle="none", **(style.options | {"markersize": size}))
        round_ticks(axes.xaxis)
        round_ticks(axes.yaxis)
    _name_axes(panels, "operations a byte of least traffic", "operations a second")
    label = f"roofs: copy {rate(roofs.copy, 'B/s')}, matrix product {rate(roofs.matmul, 'flop/s')}"
    _finish(figure, run, cases, Line2D([], [], color=theme.ink, linewidth=1.6, label=label))
    return figure


def _panels(cases: Sequence[Case]) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """A figure with a panel for each kind of workload and pass that there is; those of a kind have the same axes."""
    present = {(case.kind, case.pass_) for case in cases}
    places = [(kind, pass_) for kind in KINDS for pass_ in PASSES if (kind, pass_) in present]
    columns = min(ACROSS, len(places))
    rows = -(-len(places) // columns)
    figure = Figure((PANEL[0] * max(columns, 1.4) + 0.4, PANEL[1] * rows + 0.7), layout="constrained")
    panels: dict[tuple[str, str], Axes] = {}
    for place, (kind, pass_) in enumerate(places, start=1):
        alike = next((axes for (other, _), axes in panels.items() if other == kind), None)
        axes = panels[kind, pass_] = figure.add_subplot(rows, columns, place, sharex=alike, sharey=alike)
        axes.set_title(f"{kind}, {pass_}")
    return figure, panels


def _name_axes(panels: dict[tuple[str, str], Axes], x: str, y: str) -> None:
    """Name the first axes of each row and the last of each column."""
    for place, axes in enumerate(panels.values()):
        if place + ACROSS >= len(panels):
            axes.set_xlabel(x)
        if place % ACROSS == 0:
            axes.set_ylabel(y)


def _finish(figure: Figure, run: Run, cases: Sequence[Case], *more_handles: Line2D) -> None:
    """One legend for all panels, below them: ``more_handles``, then the providers that were drawn."""
    drawn = [name for name in run.providers if any((r := case.result(name)) is not None and r.ok for case in cases)]
    handles = [*more_handles]
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
        "intervals of the median; lines join the stages of one network. Where there are more than three networks, "
        "small points are cases, and of inputs of about the same size the line goes through the medians and the band "
        "between the quartiles.",
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
