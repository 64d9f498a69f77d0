"""The four pictures of a run under one condition: time, roofline, memory, speed-up.

Each function draws a figure, or returns None where the run has nothing for it. Themes: ``theme.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from .report import ratio
from .runs import KINDS, PASSES, Case, Condition, Result, Run
from .standing import Standing, fastest_baseline, standing
from .theme import Theme, styles

PANEL = (4.4, 3.1)
"""Inches of one panel."""
STRONGEST = 8.0
"""The factor at which the colours of the heat map end."""


class Chart(NamedTuple):
    """A picture: its name in file names, its title, how it is drawn, what it shows in a sentence."""

    name: str
    title: str
    draw: Callable[[Run, Condition, Theme], Figure | None]
    caption: str


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
        _round_ticks(axes.xaxis)
        _round_ticks(axes.yaxis)
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


def _round_ticks(axis: Axis) -> None:
    """Numbers as people write them, at 1, 2 and 5 where few powers of ten are in sight."""
    low, high = sorted(axis.get_view_interval())
    few = low <= 0 or math.log10(high / low) < 2.3
    if axis.get_scale() == "log":
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=12))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def short(value: float) -> str:
    """A round number: 0.05, 200, 50k, 2M."""
    exponent = max(0, min(int(math.log10(value) // 3 + 1e-9), 4)) if value > 0 else 0
    return f"{value / 1000**exponent:g}{['', 'k', 'M', 'G', 'T'][exponent]}"


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
                rate = case.flop / result.median * 1e3 / 1e9
                axes.plot(case.flop / case.bytes, rate, linestyle="none", **style.options)
        axes.annotate(
            f"matrix product {_rate(roofs.matmul, 'flop/s')}",
            (x[-1], roofs.matmul / 1e9),
            xytext=(0, 4),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )
        axes.annotate(
            f"copy {_rate(roofs.copy, 'B/s')}",
            (x[0], x[0] * roofs.copy / 1e9),
            xytext=(10, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
        _round_ticks(axes.xaxis)
        _round_ticks(axes.yaxis)
    _name_axes(panels, "operations a byte of least traffic", "Gflop/s")
    _finish(figure, run, cases)
    return figure


def _rate(value: float, unit: str) -> str:
    exponent = min(int(math.log10(value) // 3), 5)
    return f"{value / 1000**exponent:.3g} {['', 'k', 'M', 'G', 'T', 'P'][exponent]}{unit}"


def speedup_chart(run: Run, condition: Condition, theme: Theme) -> Figure | None:
    """A cell for each shape, path of ours and pass: how many times as fast as the fastest baseline."""
    cases = run.under(condition)
    ours = [p.name for p in run.of_role("ours") if any((r := c.result(p.name)) is not None and r.ok for c in cases)]
    rows = list(dict.fromkeys(case.label for case in cases))
    columns = [(what, name) for what in PASSES if any(case.what == what for case in cases) for name in ours]
    if not columns or not any(fastest_baseline(run, case) for case in cases):
        return None
    by_place = {(case.label, case.what): case for case in cases}
    names = max(map(len, rows)) * 0.085
    figure = Figure((names + 1.15 * len(columns) + 1.4, 0.34 * len(rows) + 1.9), layout="constrained")
    axes = figure.add_subplot()
    colours, scale = _diverging()
    for row, label in enumerate(rows):
        for column, (what, name) in enumerate(columns):
            case = by_place.get((label, what))
            found = None if case is None else standing(run, case, name)
            text = "" if case is None else _why_no_number(run, case, name)
            _cell(axes, row, column, found, text, colours, scale, theme)
    networks = [label.partition(",")[0] for label in rows]
    for row in (i for i in range(1, len(rows)) if networks[i] != networks[i - 1]):
        axes.axhline(row, color=theme.ink, linewidth=1.6, clip_on=False)
    axes.set(xlim=(-0.01, len(columns) + 0.01), ylim=(len(rows) + 0.01, -0.01))
    axes.set_xticks([i + 0.5 for i in range(len(columns))], [f"{name}\n{what}" for what, name in columns])
    axes.set_yticks([i + 0.5 for i in range(len(rows))], rows)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    _colour_bar(figure, axes, colours, scale)
    return figure


def _diverging() -> tuple[Any, Any]:
    """Red where ours loses, blue where it wins, white where they are equal; the logarithm decides."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    limit = math.log2(STRONGEST)
    return colormaps["RdBu"], Normalize(-limit, limit, clip=True)


def _cell(
    axes: Axes,
    row: int,
    column: int,
    found: Standing | None,
    reason: str,
    colours: Any,
    scale: Any,
    theme: Theme,
) -> None:
    from matplotlib.patches import Rectangle

    place, middle = (column, row), (column + 0.5, row + 0.5)
    if found is None:
        axes.add_patch(Rectangle(place, 1, 1, facecolor="none", edgecolor=theme.grid, linewidth=1))
        axes.text(*middle, reason, ha="center", va="center", fontsize=8, color=theme.faint)
        return
    colour = colours(scale(math.log2(found.speedup)))
    axes.add_patch(Rectangle(place, 1, 1, facecolor=colour, edgecolor=theme.faint, linewidth=0.5))
    red, green, blue = colour[:3]
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.55
    number = ratio(found.speedup) + (" ?" if found.verdict == "undecided" else "")
    axes.text(*middle, number, ha="center", va="center", fontsize=9.5, color="#111111" if bright else "#ffffff")


def _why_no_number(run: Run, case: Case, name: str) -> str:
    own = case.result(name)
    if own is None:
        return "not run"
    return own.status if not own.ok else "no baseline"


def _colour_bar(figure: Figure, axes: Axes, colours: Any, scale: Any) -> None:
    from matplotlib.cm import ScalarMappable

    ticks = [-3, -2, -1, 0, 1, 2, 3]
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=axes, location="bottom", aspect=40, shrink=0.9, pad=0.02)
    bar.set_ticks(ticks, labels=[f"{2**t}x" if t >= 0 else f"1/{2**-t}x" for t in ticks])
    bar.set_label("slower  \N{LEFTWARDS ARROW}  times as fast as the fastest baseline  \N{RIGHTWARDS ARROW}  faster")
    bar.ax.grid(False)


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
