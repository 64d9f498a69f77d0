"""Shared memory with a shadow: who wrote and read what when, and what is still under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import findings
from .formats import UNSIGNED, Array

if TYPE_CHECKING:
    from .machine import Machine

BASE = 1024
"""The address that shared memory begins at: what is aligned for swizzles is aligned here too."""


class SharedMemory:
    """The bytes of one program, and a shadow of cells of ``granule`` bytes, the narrowest that any access has."""

    def __init__(self, machine: Machine, size: int, granule: int, is_checked: bool) -> None:
        self.machine, self.size, self.granule, self.is_checked = machine, size, granule, is_checked
        room = -(-size // 1024) * 1024 + 1024
        self.bytes = np.full(room, 0xFF, np.uint8)  # NaN, whatever it is read as
        self.views = {width: self.bytes.view(kind) for width, kind in UNSIGNED.items()}
        cells = room // granule
        self.is_written = np.zeros(cells, bool)
        self.writer = np.zeros(cells, np.int16)
        self.written_at = np.zeros(cells, np.int32)
        self.read_at = np.zeros((cells, len(machine.clocks.known)), np.int32)
        self.landing = np.zeros(cells, np.int16)
        """Asynchronous copies that will write a cell."""
        self.being_read = np.zeros(cells, np.int16)
        """Unfinished matrix instructions that read a cell, or 1 for an mbarrier."""

    # ---- places
    def offsets(self, addresses: Array, size: int) -> Array:
        """Offsets of accesses of ``size`` bytes.

        Raises:
            KernelFaultError: one is outside, or not aligned.
        """
        offsets = np.asarray(addresses).astype(np.int64) - BASE
        if len(offsets) and (offsets.min() < 0 or offsets.max() + size > self.size):
            bad = offsets[(offsets < 0) | (offsets + size > self.size)].flat[0]
            self.machine.fail(findings.OUT_OF_BOUNDS, f"{size} bytes at {int(bad)} of {self.size} of shared memory")
        if size > 1 and (offsets & (size - 1)).any():
            bad = offsets[(offsets & (size - 1)) != 0].flat[0]
            self.machine.fail(findings.MISALIGNED, f"{size} bytes at {int(bad)} of shared memory")
        return offsets

    def cells(self, offsets: Array, size: int) -> Array:
        """The cells of accesses of ``size`` bytes, along a new last axis."""
        return offsets[..., None] // self.granule + np.arange(max(size // self.granule, 1))

    # ---- accesses of threads
    def load(self, a: slice | Array, addresses: Array, width: int, count: int) -> list[Array]:
        """``count`` elements of ``width`` bytes at each address."""
        offsets = self.offsets(addresses, width * count)
        if self.is_checked:
            self.note_read(self.cells(offsets, width * count), self.machine.warp_of(a)[:, None])
        return [self.views[width][offsets // width + k] for k in range(count)]

    def store(self, a: slice | Array, addresses: Array, width: int, values: list[Array]) -> None:
        """Elements of ``width`` bytes to each address."""
        offsets = self.offsets(addresses, width * len(values))
        self.write(self.machine.warp_of(a), offsets, width, values)

    def write(self, warps: Array, offsets: Array, width: int, values: list[Array]) -> None:
        """Like :meth:`store`, for places that are known to exist."""
        index = offsets // width
        values = [np.broadcast_to(np.asarray(value).astype(UNSIGNED[width]), index.shape) for value in values]
        if self.is_checked:
            is_there = np.all([self.views[width][index + k] == value for k, value in enumerate(values)], 0)
            self.note_write(self.cells(offsets, width * len(values)), warps[:, None], is_there[:, None])
            if any(differ(index, value) for value in values):
                self.machine.report(findings.AMBIGUOUS, "they write different values to one place in shared memory")
        for k, value in enumerate(values):
            self.views[width][index + k] = value

    # ---- the shadow
    def note_read(self, cells: Array, warps: Array) -> None:
        """``warps``, of a shape that fits ``cells``, read them."""
        self._check_read(cells, warps)
        self.read_at[cells, warps] = self.machine.clocks.known[warps, warps]

    def _check_read(self, cells: Array, warps: Array) -> None:
        known = self.machine.clocks.known
        if not self.is_written[cells].all():
            cell = cells[~self.is_written[cells]].flat[0]
            self.machine.report(findings.UNWRITTEN, f"byte {int(cell) * self.granule} of shared memory")
        if self.landing[cells].any():
            self.machine.report(findings.SHARED_RACE, "reads what an asynchronous copy is still to write")
        self._report_unordered(self.written_at[cells] > known[warps, self.writer[cells]], cells, warps, "reads")

    def note_write(self, cells: Array, warps: Array, is_there: Array | bool = False) -> None:
        """``warps`` write the cells; where ``is_there``, with what they hold already.

        Warps that hold copies of a value all store it, in no order, which changes nothing.
        """
        if self.landing[cells].any():
            self.machine.report(findings.SHARED_RACE, "writes what an asynchronous copy is still to write")
        self.note_landing(cells, warps, is_there)
        known = self.machine.clocks.known
        self.is_written[cells] = True
        self.writer[cells] = warps
        self.written_at[cells] = known[warps, warps]

    def note_landing(self, cells: Array, warps: Array, is_there: Array | bool = False) -> None:
        """A write of these warps begins: nobody may still read the cells, or have written them without order."""
        known = self.machine.clocks.known
        if self.being_read[cells].any():
            self.machine.report(
                findings.SHARED_RACE, "writes what an unfinished matrix instruction reads, or an mbarrier"
            )
        unordered = (self.written_at[cells] > known[warps, self.writer[cells]]) & ~np.asarray(is_there)
        self._report_unordered(unordered, cells, warps, "writes")
        unordered = self.read_at[cells] > known[np.broadcast_to(warps, cells.shape)]
        if unordered.any():
            *where, reader = np.argwhere(unordered)[0]
            warp = int(np.broadcast_to(warps, cells.shape)[tuple(where)])
            who = "a product" if reader == self.machine.clocks.core else f"warp {int(reader)}"
            self.machine.report(findings.SHARED_RACE, f"writes what {who} reads, with nothing in between", warp)

    def _report_unordered(self, unordered: Array, cells: Array, warps: Array, does: str) -> None:
        if unordered.any():
            where = tuple(np.argwhere(unordered)[0])
            warp, other = int(np.broadcast_to(warps, cells.shape)[where]), int(self.writer[cells[where]])
            self.machine.report(
                findings.SHARED_RACE, f"{does} what warp {other} wrote, with no barrier in between", warp
            )

    # ---- asynchronous readers
    def begin_reading(self, cells: Array, warp: int) -> None:
        """A matrix instruction of ``warp`` reads the cells from now on, through the asynchronous proxy."""
        if not self.is_checked:
            return
        self.note_read(cells, np.int16(warp))
        self.being_read[cells] += 1
        self._check_fence(cells, warp)

    def note_product(self, cells: Array, warp: int, number: int) -> None:
        """The tensor core reads the cells for a product that ``warp`` issues; its end is known by its number."""
        self._check_read(cells, np.int16(warp))
        self.read_at[cells, self.machine.clocks.core] = number
        self._check_fence(cells, warp)

    def _check_fence(self, cells: Array, warp: int) -> None:
        if (self.written_at[cells] > self.machine.clocks.fenced(warp)[self.writer[cells]]).any():
            self.machine.report(findings.NO_PROXY_FENCE, "reads what was written with no fence.proxy.async since", warp)

    def end_reading(self, cells: Array, warp: int) -> None:
        """``warp`` knows that it is over."""
        if self.is_checked:
            self.being_read[cells] -= 1
            self.read_at[cells, warp] = self.machine.clocks.now(warp)

    def proxy_fence(self, a: slice | Array) -> None:
        """``fence.proxy.async``"""
        for warp in self.machine.whole_warps(a):
            self.machine.clocks.proxy_fence(warp)


def differ(index: Array, values: Array) -> bool:
    """Whether two values go to one place."""
    order = np.argsort(index, kind="stable")
    index, values = index[order], values[order]
    same = index[1:] == index[:-1]
    return bool(same.any() and (values[1:][same] != values[:-1][same]).any())
