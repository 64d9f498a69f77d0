"""``ldmatrix``, ``stmatrix`` and ``mma.sync``: matrices in the registers of a warp."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import layouts
from .formats import Array

if TYPE_CHECKING:
    from .machine import Machine


class Fragments:
    """Synchronous matrix instructions."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def load(self, a: slice | Array, addresses: Array, numbers: list[int], is_transposed: bool) -> None:
        """``ldmatrix``: every eight threads have the addresses of the rows of a tile of 8x8 halves."""
        m, shared = self.machine, self.machine.shared_memory
        warps = np.array(m.whole_warps(a))
        lanes = m.everywhere(a, addresses).reshape(-1, 32)
        for k, number in enumerate(numbers):
            rows = shared.offsets(lanes[:, 8 * k : 8 * k + 8], 16)
            if shared.is_checked:
                shared.note_read(shared.cells(rows, 16), warps[:, None, None])
            tiles = shared.views[2][rows[:, :, None] // 2 + np.arange(8)]
            m.registers[number][a] = layouts.tile_registers(
                tiles.transpose(0, 2, 1) if is_transposed else tiles
            ).reshape(-1)

    def store(self, a: slice | Array, addresses: Array, numbers: list[int], is_transposed: bool) -> None:
        """``stmatrix``, the inverse."""
        m, shared = self.machine, self.machine.shared_memory
        warps = np.repeat(m.whole_warps(a), 8)
        lanes = m.everywhere(a, addresses).reshape(-1, 32)
        for k, number in enumerate(numbers):
            rows = shared.offsets(lanes[:, 8 * k : 8 * k + 8].reshape(-1), 16)
            tiles = layouts.register_tiles(m.registers[number][a].reshape(-1, 32))
            elements = (tiles.transpose(0, 2, 1) if is_transposed else tiles).reshape(-1, 8)
            shared.write(warps, rows, 2, list(elements.T))

    def multiply(
        self, a: slice | Array, target: list[int], left: list[int], right: list[int], sums: list[int], kind: str
    ) -> None:
        """``mma.sync``: D = A B + C, summed exactly and rounded once."""
        m = self.machine
        m.whole_warps(a)
        product = layouts.left_matrix(m.gather(a, left), kind) @ layouts.right_matrix(m.gather(a, right), kind)
        m.scatter(a, target, layouts.sums_registers(product + layouts.sums_matrix(m.gather(a, sums))))
