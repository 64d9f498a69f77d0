"""The picture of a map: where SDN wins and where another does; needs matplotlib (the extra ``bench``)."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from .figures import COLOURS, INK, pyplot, save
from .map_plan import PLANE
from .map_summary import COMPARISONS, FACTORS, METRICS, PRIMARY, Comparison, MapResults
from .summary import Difference, load

WORSE_TO_BETTER = "PuOr"
"""A scale that readers with any kind of colour vision can tell the ends of."""


def draw(results_path: Path) -> list[Path]:
    """The picture beside the results."""
    return save(picture(MapResults(load(results_path))), results_path.parent / results_path.stem)


def picture(results: MapResults) -> Any:
    """Above the plane of edge strengths, a panel an arm; below a panel for every other factor."""
    figure = pyplot().figure(figsize=(9, 7.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1.15])
    _planes(above, results)
    _lines(below, results)
    return figure


def _planes(figure: Any, results: MapResults) -> None:
    plane = results.plan.plane()
    by_comparison = {
        comparison.title: {place: results.difference([cell], comparison) for place, cell in plane.items()}
        for comparison in COMPARISONS
    }
    means = [abs(d.mean) for differences in by_comparison.values() for d in differences.values() if d]
    limit = 100 * max(means, default=0.01)
    axes = figure.subplots(1, len(by_comparison), sharey=True)
    for place, (title, differences) in zip(axes, by_comparison.items(), strict=True):
        shown = _plane(place, differences, limit)
        place.set_title(title, fontsize=9)
        place.set_xlabel(FACTORS["inside"])
    axes[0].set_ylabel(FACTORS["between"])
    bar = figure.colorbar(shown, ax=axes, shrink=0.8)
    bar.set_label("points, SDN better above 0", fontsize=8)
    figure.suptitle(
        f"{METRICS[PRIMARY]}: SDN less each, percentage points; framed: the 95 % interval excludes 0", fontsize=9
    )


def _plane(axes: Any, differences: dict[tuple[float, float], Difference | None], limit: float) -> Any:
    """A heat map, written in each cell the mean, with a frame where the interval excludes 0."""
    columns, rows = PLANE["inside"], PLANE["between"]
    grid = [[float("nan")] * len(columns) for _ in rows]
    for (inside, between), difference in differences.items():
        if difference is None:
            continue
        x, y = columns.index(inside), rows.index(between)
        grid[y][x] = 100 * difference.mean
        decided = difference.verdict != "undecided"
        dark = abs(grid[y][x]) > 0.6 * limit
        axes.text(
            x,
            y,
            f"{grid[y][x]:+.2f}",
            ha="center",
            va="center",
            color="white" if dark else INK,
            weight="bold" if decided else "normal",
        )
        if decided:
            axes.add_patch(pyplot().Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, ec="black", lw=1.8))
    shown = axes.imshow(grid, cmap=WORSE_TO_BETTER, vmin=-limit, vmax=limit, origin="lower", aspect="auto")
    axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    axes.spines[:].set_visible(False)
    return shown


def _lines(figure: Any, results: MapResults) -> None:
    lines = results.plan.lines()
    axes = figure.subplots(1, len(lines), sharey=True)
    differences: list[Difference | None] = []
    for place, (factor, line) in zip(axes, lines.items(), strict=True):
        for number, comparison in enumerate(COMPARISONS):
            on_line = [results.difference([cell], comparison) for cell in line.values()]
            _line(place, on_line, comparison, number)
            differences += on_line
        place.axhline(0, color=INK, linewidth=0.8)
        place.set_xticks(range(len(line)), [f"{value:g}" for value in line])
        place.set_xlim(-0.5, len(line) - 0.5)
        place.set_title(FACTORS[factor], fontsize=9)
        place.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel("percentage points")
    limit = _limit([difference for difference in differences if difference])
    axes[0].set_ylim(-limit, limit)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(COMPARISONS), frameon=False
    )


def _limit(differences: list[Difference]) -> float:
    """Room for every mean and for an interval of the usual length: longer ones leave the panel."""
    means = [abs(difference.mean) for difference in differences]
    halves = [difference.half_width or 0 for difference in differences]
    return 100 * (max(means, default=0.01) + 1.5 * statistics.median(halves or [0.01]))


def _line(axes: Any, differences: list[Difference | None], comparison: Comparison, number: int) -> None:
    """The differences along a line with their intervals, beside those of other comparisons."""
    points = [
        (place + 0.14 * (number - 1), 100 * difference.mean, 100 * (difference.half_width or 0))
        for place, difference in enumerate(differences)
        if difference is not None
    ]
    if points:
        x, y, half = zip(*points)
        options = {"color": COLOURS[number], "marker": "os^"[number], "label": comparison.title}
        axes.errorbar(x, y, yerr=half, capsize=3, markersize=4, linewidth=1, **options)
