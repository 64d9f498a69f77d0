"""Means, spreads and paired differences of an experiment, as Markdown tables."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import RESULTS, ROOT
from .network import BASE, SWEEPS, VARIANTS, Variant

METRICS = {
    "miou": "mIoU",
    "trimap_1": "trimap 1",
    "trimap_3": "trimap 3",
    "interior": "interior",
    "boundary_iou_1": "boundary IoU 1",
    "boundary_iou_2": "boundary IoU 2",
    "boundary_f_1": "boundary F 1",
}
"""Those that the tables show; a results file has more."""

PAGE, FIGURES = ROOT / "docs" / "quality.md", RESULTS / "quality" / "cpu.json"
"""The page, and the committed results whose tables it shows."""

MARKS = "<!-- tables begin -->", "<!-- tables end -->"

T_QUANTILES = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""The 97.5 % quantile of Student's t distribution by degrees of freedom."""


@dataclass(frozen=True)
class Difference:
    """A mean of paired differences over the seeds that two variants share, and the half width of its 95 % interval."""

    mean: float
    half_width: float | None
    seeds: int

    def __str__(self) -> str:
        spread = "" if self.half_width is None else f" ± {100 * self.half_width:.2f}"
        return f"{100 * self.mean:+.2f}{spread}"

    @property
    def verdict(self) -> str:
        """``"better"`` or ``"worse"`` where the interval excludes 0, else ``"undecided"``."""
        if self.half_width is None or abs(self.mean) <= self.half_width:
            return "undecided"
        return "better" if self.mean > 0 else "worse"


def load(path: Path) -> dict[str, Any]:
    """A results file."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def by_seed(results: dict[str, Any], variant: str, metric: str, group: str = "figures") -> dict[int, float]:
    """A metric of every run of a variant; empty where the variant has no such metric."""
    runs = (run for run in results["runs"] if run["variant"] == variant and metric in run[group])
    return {run["seed"]: run[group][metric] for run in runs}


def paired_difference(one: dict[int, float], other: dict[int, float]) -> Difference:
    """``one - other`` over shared seeds, with the interval of Student's t; None where one seed gives no interval."""
    differences = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
    if not differences:
        raise ValueError(f"the variants share no seed: {sorted(one)} and {sorted(other)}")
    count = len(differences)
    half = None
    if count > 1:
        quantile = T_QUANTILES[min(count - 1, max(T_QUANTILES))]
        half = quantile * statistics.stdev(differences) / count**0.5
    return Difference(statistics.fmean(differences), half, count)


def percent(values: Sequence[float]) -> str:
    """Mean and standard deviation in percent."""
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.2f}{spread}"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is text."""
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, rule, *rows))


def present(results: dict[str, Any], variants: Sequence[Variant]) -> list[Variant]:
    """Those of the variants that have runs."""
    names = {run["variant"] for run in results["runs"]}
    return [variant for variant in variants if variant.name in names]


def main_table(results: dict[str, Any]) -> str:
    """Every variant of the main experiment: parameters, metrics as mean and standard deviation, time."""
    rows = []
    for variant in present(results, BASE):
        runs = [run for run in results["runs"] if run["variant"] == variant.name]
        metrics = [percent(list(by_seed(results, variant.name, metric).values())) for metric in METRICS]
        seconds = statistics.fmean(run["cpu_seconds"] for run in runs)
        rows.append([variant.title, f"{runs[0]['live_parameters']:,}", str(len(runs)), *metrics, f"{seconds:.0f}"])
    return markdown_table(["between encoder and decoder", "parameters", "seeds", *METRICS.values(), "CPU s"], rows)


def difference_table(results: dict[str, Any], variants: Sequence[Variant], reference: str, flip: bool = False) -> str:
    """Paired differences of variants to a reference, or of the reference to them."""
    rows = []
    for variant in present(results, variants):
        if variant.name == reference:
            continue
        cells, seeds = [], 0
        for metric in METRICS:
            pair = by_seed(results, variant.name, metric), by_seed(results, reference, metric)
            difference = paired_difference(*(reversed(pair) if flip else pair))
            seeds = difference.seeds
            cells.append(str(difference))
        title, reference_title = variant.title, VARIANTS[reference].title
        rows.append([f"{reference_title} - {title}" if flip else f"{title} - {reference_title}", str(seeds), *cells])
    return markdown_table(["difference", "seeds", *METRICS.values()], rows)


def separation_table(results: dict[str, Any]) -> str:
    """How well each map tells border pixels from others."""
    names = {"image_gradient": "image gradient", "feature_gradient": "feature gradient", "response": "3x3 layer"}
    rows = []
    for variant in present(results, BASE):
        values = [list(by_seed(results, variant.name, name, "separation").values()) for name in names]
        rows.append([variant.title, *(percent(shares) if shares else "" for shares in values)])
    return markdown_table(["between encoder and decoder", *names.values()], rows)


def origin(results: dict[str, Any]) -> str:
    """How the figures came to be, in two sentences."""
    session, setting = results["sessions"][-1], results["setting"]
    revisions = sorted({str(past["git"]["revision"])[:10] for past in results["sessions"]})
    total = sum(run["cpu_seconds"] for run in results["runs"])
    return (
        f"`{results['command']}`, {session['device']['name']}, torch {session['torch']}, revision "
        f"{', '.join(revisions)}; {setting['training_scenes']} scenes of {setting['size']}x{setting['size']} pixels to "
        f"train on, {setting['test_scenes']} others to test on, {setting['steps']} steps of {setting['batch']}. "
        f"{len(results['runs'])} runs took {total / 60:.0f} minutes of CPU time in all, one thread each."
    )


def provenance(results: dict[str, Any]) -> str:
    """The origin, and how strong edges are."""
    task = results["task"]
    return (
        f"{origin(results)} "
        f"Edges between classes are {task['neighbour_ratio']:.2f} times as strong as those inside, and the gradient "
        f"tells a border pixel with a chance of {100 * task['gradient_separation']:.0f} %."
    )


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "Mean and standard deviation over seeds, in percent": main_table,
    "SDN against each, paired by seed, in percentage points with 95 % intervals": lambda results: difference_table(
        results, BASE, "sdn", flip=True
    ),
    "Which pixels answer: the chance, in percent, that a border pixel has the larger response": separation_table,
}
SWEEP_TITLES = {
    "contrast": "Sweep over contrast, against the default of 1",
    "similarity": "Sweep over the similarity axis, against one similarity a channel",
    "guidance": "Sweep over guidance, against the next deeper stage",
}


def markdown(results: dict[str, Any]) -> str:
    """All tables of a results file."""
    parts = [provenance(results)]
    parts += [f"**{title}**\n\n{make(results)}" for title, make in SECTIONS.items() if present(results, BASE)]
    for sweep, title in SWEEP_TITLES.items():
        variants = [variant for variant in SWEEPS if variant.sweep == sweep]
        if present(results, variants):
            parts.append(f"**{title}**\n\n{difference_table(results, variants, 'sdn')}")
    return "\n\n".join(parts)


def with_tables(page: str, tables: str) -> str:
    """A page with these tables between the marks."""
    begin, end = map(re.escape, MARKS)
    filled, count = re.subn(f"(?<={begin}\n).*?(?={end})", lambda _: f"\n{tables}\n\n", page, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"the page must have one place between {MARKS[0]} and {MARKS[1]}, found {count}")
    return filled
