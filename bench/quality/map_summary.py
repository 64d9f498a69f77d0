"""What a map says, as Markdown tables: SDN against each other arm, cell by cell and over all cells."""

from __future__ import annotations

import statistics
from typing import Any

from .. import RESULTS, ROOT
from .map_plan import ARMS, Map
from .summary import Difference, by_seed, paired_difference
from .training import Setting

PAGE, FIGURES = ROOT / "docs" / "quality-map.md", RESULTS / "quality" / "map-cpu.json"
"""The page, and the committed results whose tables it shows."""

SHOWN = {"boundary_iou_2": "boundary IoU at 2 pixels", "miou": "mIoU"}
"""The metrics of the tables: the one that was chosen before the runs, then another."""

PRIMARY = next(iter(SHOWN))

COMPARISONS = {f"SDN - {arm.title}": ("sdn", arm.name) for arm in ARMS if arm.name != "sdn"}
CONTROL_COMPARISONS = {
    "SDN - nothing, wider encoder": ("sdn", "wide"),
    "suggest_contrast - contrast 1": ("contrast_suggested", "sdn"),
}


def plan_of(results: dict[str, Any]) -> Map:
    """The map that a file holds runs of."""
    return Map(Setting(**results["setting"]), seeds=max(run["seed"] for run in results["runs"]))


def runs_by_cell(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The runs of every cell that has some, as results of their own."""
    cells: dict[str, dict[str, Any]] = {}
    for run in results["runs"]:
        cells.setdefault(run["cell"], {"runs": []})["runs"].append(run)
    return cells


def differences(
    results: dict[str, Any], pair: tuple[str, str], metric: str
) -> dict[str, tuple[dict[int, float], Difference]]:
    """By cell: the differences of two arms by seed, and their mean with its interval."""
    found = {}
    for name, own in runs_by_cell(results).items():
        one, other = (by_seed(own, arm, metric) for arm in pair)
        shared = one.keys() & other.keys()
        if shared:
            by = {seed: one[seed] - other[seed] for seed in shared}
            found[name] = by, paired_difference(one, other)
    return found


def over_all_cells(results: dict[str, Any], pair: tuple[str, str], metric: str) -> Difference:
    """The mean over cells of the difference of two arms, paired by those seeds that every cell has."""
    cells = [by for by, _ in differences(results, pair, metric).values()]
    seeds = set.intersection(*map(set, cells))
    means = {seed: statistics.fmean(by[seed] for by in cells) for seed in seeds}
    return paired_difference(means, dict.fromkeys(means, 0.0))


def markdown(results: dict[str, Any]) -> str:
    """All tables of a map."""
    return ""
