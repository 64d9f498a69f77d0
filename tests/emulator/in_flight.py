"""Registers of asynchronous instructions, which nobody may touch before they are waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import findings
from .formats import Array
from .ptx import Instruction

if TYPE_CHECKING:
    from .machine import Machine
    from .translation import Registers


class InFlight:
    """Which registers of which warps are being written or read; true if there are any."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.locks: list[tuple[int, frozenset[int], frozenset[int], Instruction]] = []
        """Warp, registers being written, registers being read, instruction."""
        self.written: frozenset[int] = frozenset()
        self.read: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.locks)

    def lock(self, warp: int, writes: frozenset[int], reads: frozenset[int], instruction: Instruction) -> None:
        """From now on ``instruction`` of ``warp`` may write and read these."""
        self.locks.append((warp, writes, reads, instruction))
        self.written |= writes
        self.read |= reads

    def unlock(self, warp: int, instruction: Instruction) -> None:
        """The oldest of this warp and instruction is over."""
        at = next(n for n, (w, _, _, i) in enumerate(self.locks) if w == warp and i is instruction)
        del self.locks[at]
        self.written = frozenset().union(*(writes for _, writes, _, _ in self.locks))
        self.read = frozenset().union(*(reads for _, _, reads, _ in self.locks))

    def check(self, a: slice | Array, touched: Registers) -> None:
        """Report what an instruction is about to touch: nobody may write any of them, or read those being written."""
        written = self.written
        if (
            written.isdisjoint(touched.reads)
            and written.isdisjoint(touched.writes)
            and self.read.isdisjoint(touched.writes)
        ):
            return
        active = set(self.machine.warp_of(a).tolist())
        for warp, writes, reads, instruction in self.locks:
            if warp not in active:
                continue
            for does, registers in (
                ("writes", touched.writes & (writes | reads)),
                ("reads", touched.reads & writes),
            ):
                if registers:
                    names = ", ".join(sorted(self.machine.program.kernel.registers[n].name for n in registers))
                    self.machine.report(
                        findings.REGISTER_HAZARD, f"{does} {names} before the wait for {instruction}", warp
                    )
