"""Global memory: the tensors of a launch, with who wrote each byte."""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from . import findings
from .formats import UNSIGNED, Array
from .ptx import Instruction
from .shared_memory import differ

if TYPE_CHECKING:
    from .machine import Machine


@dataclass(eq=False)
class Allocation:
    """A range of host memory. ``writers`` are the events that wrote each byte, 0 for none in this launch."""

    name: str
    start: int
    size: int
    base: int = 0
    views: dict[int, Array] = field(default_factory=dict)
    writers: Array | None = None

    def __post_init__(self) -> None:
        self.base = self.start & ~15
        length = (self.end - self.base + 15) & ~15
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * length).from_address(self.base))
        self.views = {width: memory.view(kind) for width, kind in UNSIGNED.items()}

    @property
    def end(self) -> int:
        """The address behind it."""
        return self.start + self.size

    def shadow(self) -> Array:
        """``writers``, made when first needed."""
        if self.writers is None:
            self.writers = np.zeros(self.views[1].size, np.int64)
        return self.writers


@dataclass(frozen=True)
class Read:
    """A load, kept until the end of the launch: somebody may yet write there."""

    allocation: Allocation
    offsets: Array
    """Of the first byte that each thread reads."""
    size: int
    events: Array
    instruction: Instruction

    def unordered(self, memory: GlobalMemory, both_ways: bool) -> bool:
        """Whether somebody wrote there before with no order, or before or after."""
        if self.allocation.writers is None:
            return False
        writers = self.allocation.writers[self.offsets[:, None] + np.arange(self.size)]
        if not writers.any():
            return False
        found = memory.unordered(writers, self.events[:, None])
        if both_ways:
            found &= memory.unordered(self.events[:, None], writers)
        return bool(found.any())


class GlobalMemory:
    """The allocations that a launch may touch.

    An event is a moment of a warp: the number of a state of the clocks of a program, times ``WARPS``, plus the warp.
    """

    WARPS = 64

    def __init__(self, is_checked: bool) -> None:
        self.is_checked = is_checked
        self.allocations: list[Allocation] = []
        self.starts: list[int] = []
        self.known: list[Array] = [np.zeros((0, 0))]
        """The clocks of each state."""
        self.program_of: list[int] = [0]
        self.programs = 0
        self.reads: list[Read] = []

    def add(self, name: str, start: int, size: int) -> None:
        """Allow access to a range; ranges that overlap, as those of views do, become one."""
        for other in [a for a in self.allocations if a.start < start + size and start < a.end]:
            low, high = min(start, other.start), max(start + size, other.end)
            self.allocations.remove(other)
            name, start, size = f"{other.name}+{name}", low, high - low
        self.allocations.append(Allocation(name, start, size))
        self.allocations.sort(key=lambda a: a.start)
        self.starts = [a.start for a in self.allocations]

    def seen_by(self, machine: Machine) -> ProgramMemory:
        """This memory for the threads of one program."""
        self.programs += 1
        return ProgramMemory(self, machine, self.programs)

    def new_state(self, known: Array, program: int) -> int:
        """A number for the clocks as they are now."""
        self.known.append(known.copy())
        self.program_of.append(program)
        return len(self.known) - 1

    def unordered(self, earlier: Array, later: Array) -> Array:
        """Whether nothing orders the one event before the other; no event (0) is before all."""
        earlier, later = np.broadcast_arrays(earlier, later)
        found = np.zeros(earlier.shape, bool)
        for one, other in np.unique(np.stack([earlier.ravel(), later.ravel()]), axis=1).T.tolist():
            if one and not self._is_before(one, other):
                found |= (earlier == one) & (later == other)
        return found

    def _is_before(self, one: int, other: int) -> bool:
        (state, warp), (later_state, later_warp) = divmod(one, self.WARPS), divmod(other, self.WARPS)
        if self.program_of[state] != self.program_of[later_state]:
            return False
        return bool(self.known[later_state][later_warp, warp] >= self.known[state][warp, warp])


