"""The least time of a trip through a hot loop that the order of its instructions allows.

The best that can be said of a device whose schedule nobody knows is that every pipe is busy all the time. That counts
overlaps which the code forbids. This bound does not:

- Behind a barrier of the block nothing starts before everything in front of it was issued: the stretches between
  barriers add up. Inside a stretch the warps overlap with each other, but each issues its own instructions in order.
- A synchronous tensor instruction (``mma.sync``) belongs to its stretch like any other.
- An asynchronous one (``wgmma``, ``tcgen05.mma``) runs beside what stands between it and the wait that covers it.
- Resident blocks overlap with each other freely, and so do copies and loads: no latency counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..control_flow import Instruction
from ..throughput import KINDS, WARP, Multiprocessor

PARTS = 4
"""Schedulers of a multiprocessor, on NVIDIA and AMD alike."""
TRIPS = 4
"""The trips that are played; in the last one everything repeats."""
BARRIERS = ("BAR.SYNC", "s_barrier")


@dataclass
class Stretch:
    """The instructions between two points that all warps of a block have to reach."""

    instructions: list[Instruction] = field(default_factory=list)
    started: list[float] = field(default_factory=list)
    """Clocks of the groups of asynchronous products that are started in it."""
    waits: bool = False
    """Whether it ends with a wait for products."""
    left: int = 0
    """How many groups that wait leaves unfinished."""


def least_clocks(way: Sequence[Instruction], device: Multiprocessor, flop_a_clock: float, warps: int) -> float:
    """Clocks of one block for a trip; ``way`` is what a warp executes, in order."""
    stretches = list(_stretches(way, device, flop_a_clock))
    taken = [_clocks(stretch, device, flop_a_clock, warps) for stretch in stretches]
    clock = 0.0
    tensor_free = 0.0
    ends: list[float] = []
    trip_ends = []
    for _ in range(TRIPS):
        for stretch, clocks in zip(stretches, taken, strict=True):
            for product in stretch.started:
                tensor_free = max(clock, tensor_free) + product
                ends.append(tensor_free)
            clock += clocks
            if stretch.waits and len(ends) > stretch.left:
                clock = max(clock, ends[-1 - stretch.left])
        trip_ends.append(clock)
    return max(trip_ends[-1] - trip_ends[-2], sum(sum(stretch.started) for stretch in stretches))


def _stretches(way: Sequence[Instruction], device: Multiprocessor, flop_a_clock: float) -> Iterator[Stretch]:
    """The trip cut at barriers and waits; what stands behind the last one belongs to the first of the next trip."""
    cuts = [n for n, instruction in enumerate(way) if _is_cut(instruction)]
    first = cuts[-1] + 1 if cuts else 0
    stretch, group = Stretch(), 0.0
    barrier = ""
    for instruction in (*way[first:], *way[:first]):
        stretch.instructions.append(instruction)
        if _is_asynchronous(instruction):
            group += max(instruction.flop / flop_a_clock, instruction.scratchpad_bytes / device.l1_bytes)
        if _closes(instruction):
            stretch.started.append(group)
            group = 0.0
            barrier = _address(instruction, way)
        if _is_cut(instruction):
            if "DEPBAR" in instruction.opcode:
                stretch.waits, stretch.left = True, int(instruction.operands.split(",")[1], 0)
            elif instruction.opcode.startswith("SYNCS"):
                # A wait on another barrier than the one that was committed last: for the product before.
                stretch.waits, stretch.left = True, int(_address(instruction, way) != barrier)
            yield stretch
            stretch = Stretch()
    if stretch.instructions:
        yield stretch


def _is_cut(instruction: Instruction) -> bool:
    return instruction.opcode.startswith((*BARRIERS, "WARPGROUP.DEPBAR", "SYNCS.PHASECHK"))


def _is_asynchronous(instruction: Instruction) -> bool:
    return bool(instruction.flop) and instruction.opcode.startswith(("HGMMA", "UTC"))


def _closes(instruction: Instruction) -> bool:
    return instruction.opcode.startswith("UTCBAR") or (
        _is_asynchronous(instruction) and instruction.operands.endswith("gsb0")
    )


def _address(instruction: Instruction, way: Sequence[Instruction]) -> str:
    """The barrier in shared memory that an instruction names, with a constant that was added before written out."""
    match = re.search(r"\[(?P<register>UR\d+)(?P<offset>\+0x[0-9a-f]+)?\]", instruction.operands)
    if match is None:
        return ""
    register = match["register"]
    for before in reversed(way[: way.index(instruction)]):
        if before.operands.split(",")[0].strip() == register:
            added = re.fullmatch(r"UR\d+, (?:UPT, UPT, )?(UR\d+), (0x[0-9a-f]+), URZ", before.operands)
            return (
                f"{added[1]}+{added[2]}"
                if added and before.opcode == "UIADD3" and not match["offset"]
                else match[0][1:-1]
            )
    return match[0][1:-1]


def _clocks(stretch: Stretch, device: Multiprocessor, flop_a_clock: float, warps: int) -> float:
    """Clocks of a block for a stretch: what its busiest pipe takes, and what a warp takes alone."""
    threads = warps * WARP
    counts = Counter(instruction.kind for instruction in stretch.instructions)
    pipes = device.pipe_clocks({kind: threads * counts[kind] for kind in KINDS})
    synchronous = [instruction for instruction in stretch.instructions if not _is_asynchronous(instruction)]
    products = sum(instruction.flop for instruction in synchronous) / flop_a_clock
    bytes_moved = (sum(i.l1_bytes for i in synchronous), sum(i.scratchpad_bytes for i in synchronous))
    alone = _alone(stretch.instructions, device, flop_a_clock, warps)
    return max(*pipes.values(), products, device.cache_clocks(*bytes_moved), alone)


def _alone(instructions: Sequence[Instruction], device: Multiprocessor, flop_a_clock: float, warps: int) -> float:
    """Clocks in which one warp, with its part of the multiprocessor to itself, issues instructions in order."""
    clock = 0.0
    free = dict.fromkeys((*device.pipes, "tensor"), 0.0)
    for instruction in instructions:
        used = {
            pipe: WARP * PARTS / rates[instruction.kind]
            for pipe, rates in device.pipes.items()
            if instruction.kind in rates
        }
        if instruction.flop and not _is_asynchronous(instruction):
            used["tensor"] = instruction.flop / warps * PARTS / flop_a_clock
        clock = max(clock, *(free[pipe] for pipe in used), 0.0)
        for pipe, clocks in used.items():
            free[pipe] = clock + clocks
        clock += used.get("issue", 0.0)
    return clock
