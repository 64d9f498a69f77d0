"""``bar.sync``: warps wait for each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import findings
from .formats import Array

if TYPE_CHECKING:
    from .machine import Machine


class Barriers:
    """Who waits at which barrier."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.waiting: dict[int, tuple[int, int | None]] = {}
        """Warp: number of the barrier, and of the threads that it is for; None for all."""

    def arrive(self, a: slice | Array, number: int, threads: int | None) -> None:
        """``bar.sync number, threads``"""
        for warp in self.machine.whole_warps(a):
            self.waiting[warp] = number, threads

    def release(self) -> bool:
        """Let those go whose barrier is complete; whether there are any."""
        for number in sorted({number for number, _ in self.waiting.values()}):
            warps = [warp for warp, (at, _) in self.waiting.items() if at == number]
            counts = {self.waiting[warp][1] for warp in warps}
            expected = self.machine.threads if counts == {None} else counts.pop()
            if len(counts) > 1 or expected is None:
                self.machine.fail(findings.DEADLOCK, f"warps expect different numbers of threads at barrier {number}")
            if 32 * len(warps) == expected:
                for warp in warps:
                    del self.waiting[warp]
                self.machine.clocks.meet(warps)
                return True
        return False
