"""Tensor memory of Blackwell: 128 lanes of 512 words, and for each word who wrote and read it when.

Warp ``w`` reaches lanes ``32 * (w % 4)`` and the 31 that follow, its *quarter*. Arrays here have the shape
``[quarter, lane of the quarter, column]``, so that every access is a rectangle: a product of 64 rows takes 16 lanes of
each quarter, one of 128 rows takes all.

Stores and loads of a warp end at its ``tcgen05.wait``; only then can they be ordered before anything. The products have
a clock of their own, see ``tensor_core.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import findings
from .formats import Array

if TYPE_CHECKING:
    from .machine import Machine

QUARTERS, LANES, COLUMNS = 4, 32, 512
ALLOCATIONS = (32, 64, 128, 256, 512)
"""How many columns can be allocated."""
NOT_ENDED = np.iinfo(np.int32).max
"""Stands for the moment of an access that was not waited for."""


@dataclass(frozen=True)
class Area:
    """A rectangle of tensor memory."""

    quarters: slice
    lanes: slice
    columns: slice

    @property
    def index(self) -> tuple[slice, slice, slice]:
        return self.quarters, self.lanes, self.columns

    def place(self, where: Array) -> str:
        """The first word that a condition holds for."""
        quarter, lane, column = (int(x) for x in np.argwhere(where)[0])
        lane += LANES * (quarter + self.quarters.start) + self.lanes.start
        return f"lane {lane}, column {column + self.columns.start}"


class TensorMemory:
    """The words, and a shadow of them."""

    def __init__(self, machine: Machine) -> None:
        shape = (QUARTERS, LANES, COLUMNS)
        self.machine, self.known = machine, machine.clocks.known
        self.words = np.full(shape, 0xFFFFFFFF, np.uint32)  # NaN, whatever it is read as
        self.allocations: dict[int, int] = {}  # first column: how many
        self.is_allocated = np.zeros(COLUMNS, bool)
        self.is_written = np.zeros(shape, bool)
        self.writer = np.zeros(shape, np.int16)
        self.written_at = np.zeros(shape, np.int32)
        self.read_at = np.zeros((len(self.known), *shape), np.int32)

    # ---- allocation
    def allocate(self, count: int) -> int:
        """The address of so many columns: the last free ones, so that they begin at 0 only where they must."""
        if count not in ALLOCATIONS:
            self.machine.fail(findings.OUT_OF_BOUNDS, f"{count} columns of tensor memory cannot be allocated")
        for first in reversed(range(0, COLUMNS - count + 1, ALLOCATIONS[0])):
            if not self.is_allocated[first : first + count].any():
                self.is_allocated[first : first + count] = True
                self.allocations[first] = count
                return first
        self.machine.fail(findings.DEADLOCK, f"no {count} columns of tensor memory are left")
        raise AssertionError

    def deallocate(self, warp: int, address: int, count: int) -> None:
        """Give columns back, which nobody may be using."""
        if self.allocations.pop(address, None) != count:
            self.machine.fail(findings.OUT_OF_BOUNDS, f"gives back {count} columns at {address:#x}, never allocated")
        area = Area(slice(0, QUARTERS), slice(0, LANES), slice(address, address + count))
        self._check_writes(warp, area, "gives back")
        self._check_reads(warp, area, "gives back")
        self.is_allocated[area.columns] = False
        self.is_written[area.index] = False

    def at_exit(self) -> None:
        """Report columns that were not given back."""
        for first, count in self.allocations.items():
            self.machine.report(findings.NOT_GIVEN_BACK, f"{count} columns of tensor memory at {first}")

    def columns(self, address: int, count: int) -> slice:
        """The columns of an access."""
        first = address & 0xFFFF
        if first + count > COLUMNS or not self.is_allocated[first : first + count].all():
            self.machine.fail(findings.OUT_OF_BOUNDS, f"columns {first} to {first + count - 1} of tensor memory")
        return slice(first, first + count)

    # ---- stores and loads of warps
    def begin_store(self, warp: int, area: Area) -> None:
        """A warp writes from now on, until :meth:`end_store`."""
        self._check_writes(warp, area, "writes")
        self._check_reads(warp, area, "writes")
        self.is_written[area.index] = True
        self.writer[area.index] = warp
        self.written_at[area.index] = NOT_ENDED

    def end_store(self, warp: int, area: Area) -> None:
        """A store has ended."""
        self.written_at[area.index] = self.known[warp, warp]

    def begin_load(self, warp: int, area: Area) -> None:
        """A warp reads from now on, until :meth:`end_load`."""
        self._check_written(warp, area)
        self._check_writes(warp, area, "reads")
        self.read_at[warp][area.index] = NOT_ENDED

    def end_load(self, warp: int, area: Area) -> None:
        """A load has ended."""
        self.read_at[warp][area.index] = self.known[warp, warp]

    # ---- products
    def begin_product(
        self, number: int, warp: int, target: Area, adds: bool, left: Area | None, follows: Callable[[int], bool]
    ) -> None:
        """A product of ``warp`` reads ``left`` and writes ``target`` from now on.

        ``follows`` tells which products this one takes place after although nobody has seen their end.
        """
        core = self.machine.clocks.core
        if adds:
            self._check_written(warp, target)
        self._check_writes(warp, target, "a product writes", follows)
        self._check_reads(warp, target, "a product writes")
        if left is not None:
            self._check_written(warp, left)
            self._check_writes(warp, left, "a product reads")
            self.read_at[core][left.index] = number
        self.is_written[target.index] = True
        self.writer[target.index] = core
        self.written_at[target.index] = number

    # ---- checks
    def _check_written(self, warp: int, area: Area) -> None:
        missing = ~self.is_written[area.index]
        if missing.any():
            self.machine.report(findings.UNWRITTEN, f"{area.place(missing)} of tensor memory", warp)

    def _check_writes(
        self, warp: int, area: Area, does: str, follows: Callable[[int], bool] = lambda number: False
    ) -> None:
        """What was written before must be over, as far as ``warp`` knows."""
        writer, moment = self.writer[area.index], self.written_at[area.index]
        late = moment > self.known[warp][writer]
        if late.any():
            by_product = late & (writer == self.machine.clocks.core)
            late[np.isin(moment, [n for n in np.unique(moment[by_product]) if follows(int(n))]) & by_product] = False
            self._report(warp, area, late, f"{does} what {{}} writes", writer, moment)

    def _check_reads(self, warp: int, area: Area, does: str) -> None:
        """What was read before must be over, as far as ``warp`` knows."""
        for reader, read_at in enumerate(self.read_at):
            moment = read_at[area.index]
            late = moment > self.known[warp, reader]
            self._report(warp, area, late, f"{does} what {{}} reads", np.full(late.shape, reader), moment)

    def _report(self, warp: int, area: Area, late: Array, what: str, who: Array, moment: Array) -> None:
        if not late.any():
            return
        where = tuple(np.argwhere(late)[0])
        other = "a product" if who[where] == self.machine.clocks.core else f"warp {who[where]}"
        missing = "before its tcgen05.wait" if moment[where] == NOT_ENDED else "without order"
        self.machine.report(findings.TENSOR_RACE, f"{what.format(other)}, {missing}: {area.place(late)}", warp)
