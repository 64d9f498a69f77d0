"""From what a hot loop costs to the time of a kernel, in times of the plain convolution's.

Three figures, from certain to likely:

- the *floor*: every pipe of the device overlaps with every other;
- the *bound*: only what the order of instructions allows overlaps (``timeline/overlap.py``);
- *simulated*, on Hopper: the machine code played in time, with latencies, queues and waits
  (``timeline/simulation.py``).

What these can say and what they cannot: "What the model can and cannot predict" in bench/README.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .control_flow import Code, UnreadableCodeError
from .kernel_cost import Cost, HotLoop
from .kernel_work import KernelWork
from .throughput import KINDS, MULTIPROCESSORS, WARP, Multiprocessor
from .timeline.first_touch import first_touches
from .timeline.hopper import ALTERNATIVES, Hopper
from .timeline.overlap import least_clocks
from .timeline.simulation import SimulatedMultiprocessor
from .timeline.trip import Tiles, trips_of

SIMULATED = "sm_90"
"""The architecture whose schedule the simulation knows."""
WARM_UP, MEASURED = 8, 8
"""Trips of a warp that are played and do not count, and that count: at least a period of these."""
START_OFFSET = 500
"""Clocks between the starts of resident blocks, which in the long run start when others end."""


@dataclass(frozen=True)
class Floor:
    """Clocks of one multiprocessor for one element, by pipe; the pipe that binds, and its time over the reference's."""

    clocks: dict[str, float]
    bound: str
    ratio: float


@dataclass(frozen=True)
class Prediction:
    """The time of a kernel over the plain convolution's.

    ``ratio`` is what ``method`` says: "simulated" or "bound". ``low`` and ``high`` are its range over the alternatives
    of ``timeline/hopper.py``; only of what was simulated. ``reason`` says why it was not.
    """

    floor: Floor
    method: str
    ratio: float
    low: float | None = None
    high: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Subject:
    """A kernel on a device."""

    arch: str
    arithmetic: str
    hot: HotLoop
    code: Code
    work: KernelWork
    tile: tuple[int, int]
    """Rows and columns of pixels."""
    warps: int
    blocks: int
    """Resident blocks of a multiprocessor."""

    @property
    def device(self) -> Multiprocessor:
        """Its rates."""
        return MULTIPROCESSORS[self.arch]

    @property
    def flop_a_clock(self) -> float:
        """What the tensor cores do."""
        return self.device.tensor[self.arithmetic]

    @property
    def trip_elements(self) -> float:
        """Elements that a block makes in a trip."""
        return self.hot.cost.elements_per_trip * self.warps * WARP


def floor_of(cost: Cost, work: KernelWork, device: Multiprocessor, arithmetic: str) -> Floor:
    """The time if all pipes overlap."""
    rate = device.tensor[arithmetic]
    counts = {kind: cost.counts[kind] + cost.outside[kind] for kind in KINDS}
    clocks = device.pipe_clocks(counts)
    if cost.counts["tensor"]:
        clocks["tensor"] = (cost.flop + work.outside_flop) / rate
    clocks["l1"] = device.cache_clocks(cost.l1_bytes, cost.scratchpad_bytes)
    clocks["l2"] = max(cost.l2_bytes, work.streamed) / device.l2_bytes
    clocks["memory"] = _memory_clocks(work, device)
    bound = max(clocks, key=lambda pipe: clocks[pipe])
    return Floor(clocks, bound, clocks[bound] / _reference_clocks(work, device, rate))


def predict(subject: Subject, with_range: bool = True) -> Prediction:
    """The best that can be said of a kernel; ``with_range`` plays it under every alternative, too."""
    floor = floor_of(subject.hot.cost, subject.work, subject.device, subject.arithmetic)
    try:
        outcomes = _simulated(subject, ALTERNATIVES if with_range else {})
    except UnreadableCodeError as error:
        clocks = least_clocks(subject.hot.way, subject.device, subject.flop_a_clock, subject.warps)
        bound = _ratio(subject, clocks / max(subject.blocks, 1), max(subject.blocks, 1))
        return Prediction(floor, "bound", max(bound, floor.ratio), reason=str(error))
    ratios = [_ratio(subject, clocks / subject.blocks, 1) for clocks in outcomes]
    low, high = (min(ratios), max(ratios)) if with_range else (None, None)
    return Prediction(floor, "simulated", ratios[0], low, high)


def _simulated(subject: Subject, alternatives: Mapping[str, Hopper]) -> list[float]:
    """The clocks of a trip under the assumptions, and then under each alternative."""
    if subject.arch != SIMULATED:
        raise UnreadableCodeError(f"the simulation knows {SIMULATED} only")
    if not subject.hot.is_loop:
        raise UnreadableCodeError("there is no loop to simulate")
    if not subject.hot.cost.counts["tensor"]:
        raise UnreadableCodeError("no products run beside anything")
    if not subject.blocks:
        raise UnreadableCodeError("not one block fits")
    tiles = tiles_of(subject.hot, subject.work, subject.tile)
    trips = trips_of(subject.hot.way, subject.code, subject.warps, tiles)
    measured = -(-MEASURED // tiles.period) * tiles.period
    return [
        SimulatedMultiprocessor(trips, subject.warps, subject.blocks, subject.flop_a_clock, model, START_OFFSET).run(
            WARM_UP, measured
        )
        for model in (Hopper(), *alternatives.values())
    ]


def tiles_of(hot: HotLoop, work: KernelWork, tile: tuple[int, int]) -> Tiles:
    """How a trip reads its tiles."""
    if not work.has_differences:
        return Tiles()
    steps = max(round(hot.steps), 1)
    return Tiles(first_touches(*tile), steps, max(work.taps // steps, 1))


def _ratio(subject: Subject, trip_clocks: float, overlapping: int) -> float:
    """A time over the reference's, from the clocks that a trip of one block takes the multiprocessor.

    What stands outside of the loop comes on top, unless ``overlapping`` blocks are taken to hide it for each other.
    """
    device, cost, work = subject.device, subject.hot.cost, subject.work
    outside = max(device.pipe_clocks(cost.outside).values()) + work.outside_flop / subject.flop_a_clock
    clocks = trip_clocks / subject.trip_elements + outside / overlapping
    return max(clocks, _memory_clocks(work, device)) / _reference_clocks(work, device, subject.flop_a_clock)


def _memory_clocks(work: KernelWork, device: Multiprocessor) -> float:
    return work.memory / (work.elements * work.repeats) / device.memory_bytes


def _reference_clocks(work: KernelWork, device: Multiprocessor, flop_a_clock: float) -> float:
    """Clocks of the plain convolution for an element that is computed once."""
    reference = max(work.reference_flop / flop_a_clock, work.reference_memory / device.memory_bytes)
    return reference / (work.elements * work.repeats)
