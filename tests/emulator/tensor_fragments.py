"""How a warp holds the words of tensor memory that it loads or stores: ``tcgen05.ld`` and ``tcgen05.st``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .formats import Array


@dataclass(frozen=True, eq=False)
class Fragment:
    """A rectangle of words, ``[lane, column]``: the register that holds each of them, and the thread."""

    registers: Array
    threads: Array
    splits: int = 0
    """How many times the instruction's ``split`` it lies behind the address, in columns."""

    @property
    def lanes(self) -> int:
        """How many lanes of tensor memory it takes."""
        return len(self.registers)

    @property
    def columns(self) -> int:
        """How many columns."""
        return self.registers.shape[1]


LAYOUTS = ("32x32b", "16x32bx2", "16x128b")


@lru_cache
def fragments(layout: str, registers: int) -> list[Fragment]:
    """What an access of so many registers a thread consists of.

    - ``32x32b``: a lane for each thread;
    - ``16x32bx2``: sixteen lanes for the first sixteen threads, and the same ones, ``split`` columns further, for the
      others;
    - ``16x128b``: eight lanes of four columns, a word for each thread, and the next eight lanes in the next register;
      so for every four columns.
    """
    if layout == "32x32b":
        lane, column = np.mgrid[:32, :registers]
        return [Fragment(column, lane)]
    if layout == "16x32bx2":
        lane, column = np.mgrid[:16, :registers]
        return [Fragment(column, lane + 16 * half, splits=half) for half in (0, 1)]
    lane, column = np.mgrid[:16, : 2 * registers]
    return [Fragment(2 * (column // 4) + lane // 8, 4 * (lane % 8) + column % 4)]
