"""Why a layer misses an aim of ``bench.yardstick``, by arithmetic on what is known of its kernels.

A pass takes at least as long as the busiest part of the device in each of its kernels, one after the other: *if
nothing waited*. What is above an aim there cannot be mended by order or overlap, only by kernels that do less. Else it
is copies of images in another layout, which take their bytes at the memory's rate, or what kernels wait for. Imports
neither torch nor triton.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .aims import PASSES, TRAINING, WAYS, ahead, aims_of, layer_of, missed, our_ratios

PIPES = {
    "issue": "issue slots",
    "fp": "the pipe of floats",
    "integer": "the pipe of integers",
    "tensor": "tensor cores",
}
PIPES |= {"l1": "the first-level cache", "l2": "the second-level cache", "memory": "device memory"}
PIPES |= {"special": "special functions"}
LANES = 128
"""Threads whose instruction a multiprocessor issues in a clock."""
NAMED = 2
"""How many of a step's kernels are named."""


class Part(NamedTuple):
    """A kernel in a pass, or copies."""

    kernel: str
    ratio: float
    floor: float
    bound: str
    clocks: float | None
    """What the busiest part of the device takes for an element."""

    @property
    def is_copy(self) -> bool:
        return self.clocks is None


def parts_of(cell: Mapping[str, Any], aim: str) -> list[Part]:
    """The kernels of a forward or of a training step; copies that both gradients share stand once."""
    passes = PASSES if aim == TRAINING else (aim,)
    parts = [
        Part(
            kernel["kernel"],
            kernel["ratio"],
            kernel["floor_ratio"],
            kernel["bound"],
            kernel["clocks_per_element"][kernel["bound"]] if "clocks_per_element" in kernel else None,
        )
        for name in passes
        for kernel in cell["ours"][name]["kernels"]
    ]
    if aim == TRAINING and cell["shared"]:
        parts.append(Part("copies made once for both gradients", -cell["shared"], -cell["shared"], "memory", None))
    return parts


class Reason(NamedTuple):
    """Why a pass of a layer takes longer than it should."""

    layer: str
    aim: str
    limit_is: str
    value: float
    text: str


def reasons(cells: Sequence[Mapping[str, Any]]) -> list[Reason]:
    """Those of every aim that is missed; and of a layer without aims, where another way would train faster."""
    explained = []
    for cell in cells:
        aims = aims_of(cell)
        limits = {aim: (aims[aim], f"{aims[aim]:.2f}") for aim in missed(cell)}
        if not aims:
            faster = [
                (cell["others"][way][TRAINING], WAYS[way]) for way, passes in ahead(cell).items() if TRAINING in passes
            ]
            for limit, title in sorted(faster)[:1]:
                limits[TRAINING] = limit, f"{title} {limit:.2f}"
        for aim, (limit, limit_is) in limits.items():
            explained.append(Reason(layer_of(cell), aim, limit_is, our_ratios(cell)[aim], reason(cell, aim, limit)))
    return explained


def reason(cell: Mapping[str, Any], aim: str, limit: float) -> str:
    """Why a pass takes longer than ``limit``, in figures of the table's unit."""
    parts, passes = parts_of(cell, aim), len(PASSES) if aim == TRAINING else 1
    value, floor = our_ratios(cell)[aim], sum(part.floor for part in parts) / passes
    copies = sum(part.ratio for part in parts if part.is_copy) / passes
    kernels = [part for part in parts if not part.is_copy]
    also = f"; copies take {copies:.2f}" if copies else ""
    if floor > limit:
        largest = sorted(kernels, key=lambda part: -part.floor)[:NAMED]
        return f"if nothing waited still {floor:.2f}: {', '.join(map(_bound, largest))}{also}"
    if copies and value - copies <= limit:
        return f"copies to channels_last take {copies:.2f} at the memory's rate; {value - copies:.2f} without them"
    waiting = sorted(kernels, key=lambda part: part.floor - part.ratio)[:NAMED]
    waits = ", ".join(f"{part.kernel} waits {(part.ratio - part.floor) / passes:.2f}" for part in waiting)
    return f"if nothing waited {floor:.2f}: {waits}{also}"


def _bound(part: Part) -> str:
    """What binds a kernel, for an element, beside the convolution."""
    assert part.clocks is not None
    what = f"{LANES * part.clocks:.1f} instructions, " if part.bound == "issue" else ""
    times = f"{part.clocks:.3f} clocks an element, the convolution {part.clocks / part.floor:.3f}"
    return f"{part.kernel} {part.floor:.2f} by {PIPES[part.bound]} ({what}{times})"
