"""What a map says, as Markdown tables: SDN against each other arm, cell by cell, over all cells and along factors."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .. import RESULTS, ROOT
from .map_plan import ARMS, CONTROLLED, FULL_MAP, PLANE, Cell, Map
from .summary import Difference, by_seed, markdown_table, origin, paired_difference, percent
from .training import Setting

PAGE, FIGURES = ROOT / "docs" / "quality-map.md", RESULTS / "quality" / "map-cpu.json"
"""The page, and the committed results whose tables it shows."""

PRIMARY = "boundary_iou_2"
"""The metric that was chosen before the runs."""

METRICS = {PRIMARY: "boundary IoU at 2 pixels", "miou": "mIoU"}


@dataclass(frozen=True)
class Comparison:
    """Two arms, the first less the second."""

    one: str
    other: str
    title: str


COMPARISONS = [Comparison("sdn", arm.name, f"SDN - {arm.title}") for arm in ARMS if arm.name != "sdn"]
CONTROLS = [
    Comparison("sdn", "wide", "SDN - nothing, wider encoder"),
    Comparison("contrast_suggested", "sdn", "suggest_contrast - contrast 1"),
]

FACTORS = {
    "inside": "edges inside classes",
    "between": "edges between classes",
    "blur": "blur",
    "noise": "noise",
    "stride": "stride of the encoder",
    "training_scenes": "training scenes",
    "steps": "steps",
}


class MapResults:
    """The runs of a map, by cell."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.content = results
        seeds = max((run["seed"] for run in results["runs"]), default=0)
        self.plan = Map(Setting(**results["setting"]), seeds)
        self.cells: dict[str, dict[str, Any]] = {cell.name: {"runs": []} for cell in self.plan.cells()}
        for run in results["runs"]:
            self.cells[run["cell"]]["runs"].append(run)

    def by_seed(self, cell: Cell, comparison: Comparison, metric: str = PRIMARY) -> dict[int, float]:
        """The differences of two arms in a cell by the seeds that both have."""
        runs = self.cells[cell.name]
        one, other = (by_seed(runs, arm, metric) for arm in (comparison.one, comparison.other))
        return {seed: one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())}

    def difference(
        self,
        cells: Sequence[Cell],
        comparison: Comparison,
        metric: str = PRIMARY,
        less: Sequence[Cell] = (),
    ) -> Difference | None:
        """The mean difference over ``cells`` minus that over ``less``, by the seeds that all have; None without any."""
        by_cell = {cell: self.by_seed(cell, comparison, metric) for cell in (*cells, *less)}
        means = {}
        for seed in set.intersection(*map(set, by_cell.values())):
            minuends, subtrahends = ([by_cell[cell][seed] for cell in group] for group in (cells, less))
            means[seed] = statistics.fmean(minuends) - (statistics.fmean(subtrahends) if subtrahends else 0.0)
        return paired_difference(means, dict.fromkeys(means, 0.0)) if means else None

    def ends(self, factor: str) -> tuple[list[Cell], list[Cell]]:
        """The cells with a factor's highest and with its lowest value, which are alike in everything else.

        For a strength those of the plane with a texture.
        """
        if factor in PLANE:
            axis = list(PLANE).index(factor)
            places = [(place[axis], cell) for place, cell in self.plan.plane().items() if place[0] > 0]
        else:
            places = list(self.plan.lines()[factor].items())
        values = [value for value, _ in places]
        highest, lowest = ([cell for value, cell in places if value == end] for end in (max(values), min(values)))
        return highest, lowest


def marked(difference: Difference | None) -> str:
    """A difference, bold where its interval excludes 0; empty where there is none."""
    if difference is None:
        return ""
    return str(difference) if difference.verdict == "undecided" else f"**{difference}**"


def overall_table(results: MapResults) -> str:
    """By metric and comparison: in how many cells SDN is better and worse, and the mean over all cells."""
    rows = []
    for metric, title in METRICS.items():
        for comparison in COMPARISONS:
            cells = results.plan.cells()
            differences = [results.difference([cell], comparison, metric) for cell in cells]
            verdicts = Counter(difference.verdict for difference in differences if difference)
            counts = [str(verdicts[verdict]) for verdict in ("better", "worse", "undecided")]
            rows.append(
                [f"{comparison.title}, {title}", *counts, marked(results.difference(cells, comparison, metric))]
            )
    return markdown_table(["difference", "better", "worse", "undecided", "mean over all cells"], rows)


def cell_table(results: MapResults, metric: str) -> str:
    """Every cell: how strong its edges are, the level, and SDN less each arm."""
    rows = []
    for cell in results.plan.cells():
        own = results.cells[cell.name]
        levels = [list(by_seed(own, arm.name, metric).values()) for arm in ARMS]
        rows.append(
            [
                cell.name,
                f"{results.content['cells'][cell.name]['neighbour_ratio']:.2f}",
                str(min(map(len, levels))),
                percent(levels[0]) if levels[0] else "",
                *(marked(results.difference([cell], comparison, metric)) for comparison in COMPARISONS),
            ]
        )
    titles = [comparison.title for comparison in COMPARISONS]
    return markdown_table(["cell", "edges between / inside", "seeds", "nothing", *titles], rows)


def factor_table(results: MapResults) -> str:
    """How much the differences change from a factor's lowest value to its highest."""
    rows = []
    for factor, title in FACTORS.items():
        highest, lowest = results.ends(factor)
        changes = [marked(results.difference(highest, comparison, less=lowest)) for comparison in COMPARISONS]
        rows.append([f"{title}, {_ends(results, factor)}", *changes])
    return markdown_table(["factor", *(comparison.title for comparison in COMPARISONS)], rows)


def _ends(results: MapResults, factor: str) -> str:
    base = asdict(results.plan.base)
    high, low = (dict(cells[0].changes).get(factor, base[factor]) for cells in results.ends(factor))
    return f"{low:g} to {high:g}"


def control_table(results: MapResults) -> str:
    """The cells with controls."""
    rows = [
        [cell.name, *(marked(results.difference([cell], comparison)) for comparison in CONTROLS)] for cell in CONTROLLED
    ]
    return markdown_table(["cell", *(comparison.title for comparison in CONTROLS)], rows)


def progress(results: MapResults) -> str:
    """Whether every cell has all of its runs."""
    missing = [
        (cell, variant, seed)
        for cell, variant, seed in FULL_MAP.jobs()
        if not any((run["variant"], run["seed"]) == (variant.name, seed) for run in results.cells[cell.name]["runs"])
    ]
    return f"{len(missing)} of {len(list(FULL_MAP.jobs()))} runs of the plan are missing." if missing else ""


def markdown(content: dict[str, Any]) -> str:
    """All tables of a map."""
    results = MapResults(content)
    primary = METRICS[PRIMARY]
    parts = [
        " ".join(filter(None, (origin(content), progress(results)))),
        "Differences are in percentage points with 95 % intervals, paired by seed; bold where the interval excludes 0.",
        f"**In how many cells, and over all**\n\n{overall_table(results)}",
        f"**{primary}, from a factor's lowest value to its highest: the change of the difference**\n\n"
        f"{factor_table(results)}",
        *(f"**{title}, by cell**\n\n{cell_table(results, metric)}" for metric, title in METRICS.items()),
        f"**{primary}: controls**\n\n{control_table(results)}",
    ]
    return "\n\n".join(parts)