class ProgramMemory:
    """Global memory as the threads of one program see it."""

    def __init__(self, memory: GlobalMemory, machine: Machine, program: int) -> None:
        self.memory, self.machine, self.program = memory, machine, program
        self.version, self.state = -1, 0

    def events(self, a: slice | Array) -> Array:
        """What the active threads do now, as events."""
        clocks = self.machine.clocks
        if clocks.version != self.version:
            self.version, self.state = clocks.version, self.memory.new_state(clocks.known, self.program)
        return self.state * self.memory.WARPS + self.machine.warp_of(a)

    def locate(self, addresses: Array, size: int) -> list[tuple[Allocation, slice | Array]]:
        """The allocations of some addresses, each with the selection of those that lie in it.

        Raises:
            KernelFaultError: some lie in none, or are not aligned.
        """
        if len(addresses) == 0:
            return []
        if size > 1 and (addresses & np.uint64(size - 1)).any():
            bad = int(addresses[(addresses & np.uint64(size - 1)) != 0][0])
            self.machine.fail(findings.MISALIGNED, f"{size} bytes at {bad:#x}, {self._near(bad)}")
        low, high = int(addresses.min()), int(addresses.max()) + size
        at = bisect_right(self.memory.starts, low) - 1
        if at >= 0 and high <= self.memory.allocations[at].end:
            return [(self.memory.allocations[at], slice(None))]
        parts: list[tuple[Allocation, slice | Array]] = []
        left = np.ones(len(addresses), bool)
        for allocation in self.memory.allocations:
            mask = addresses >= np.uint64(allocation.start)
            mask &= addresses + np.uint64(size) <= np.uint64(allocation.end)
            if mask.any():
                parts.append((allocation, np.flatnonzero(mask)))
                left &= ~mask
        if left.any():
            bad = int(addresses[left][0])
            what = f"{int(left.sum())} threads access {size} bytes outside of all tensors, first {self._near(bad)}"
            self.machine.fail(findings.OUT_OF_BOUNDS, what)
        return parts

    def _near(self, address: int) -> str:
        distances = {
            allocation.name: min(address - allocation.start, address - allocation.end, key=abs)
            for allocation in self.memory.allocations
        }
        if not distances:
            return "there are no tensors"
        name = min(distances, key=lambda name: abs(distances[name]))
        return f"{distances[name]:+d} bytes from an end of {name}"

    def load_words(self, addresses: Array, width: int, count: int) -> list[Array]:
        """``count`` elements of ``width`` bytes at each address."""
        result = [np.zeros(len(addresses), UNSIGNED[width]) for _ in range(count)]
        for allocation, chosen in self.locate(addresses, width * count):
            index = (addresses[chosen] - np.uint64(allocation.base)).astype(np.int64) // width
            for k in range(count):
                result[k][chosen] = allocation.views[width][index + k]
        return result

    def load(self, a: slice | Array, addresses: Array, width: int, count: int) -> list[Array]:
        """Like :meth:`load_words`, by the active threads."""
        addresses = np.asarray(addresses)
        if self.memory.is_checked:
            self.note_read(self.events(a), addresses, width * count)
        return self.load_words(addresses, width, count)

    def note_read(self, events: Array, addresses: Array, size: int) -> None:
        """Keep who reads what, and report what somebody wrote without order."""
        for allocation, chosen in self.locate(addresses, size):
            offsets = (addresses[chosen] - np.uint64(allocation.base)).astype(np.int64)
            read = Read(allocation, offsets, size, events[chosen], self.machine.at)
            self.memory.reads.append(read)
            if read.unordered(self.memory, both_ways=False):
                self.machine.report(findings.GLOBAL_RACE, f"reads of {allocation.name} what others write")

    def store(self, a: slice | Array, addresses: Array, width: int, values: list[Array]) -> None:
        """Elements of ``width`` bytes to each address."""
        addresses, size = np.asarray(addresses), width * len(values)
        for allocation, chosen in self.locate(addresses, size):
            offsets = (addresses[chosen] - np.uint64(allocation.base)).astype(np.int64)
            index = offsets // width
            chosen_values = [np.broadcast_to(value, addresses.shape)[chosen] for value in values]
            memory = allocation.views[width]
            is_there = np.all([memory[index + k] == value for k, value in enumerate(chosen_values)], 0)
            for k, value in enumerate(chosen_values):
                memory[index + k] = value
            if self.memory.is_checked:
                places = offsets[:, None] + np.arange(size)
                self._note_write(allocation, places, self.events(a)[chosen][:, None], is_there[:, None])
                if any(differ(index, value) for value in chosen_values):
                    what = f"they write different values to one place of {allocation.name}"
                    self.machine.report(findings.AMBIGUOUS, what)

    def _note_write(self, allocation: Allocation, places: Array, events: Array, is_there: Array) -> None:
        """Warps of one program that hold copies of a value may all store it, in no order."""
        writers = allocation.shadow()
        before = writers[places]
        if before.any():
            is_own = np.asarray(self.memory.program_of)[before // self.memory.WARPS] == self.program
            if (self.memory.unordered(before, events) & ~(is_own & is_there)).any():
                self.machine.report(findings.GLOBAL_RACE, f"writes of {allocation.name} what others write")
        writers[places] = events

    def add(self, a: slice | Array, addresses: Array, values: Array) -> Array:
        """``atom.add``: what was there before, thread by thread."""
        addresses = np.asarray(addresses)
        old = np.empty_like(values)
        for i, value in enumerate(values):
            bits = self.load_words(addresses[i : i + 1], values.itemsize, 1)[0]
            old[i] = bits.view(values.dtype)[0]
            allocation = self.locate(addresses[i : i + 1], values.itemsize)[0][0]
            at = (int(addresses[i]) - allocation.base) // values.itemsize
            allocation.views[values.itemsize][at] = (old[i : i + 1] + value).view(bits.dtype)[0]
        return old
