"""``cp.async``: copies from global to shared memory that take their time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import findings
from .formats import Array
from .ptx import Instruction

if TYPE_CHECKING:
    from .machine import Machine


@dataclass(eq=False)
class Copy:
    """The part of one warp in one instruction: bytes in shared memory, and what goes there."""

    offsets: Array
    sources: Array
    size: int
    is_there: Array
    """Which threads copy; the others write zeros."""
    data: Array | None
    instruction: Instruction


class Copies:
    """What each warp has issued, committed, and not yet waited for."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.open: list[list[Copy]] = [[] for _ in range(machine.warps)]
        self.groups: list[deque[list[Copy]]] = [deque() for _ in range(machine.warps)]

    def issue(self, a: slice | Array, targets: Array, sources: Array, size: int, given: Array) -> None:
        """``cp.async [targets], [sources], size, given``"""
        m = self.machine
        if ((given != 0) & (given != size)).any():
            raise NotImplementedError(f"part of a copy: {m.at}")
        offsets, warps, sources = m.shared_memory.offsets(targets, size), m.warp_of(a), np.asarray(sources)
        if m.mode.checks:
            cells = m.shared_memory.cells(offsets, size)
            m.shared_memory.note_landing(cells, warps[:, None])
            m.shared_memory.landing[cells] += 1
        for warp in np.unique(warps):
            own = warps == warp
            copy = Copy(offsets[own], sources[own], size, given[own] == size, None, m.at)
            m.global_memory.locate(copy.sources[copy.is_there], size)
            if m.mode.copies == "early":
                self._land(copy)
            self.open[warp].append(copy)

    def _land(self, copy: Copy) -> None:
        """Move the bytes."""
        m = self.machine
        data = np.zeros((len(copy.offsets), copy.size // 4), np.uint32)
        if copy.is_there.any():
            loaded = m.global_memory.load_words(copy.sources[copy.is_there], 4, copy.size // 4)
            data[copy.is_there] = np.stack(loaded, 1)
        m.shared_memory.bytes[copy.offsets[:, None] + np.arange(copy.size)] = data.view(np.uint8)

    def commit(self, a: slice | Array) -> None:
        """``cp.async.commit_group``"""
        for warp in self.machine.whole_warps(a):
            self.groups[warp].append(self.open[warp])
            self.open[warp] = []

    def wait(self, a: slice | Array, count: int) -> None:
        """``cp.async.wait_group count``: all but the latest ``count`` groups are there afterwards."""
        m = self.machine
        for warp in m.whole_warps(a):
            while len(self.groups[warp]) > count:
                for copy in self.groups[warp].popleft():
                    if m.mode.copies == "late":
                        self._land(copy)
                    if m.mode.checks:
                        cells = m.shared_memory.cells(copy.offsets, copy.size)
                        m.shared_memory.landing[cells] -= 1
                        m.shared_memory.note_write(cells, np.int64(warp))

    def at_exit(self) -> None:
        """Report copies that were not waited for."""
        for warp in range(self.machine.warps):
            for copy in [copy for group in (*self.groups[warp], self.open[warp]) for copy in group]:
                if copy.is_there.any():
                    self.machine.report(findings.IN_FLIGHT_AT_EXIT, "an asynchronous copy", warp, copy.instruction)
