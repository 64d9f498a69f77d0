"""``wgmma``: products of four warps that take their time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import findings, layouts
from .formats import Array, wide
from .ptx import Instruction

if TYPE_CHECKING:
    from .machine import Machine


@dataclass(eq=False)
class Product:
    """The sixteen rows of one warp: D = A B, or D += A B."""

    warp: int
    target: list[int]
    registers: list[int] | None
    """Of A; None if it comes from shared memory."""
    taken: Array | None
    """What they held at the issue."""
    left: Array | None
    """Offsets of A in shared memory, [row, depth]."""
    right: Array
    """Offsets of B, [column, depth]."""
    adds: bool
    kind: str
    instruction: Instruction

    @property
    def width(self) -> int:
        """Bytes of an element."""
        return 4 if self.kind == "tf32" else 2


class Products:
    """What each warp has issued, committed, and not yet waited for."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.open: list[list[Product]] = [[] for _ in range(machine.warps)]
        self.groups: list[deque[list[Product]]] = [deque() for _ in range(machine.warps)]

    def fence(self, a: slice | Array) -> None:
        """``wgmma.fence``: whether it stands where it has to is looked into by ``wgmma_fences``."""
        self.machine.whole_warps(a)

    def issue(
        self,
        a: slice | Array,
        *,
        target: list[int],
        right: int,
        adds: Array,
        columns: int,
        kind: str,
        transposed: tuple[bool, bool],
        registers: list[int] | None = None,
        descriptor: int | None = None,
    ) -> None:
        """``wgmma.mma_async``"""
        m = self.machine
        for n, warp in enumerate(m.whole_warps(a)):
            lanes = m.lanes(warp)
            product = Product(
                warp,
                target,
                registers,
                None if registers is None else m.gather(lanes, registers),
                None if descriptor is None else self._offsets(lanes, descriptor, 64, kind, transposed[0])[warp % 4],
                self._offsets(lanes, right, columns, kind, transposed[1]).reshape(columns, -1),
                bool(self._agreed(adds[32 * n : 32 * n + 32], "scale-d")),
                kind,
                m.at,
            )
            for offsets in product.left, product.right:
                if offsets is not None:
                    m.shared_memory.begin_reading(self._cells(offsets, product.width), warp)
            m.in_flight.lock(warp, frozenset(target), frozenset(registers or ()), m.at)
            if m.mode.products == "early":
                self._multiply(product)
            self.open[warp].append(product)

    def _offsets(self, lanes: Array, number: int, lines: int, kind: str, is_transposed: bool) -> Array:
        """Where an operand lies: [sixteen lines, line, depth]."""
        width, depth = (4, 8) if kind == "tf32" else (2, 16)
        descriptor = int(self._agreed(self.machine.registers[number][lanes], "a descriptor"))
        addresses = layouts.descriptor_addresses(descriptor, lines, depth, width, is_transposed)
        offsets = self.machine.shared_memory.offsets(addresses, width)
        return offsets.reshape(-1, 16, depth) if lines % 16 == 0 else offsets.reshape(1, lines, depth)

    def _agreed(self, values: Array, what: str) -> object:
        if (values != values[0]).any():
            self.machine.fail(findings.DIVERGENCE, f"{what} differs between the threads of a warp")
        return values[0]

    def _cells(self, offsets: Array, width: int) -> Array:
        return np.unique(offsets // self.machine.shared_memory.granule)

    def _multiply(self, product: Product) -> None:
        m, kind = self.machine, product.kind
        lanes, memory = m.lanes(product.warp), m.shared_memory.views[product.width]
        right = wide(memory[product.right // product.width], kind)
        if product.left is not None:
            left = wide(memory[product.left // product.width], kind)
        else:
            registers = m.gather(lanes, product.registers) if m.mode.products == "latest" else product.taken
            left = layouts.left_matrix(registers, kind)[0]
        result = left @ right.T
        if product.adds:
            result = result + layouts.sums_matrix(m.gather(lanes, product.target))[0]
        m.scatter(lanes, product.target, layouts.sums_registers(result[None]))

    def commit(self, a: slice | Array) -> None:
        """``wgmma.commit_group``"""
        for warp in self.machine.whole_warps(a):
            self.groups[warp].append(self.open[warp])
            self.open[warp] = []

    def wait(self, a: slice | Array, count: int) -> None:
        """``wgmma.wait_group count``: all but the latest ``count`` groups have ended afterwards."""
        m = self.machine
        for warp in m.whole_warps(a):
            while len(self.groups[warp]) > count:
                for product in self.groups[warp].popleft():
                    if m.mode.products != "early":
                        self._multiply(product)
                    m.in_flight.unlock(warp, product.instruction)
                    for offsets in product.left, product.right:
                        if offsets is not None:
                            m.shared_memory.end_reading(self._cells(offsets, product.width), warp)

    def at_exit(self) -> None:
        """Report products that were not waited for."""
        for warp in range(self.machine.warps):
            for product in [product for group in (*self.groups[warp], self.open[warp]) for product in group]:
                self.machine.report(findings.IN_FLIGHT_AT_EXIT, "a product", warp, product.instruction)
