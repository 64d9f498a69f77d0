"""From the machine code of a kernel to what one difference element costs: instructions, bytes, clocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .control_flow import Code, ControlFlow, Instruction, Loop, Path, UnreadableCodeError
from .kernel_work import KernelWork
from .throughput import KINDS

TOLERANCE = 0.1
"""How far the products of a loop may be from a whole number of tiles: float32 products cannot be told from the
multiply-adds of the differences; tensor instructions come out exactly."""


@dataclass(frozen=True)
class Block:
    """A thread block and the tile of one matrix product in it."""

    threads: int
    pixels: int
    channels: int
    outputs: int

    @property
    def product_flop(self) -> float:
        """Operations of one product of all three axes."""
        return 2.0 * self.pixels * self.channels * self.outputs


@dataclass(frozen=True)
class Cost:
    """What the hot loop does for one difference element.

    ``counts`` are instructions of a thread by kind, ``outside`` likewise those outside of the hot loop, spread over all
    elements of the program. Bytes are those that instructions ask for.
    """

    elements_per_trip: float
    """Elements that one thread handles in one trip of the hot loop."""
    instructions_per_trip: float
    counts: dict[str, float]
    outside: dict[str, float]
    loads: dict[int, float]
    """Loads from global memory of one thread in one trip, by their width in bits."""
    flop: float
    l1_bytes: float
    l2_bytes: float
    scratchpad_bytes: float

    @property
    def issued(self) -> float:
        """Instructions issued for one element, in the hot loop."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class HotLoop:
    """The loop in which a kernel spends its time, and what it costs."""

    cost: Cost
    is_loop: bool
    """Whether there is one; if not, everything is unrolled and counts as one trip."""
    steps: float
    """Steps of a trip; see ``kernel_work``."""
    way: tuple[Instruction, ...]
    """What one trip executes, in order, with all trips of the loops inside."""


def cost_of(code: Code, work: KernelWork, block: Block) -> Cost:
    """What the hot loop costs; see :func:`hot_loop`."""
    return hot_loop(code, work, block).cost


def hot_loop(code: Code, work: KernelWork, block: Block) -> HotLoop:
    """Find the hot loop and count in it.

    The hot loop is the innermost loop that holds both the matrix products and the similarities, as far as the kernel
    has them: where the products stand in loops of their own inside it, these count with their trips, which follow from
    the products that the kernel has to do. Of several such loops in a row that with the most elements in a trip counts,
    the unrolled one rather than its remainder, and of equals the costliest. A kernel without such a loop, because
    everything is unrolled, counts as a whole.

    Raises:
        UnreadableCodeError: the loops are not what the kernel's work says they should be.
    """
    flow = ControlFlow(code)
    whole = flow.path(None)
    if not _is_hot(whole, work):
        raise UnreadableCodeError("the code holds no matrix products, or no similarities, where they were expected")
    hot = [_counted(path, whole, loop, work, block) for loop, path in _innermost(whole, work)]
    return max(
        hot or [_counted(whole, whole, None, work, block)],
        key=lambda loop: (loop.cost.elements_per_trip, loop.cost.issued),
    )


def _is_hot(path: Path, work: KernelWork) -> bool:
    everything = list(path.everything())
    has_products = not work.products or any(instruction.flop for instruction in everything)
    has_roots = not work.has_differences or any(instruction.is_inverse_root for instruction in everything)
    return has_products and has_roots


def _innermost(path: Path, work: KernelWork) -> Iterator[tuple[Loop, Path]]:
    """The hot loops on a path that hold no other hot loop."""
    for loop, inner in path.loops:
        if _is_hot(inner, work):
            deeper = list(_innermost(inner, work))
            yield from deeper or [(loop, inner)]


def _counted(path: Path, whole: Path, loop: Loop | None, work: KernelWork, block: Block) -> HotLoop:
    steps, inner_trips = _steps(path, work, block)
    executed = list(path.weighted(lambda inner: inner_trips if _flop(inner.everything()) else 1.0))
    way = path.in_order(lambda inner: max(round(inner_trips), 1) if _flop(inner.everything()) else 1)
    elements = steps * block.pixels * work.block
    per_thread = elements / block.threads
    roots = sum(weight for instruction, weight in executed if instruction.is_inverse_root)
    if work.has_differences and roots > 1.05 * per_thread:
        raise UnreadableCodeError(
            f"{roots:.0f} reciprocal square roots for {per_thread:.0f} elements of a thread: expected at most one each"
        )
    outside = _outside(whole, loop, work.outer_trips) if loop is not None else Counter[str]()
    of_program = work.steps * block.pixels * work.block / block.threads
    loads: dict[int, float] = {}
    for instruction, weight in executed:
        if instruction.global_bits:
            loads[instruction.global_bits] = loads.get(instruction.global_bits, 0.0) + weight
    cost = Cost(
        elements_per_trip=per_thread,
        instructions_per_trip=sum(weight for _, weight in executed),
        counts={kind: _total(executed, kind) / per_thread for kind in KINDS},
        outside={kind: outside[kind] / of_program for kind in KINDS},
        loads=dict(sorted(loads.items())),
        flop=sum(weight * instruction.flop for instruction, weight in executed) / elements,
        l1_bytes=sum(weight * instruction.l1_bytes for instruction, weight in executed) / elements,
        l2_bytes=sum(weight * instruction.l2_bytes for instruction, weight in executed) / elements,
        scratchpad_bytes=sum(weight * instruction.scratchpad_bytes for instruction, weight in executed) / elements,
    )
    return HotLoop(cost, loop is not None, steps, tuple(way))


def _steps(path: Path, work: KernelWork, block: Block) -> tuple[float, float]:
    """Steps of a trip through the hot loop, unrolling included, and the trips of product loops inside it."""
    if not work.products:
        roots = sum(instruction.is_inverse_root for instruction in path.everything())
        return _whole(roots * block.threads / (block.pixels * work.block), "similarities"), 1.0
    direct = _flop(path.instructions) / block.product_flop
    looped = sum(_flop(inner.everything()) for _, inner in path.loops) / block.product_flop
    if not looped:
        return _whole(direct, "matrix products") / work.products, 1.0
    # Loops share what the trips that the compiler put before or behind them leave; that may be nothing.
    left = work.looped_steps * work.products - _whole(direct, "matrix products", least=0)
    if left < 0:
        raise UnreadableCodeError(f"{-left:.0f} matrix products too many beside the loops over them")
    return work.looped_steps, left / _whole(looped, "matrix products")


def _whole(number: float, what: str, least: int = 1) -> float:
    if number < least - TOLERANCE or abs(number - round(number)) > TOLERANCE * max(number, 1):
        raise UnreadableCodeError(f"{number:.3g} {what} in a loop where a whole number was expected")
    return float(round(number))


def _flop(instructions: Iterable[Instruction]) -> float:
    return sum(instruction.flop for instruction in instructions)


def _total(executed: Iterable[tuple[Instruction, float]], kind: str) -> float:
    return sum(weight for instruction, weight in executed if instruction.kind == kind)


def _outside(path: Path, hot: Loop, outer_trips: int) -> Counter[str]:
    """Instructions by kind outside of the hot loop; ``outer_trips`` are those of the loop next around it."""
    counts = Counter(instruction.kind for instruction in path.instructions)
    for loop, inner in path.loops:
        if loop is hot:
            continue
        trips = outer_trips if hot in loop.inside() and hot in loop.loops else 1
        for kind, count in _outside(inner, hot, outer_trips).items():
            counts[kind] += trips * count
    return counts
