"""``mbarrier``: objects in shared memory that count arrivals, and whose phases threads wait for.

An object lies in shared memory, but what it holds is nobody's business: nothing else may touch its eight bytes between
``mbarrier.init`` and ``mbarrier.inval``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import findings
from .formats import Array

if TYPE_CHECKING:
    from .machine import Machine
    from .ptx import Instruction

BYTES = 8


@dataclass(eq=False)
class Mbarrier:
    """A phase ends when nothing is pending; ``known`` is what whoever sees the end of the last one knows."""

    expected: int
    pending: int
    arriving: Array
    known: Array
    phases: int = 0
    committed: int = 0
    """The last product whose end it was told to signal."""


class Mbarriers:
    """The objects of a program by their addresses, and the warps that wait for one."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.objects: dict[int, Mbarrier] = {}
        self.failed: dict[int, Instruction] = {}
        """Warp: the test that failed when it asked last."""
        self.parked: dict[int, int] = {}
        """Warp: address. It has asked twice in vain; it need not ask again before the phase ends."""

    # ---- instructions
    def init(self, a: slice | Array, addresses: Array, counts: Array) -> None:
        """``mbarrier.init [address], count``"""
        m, memory = self.machine, self.machine.shared_memory
        for warp, address, count in self._each(a, addresses, counts):
            if address in self.objects:
                m.report(findings.MBARRIER, "mbarrier.init where an mbarrier is already", warp)
                del self.objects[address]
            cells = self._cells(address)
            memory.note_write(cells, np.int64(warp))
            memory.is_written[cells] = False
            memory.being_read[cells] += 1
            nothing = np.zeros_like(m.clocks.known[warp])
            self.objects[address] = Mbarrier(count, count, nothing, nothing)

    def invalidate(self, a: slice | Array, addresses: Array) -> None:
        """``mbarrier.inval [address]``"""
        m, memory = self.machine, self.machine.shared_memory
        for warp, address, _ in self._each(a, addresses, addresses):
            mbarrier = self._used(warp, address)
            if mbarrier.committed > m.clocks.known[warp, m.clocks.core]:
                m.report(findings.MBARRIER, "mbarrier.inval before the wait for what it is to signal", warp)
            cells = self._cells(address)
            memory.being_read[cells] -= 1
            memory.note_landing(cells, np.int64(warp))
            del self.objects[address]

    def arrive(self, a: slice | Array, addresses: Array) -> None:
        """``mbarrier.arrive _, [address]``"""
        for warp, address, _ in self._each(a, addresses, addresses):
            self._used(warp, address)
            self.signal(address, self.machine.clocks.release(warp))

    def test(self, a: slice | Array, addresses: Array, parities: Array) -> Array:
        """``mbarrier.try_wait.parity`` and ``test_wait``: whether the phase of this parity has ended.

        The first time that it has not, the warp may go on; asking again at the same instruction it is parked until the
        phase ends, so that a loop that waits costs two trips.
        """
        m, results = self.machine, []
        for warp, address, parity in self._each(a, addresses, parities):
            mbarrier = self._used(warp, address)
            has_ended = mbarrier.phases & 1 != parity & 1
            if has_ended:
                m.clocks.acquire(warp, mbarrier.known)
                self.failed.pop(warp, None)
            elif self.failed.get(warp) is m.at:
                self.parked[warp] = address
            else:
                self.failed[warp] = m.at
            results.append(has_ended)
        return np.array(results)

    # ---- asynchronous arrivals
    def expect_signal(self, warp: int, address: int, product: int) -> None:
        """``tcgen05.commit``: somebody will signal the end of all products up to this one."""
        m = self.machine
        mbarrier = self._used(warp, address)
        if mbarrier.committed > m.clocks.known[warp, m.clocks.core] and mbarrier.expected == 1:
            m.report(findings.MBARRIER, "a second commit to a phase that expects one arrival, with no wait since", warp)
        mbarrier.committed = product

    def signal(self, address: int, known: Array) -> None:
        """One arrival, by somebody who knows this much."""
        if address not in self.objects:
            return  # reported when it was invalidated
        mbarrier = self.objects[address]
        mbarrier.arriving = np.maximum(mbarrier.arriving, known)
        mbarrier.pending -= 1
        if mbarrier.pending == 0:
            mbarrier.phases += 1
            mbarrier.pending = mbarrier.expected
            mbarrier.known, mbarrier.arriving = mbarrier.arriving, np.zeros_like(known)
            self.parked = {warp: where for warp, where in self.parked.items() if where != address}

    # ---- places
    def _each(self, a: slice | Array, addresses: Array, values: Array) -> list[tuple[int, int, int]]:
        """Warp, address and value of each active thread."""
        m = self.machine
        return list(zip(m.warp_of(a).tolist(), m.everywhere(a, addresses).tolist(), m.everywhere(a, values).tolist()))

    def _cells(self, address: int) -> Array:
        memory = self.machine.shared_memory
        return memory.cells(memory.offsets(np.array([address]), BYTES), BYTES)

    def _used(self, warp: int, address: int) -> Mbarrier:
        """The object at an address, which must have been made before, as far as this warp knows."""
        m, memory = self.machine, self.machine.shared_memory
        if address not in self.objects:
            m.fail(findings.MBARRIER, f"no mbarrier at {address}")
        cells, known = self._cells(address), m.clocks.known[warp]
        if (memory.written_at[cells] > known[memory.writer[cells]]).any():
            m.report(findings.MBARRIER, "used with no barrier since its mbarrier.init", warp)
        memory.read_at[cells, warp] = known[warp]
        return self.objects[address]
