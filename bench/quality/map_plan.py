"""A map instead of a point: the same arms over a plane of edge strengths and along lines of other factors.

docs/quality-map.md says what it asks and what it will call better; it was written before the runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace

from .experiment import Job, Results
from .network import VARIANTS, Variant
from .scenes import edge_statistics
from .training import Setting, test_scenes

PLANE: dict[str, tuple[float, ...]] = {"inside": (0.0, 0.5, 1.0, 2.0), "between": (0.0, 0.5, 1.0)}
"""The factors of the plane. Where both are 0 the image is noise, and there is no cell."""

LINES: dict[str, tuple[float, ...]] = {
    "blur": (0.0, 0.7, 1.5),
    "noise": (0.2, 0.6, 1.2),
    "stride": (4, 8, 16),
    "training_scenes": (128, 1024, 4096),
}
"""The factors that are varied one at a time, with the base point's value among them; steps are doubled besides."""

ARMS = tuple(VARIANTS[name] for name in ("none", "conv", "cdc", "sdn"))
"""What runs in every cell: nothing (of its natural size), and three blocks of equal size."""

CONTROLS = tuple(VARIANTS[name] for name in ("wide", "contrast_suggested"))
"""What runs in a few cells besides: nothing in a network of equal size, and SDN with ``suggest_contrast``."""

BASE_POINT = Setting(size=48, training_scenes=1024, test_scenes=128, steps=240, stride=16)


@dataclass(frozen=True)
class Cell:
    """A place on the map: what differs from the base point."""

    changes: tuple[tuple[str, float], ...]

    @property
    def name(self) -> str:
        """The changes in words."""
        return ", ".join(f"{factor} {value:g}" for factor, value in self.changes) or "base"


CONTROLLED = tuple(map(Cell, ((), (("inside", 2.0),), (("inside", 0.5), ("between", 1.0)))))
"""Cells with the controls: as strong edges inside as between, stronger ones, and weaker ones."""


@dataclass(frozen=True)
class Map:
    """The base point, and how many seeds every cell has: from 1, as trials before the plan had seed 0."""

    base: Setting
    seeds: int

    def cell(self, values: Mapping[str, float]) -> Cell:
        """The cell with these values, those of the base point left out."""
        base = asdict(self.base)
        return Cell(tuple((factor, value) for factor, value in values.items() if value != base[factor]))

    def setting(self, cell: Cell) -> Setting:
        """The task and budget of a cell; a factor has the type that it has at the base point."""
        base = asdict(self.base)
        return replace(self.base, **{factor: type(base[factor])(value) for factor, value in cell.changes})

    def plane(self) -> dict[tuple[float, float], Cell]:
        """The cells of the plane by strength of edges inside and between classes."""
        strengths = ((inside, between) for inside in PLANE["inside"] for between in PLANE["between"])
        return {(i, b): self.cell({"inside": i, "between": b}) for i, b in strengths if i or b}

    def lines(self) -> dict[str, dict[float, Cell]]:
        """The cells of every line by the factor's value."""
        lines = LINES | {"steps": (self.base.steps, 2 * self.base.steps)}
        return {factor: {value: self.cell({factor: value}) for value in values} for factor, values in lines.items()}

    def cells(self) -> list[Cell]:
        """Every cell once."""
        on_lines = (cell for line in self.lines().values() for cell in line.values())
        return list(dict.fromkeys((*self.plane().values(), *on_lines)))

    def jobs(self) -> Iterator[tuple[Cell, Variant, int]]:
        """Seed by seed over all cells, so that a run cut short has whole seeds; a cell's arms follow each other."""
        for seed in range(1, self.seeds + 1):
            for cell in self.cells():
                for variant in (*ARMS, *(CONTROLS if cell in CONTROLLED else ())):
                    yield cell, variant, seed


FULL_MAP = Map(BASE_POINT, seeds=5)
QUICK_MAP = Map(replace(BASE_POINT, test_scenes=32, steps=40), seeds=2)


def describe_cells(plan: Map, results: Results) -> None:
    """Keep what the scenes of every cell are like."""
    described = results.content.get("cells", {})
    for cell in plan.cells():
        if cell.name not in described:
            described[cell.name] = {"changes": dict(cell.changes)} | edge_statistics(test_scenes(plan.setting(cell)))
    results.note("cells", described)


def missing(plan: Map, results: Results) -> Iterator[tuple[str, Job]]:
    """The runs that the results lack, each with the name of its cell."""
    for cell, variant, seed in plan.jobs():
        if not results.has(variant, seed, cell.name):
            yield cell.name, Job(variant, plan.setting(cell), seed)
