"""Two pictures of who is faster: a mark for each case, and a cell with a number for each shape."""

from __future__ import annotations

import math
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ..runs.saved_runs import PASSES, Case, Condition, Run
from ..runs.verdicts import VERDICTS, Speedup, fastest_baseline, speedup_of, summaries
from ..terminal import ratio
from .theme import Theme
from .ticks import round_ticks

STRONGEST = 8.0
"""The factor at which the colours of the heat map end."""
LEVELS = 47
"""Shades of the heat map: odd, for white in the middle; with more than 50 its scale would be a bitmap."""
VERDICT_MARKS = {"slower": ("#c4302b", "v"), "undecided": ("#7f7f7f", "d"), "faster": ("#2c73b4", "^")}


def overview_chart(run: Run, condition: Condition, theme: Theme) -> Figure | None:
    """A row for each path of ours, kind and pass; a mark for each case, of whatever condition, at its speed-up."""
    overview = sorted(summaries(run, by_condition=False), key=lambda summary: summary.provider)
    if not any(summary.speedups for summary in overview):
        return None
    rows = [f"{summary.provider}, {summary.kind}, {summary.pass_}" for summary in overview]
    figure = Figure((9.0, 0.36 * len(rows) + 1.7), layout="constrained")
    axes = figure.add_subplot()
    for row, summary in enumerate(overview):
        for verdict in VERDICTS:
            x = [s.factor for s in summary.speedups if s.verdict == verdict]
            colour, marker = VERDICT_MARKS[verdict]
            axes.plot(x, [row] * len(x), marker, color=colour, markersize=7, alpha=0.85, markeredgecolor="none")
        if summary.speedup_range is not None:
            axes.plot(summary.speedup_range[1], row, "|", color=theme.ink, markersize=16, markeredgewidth=1.8)
    axes.axvline(1, color=theme.ink, linewidth=1.2)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set(xlim=(min(low, 1 / 1.5), max(high, 1.5)), ylim=(len(rows) - 0.5, -0.5))
    axes.set_yticks(range(len(rows)), rows)
    for row in (i for i in range(1, len(overview)) if overview[i].provider != overview[i - 1].provider):
        axes.axhline(row - 0.5, color=theme.faint, linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    round_ticks(axes.xaxis)
    axes.set_xlabel("slower  \N{LEFTWARDS ARROW}  times as fast as the fastest baseline  \N{RIGHTWARDS ARROW}  faster")
    handles: list[Line2D] = []
    for verdict, (colour, marker) in VERDICT_MARKS.items():
        count = sum(summary.count(verdict) for summary in overview)
        label = f"{verdict}: {count}"
        handles.append(Line2D([], [], marker=marker, color=colour, linestyle="none", markersize=7, label=label))
    handles.append(Line2D([], [], marker="|", color=theme.ink, linestyle="none", markersize=12, label="median"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def speedup_chart(run: Run, condition: Condition, theme: Theme) -> Figure | None:
    """A cell for each shape, path of ours and pass: how many times as fast as the fastest baseline."""
    cases = run.under(condition)
    ours = [p.name for p in run.of_role("ours") if any((r := c.result(p.name)) is not None and r.ok for c in cases)]
    rows = list(dict.fromkeys(case.label for case in cases))
    columns = [(pass_, name) for pass_ in PASSES if any(case.pass_ == pass_ for case in cases) for name in ours]
    if not columns or not any(fastest_baseline(run, case) for case in cases):
        return None
    by_place = {(case.label, case.pass_): case for case in cases}
    names = max(map(len, rows)) * 0.085
    heights = (0.34 * len(rows), 0.14)
    figure = Figure((names + 1.15 * len(columns) + 1.4, sum(heights) + 2.0), layout="constrained")
    axes, bar = figure.subplots(2, 1, height_ratios=heights)
    colours, scale = _diverging()
    for row, label in enumerate(rows):
        for column, (pass_, name) in enumerate(columns):
            case = by_place.get((label, pass_))
            speedup = None if case is None else speedup_of(run, case, name)
            reason = "" if case is None else _why_no_number(run, case, name)
            _cell(axes, row, column, speedup, reason, colours, scale, theme)
    networks = [label.partition(",")[0] for label in rows]
    for row in (i for i in range(1, len(rows)) if networks[i] != networks[i - 1]):
        axes.axhline(row, color=theme.ink, linewidth=1.6, clip_on=False)
    axes.set(xlim=(-0.01, len(columns) + 0.01), ylim=(len(rows) + 0.01, -0.01))
    axes.set_xticks([i + 0.5 for i in range(len(columns))], [f"{name}\n{pass_}" for pass_, name in columns])
    axes.set_yticks([i + 0.5 for i in range(len(rows))], rows)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    _colour_bar(figure, bar, colours, scale)
    return figure


def _diverging() -> tuple[Any, Any]:
    """Red where ours loses, blue where it wins, white where they are equal; the logarithm decides."""
    limit = math.log2(STRONGEST)
    return colormaps["RdBu"].resampled(LEVELS), Normalize(-limit, limit, clip=True)


def _cell(
    axes: Axes,
    row: int,
    column: int,
    speedup: Speedup | None,
    reason: str,
    colours: Any,
    scale: Any,
    theme: Theme,
) -> None:
    place, middle = (column, row), (column + 0.5, row + 0.5)
    if speedup is None:
        axes.add_patch(Rectangle(place, 1, 1, facecolor="none", edgecolor=theme.grid, linewidth=1))
        axes.text(*middle, reason, ha="center", va="center", fontsize=8, color=theme.faint)
        return
    colour = colours(scale(math.log2(speedup.factor)))
    axes.add_patch(Rectangle(place, 1, 1, facecolor=colour, edgecolor=theme.faint, linewidth=0.5))
    red, green, blue = colour[:3]
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.55
    number = ratio(speedup.factor) + (" ?" if speedup.verdict == "undecided" else "")
    axes.text(*middle, number, ha="center", va="center", fontsize=9.5, color="#111111" if bright else "#ffffff")


def _why_no_number(run: Run, case: Case, name: str) -> str:
    own = case.result(name)
    if own is None:
        return "not run"
    return own.status if not own.ok else "no baseline"


def _colour_bar(figure: Figure, axes: Axes, colours: Any, scale: Any) -> None:
    ticks = [-3, -2, -1, 0, 1, 2, 3]
    bar = figure.colorbar(ScalarMappable(scale, colours), cax=axes, orientation="horizontal")
    bar.set_ticks(ticks, labels=[f"{2**t}x" if t >= 0 else f"1/{2**-t}x" for t in ticks])
    bar.set_label("slower  \N{LEFTWARDS ARROW}  times as fast as the fastest baseline  \N{RIGHTWARDS ARROW}  faster")
    bar.ax.grid(False)
