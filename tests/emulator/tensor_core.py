"""``tcgen05``: products that one thread issues, and the loads and stores of tensor memory.

Products are numbered. The tensor core has a clock of its own, whose moment ``n`` is the end of product ``n``: a warp
knows of it once an mbarrier has told it, or once it has met a warp that knows. PTX would also have
``tcgen05.fence`` around the barriers in between; Triton emits none, and neither is one asked for here.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import findings
from .formats import Array, halves, wide
from .operands import DEPTH_BYTES, Shape, operand_addresses
from .tensor_fragments import Fragment, fragments
from .tensor_memory import LANES, QUARTERS, Area

if TYPE_CHECKING:
    from .machine import Machine
    from .ptx import Instruction

LEFT_COLUMNS = DEPTH_BYTES // 4
"""Of a left operand in tensor memory."""


@dataclass(eq=False)
class Product:
    """``target = left @ right``, with ``target`` added or not."""

    number: int
    warp: int
    shape: Shape
    target: Area
    left: Area | Array
    """In tensor memory, or offsets in shared memory, [row, depth]."""
    right: Array
    """Offsets in shared memory, [column, depth]."""
    adds: bool
    instruction: Instruction

    def follows(self, other: Product) -> bool:
        """Whether both are of one pipeline, so that they take place in the order of their issue."""
        return (self.shape, self.target) == (other.shape, other.target)


@dataclass(eq=False)
class Access:
    """A load or store of one warp."""

    areas: list[tuple[Area, Fragment]]
    """Rectangles, and who holds their words."""
    instruction: Instruction


@dataclass(eq=False)
class Store(Access):
    """It has its values, [register, lane], from its issue."""

    values: Array


class TensorCore:
    """What has been issued and has not ended."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.is_relinquished = False
        self.issuer: int | None = None
        self.products: list[Product] = []
        """All of them; product ``n`` is at ``n - 1``."""
        self.ended = 0
        self.commits: deque[tuple[int, int]] = deque()
        """Address of an mbarrier, and the last product that it waits for."""
        self.loads: list[list[Access]] = [[] for _ in range(machine.warps)]
        self.stores: list[list[Store]] = [[] for _ in range(machine.warps)]

    # ---- allocation
    def allocate(self, a: slice | Array, addresses: Array, count: int) -> None:
        """``tcgen05.alloc [address], count``"""
        m = self.machine
        for warp, address in self._each_warp(a, addresses):
            if self.is_relinquished:
                m.fail(findings.DEADLOCK, "tcgen05.alloc after relinquish_alloc_permit")
            found = m.tensor_memory.allocate(int(count))
            offsets = m.shared_memory.offsets(np.array([address]), 4)
            m.shared_memory.write(np.array([warp]), offsets, 4, [np.array([found])])

    def deallocate(self, a: slice | Array, addresses: Array, count: int) -> None:
        """``tcgen05.dealloc address, count``"""
        for warp, address in self._each_warp(a, addresses):
            self.machine.tensor_memory.deallocate(warp, address, int(count))

    def relinquish(self, a: slice | Array) -> None:
        """``tcgen05.relinquish_alloc_permit``"""
        self.machine.whole_warps(a)
        self.is_relinquished = True

    def _each_warp(self, a: slice | Array, addresses: Array) -> list[tuple[int, int]]:
        """The warps, and the address that the threads of each agree on."""
        warps = self.machine.whole_warps(a)
        own = self.machine.everywhere(a, addresses).reshape(len(warps), 32)
        if (own != own[:, :1]).any():
            self.machine.fail(findings.DIVERGENCE, "the threads of a warp name different addresses")
        return list(zip(warps, own[:, 0].tolist()))

    # ---- products
    def issue(
        self,
        a: slice | Array,
        *,
        target: Array,
        left: Array,
        is_left_shared: bool,
        right: Array,
        shape: Array,
        adds: Array,
        kind: str,
    ) -> None:
        """``tcgen05.mma``; each thread issues one."""
        m = self.machine
        for values in zip(m.ids[a], *(m.everywhere(a, x) for x in (target, left, right, shape, adds))):
            thread, target_at, left_at, right_at, description, is_added = (int(value) for value in values)
            self._check_issuer(thread)
            described = Shape.described(description, kind)
            self._issue(thread >> 5, target_at, left_at, is_left_shared, right_at, described, bool(is_added))

    def _issue(
        self, warp: int, target_at: int, left_at: int, is_left_shared: bool, right_at: int, shape: Shape, adds: bool
    ) -> None:
        m = self.machine
        target = self._rows(target_at, shape.rows, shape.columns)
        left: Area | Array
        if is_left_shared:
            left = self._operand(left_at, shape.rows, shape, shape.is_left_across)
        else:
            left = self._rows(left_at, shape.rows, LEFT_COLUMNS)
            if left.lanes != target.lanes:
                m.fail(findings.OUT_OF_BOUNDS, "the left operand lies on other lanes than the accumulator")
        right = self._operand(right_at, shape.columns, shape, shape.is_right_across)
        product = Product(len(self.products) + 1, warp, shape, target, left, right, adds, m.at)
        if m.mode.checks:
            self._check_operands(product)
        self.products.append(product)
        if m.mode.products == "early":
            self._multiply(product)

    def _operand(self, descriptor: int, lines: int, shape: Shape, is_across: bool) -> Array:
        addresses = operand_addresses(descriptor, lines, shape, is_across)
        return self.machine.shared_memory.offsets(addresses, shape.width)

    def _check_operands(self, product: Product) -> None:
        m = self.machine
        for offsets in (product.right, product.left):
            if not isinstance(offsets, Area):
                cells = np.unique(offsets // m.shared_memory.granule)
                m.shared_memory.note_product(cells, product.warp, product.number)
        m.tensor_memory.begin_product(
            product.number,
            product.warp,
            product.target,
            product.adds,
            product.left if isinstance(product.left, Area) else None,
            follows=lambda number: product.follows(self.products[number - 1]),
        )

    def _check_issuer(self, thread: int) -> None:
        if self.issuer not in (None, thread):
            raise NotImplementedError(f"products of several threads: {self.machine.at}")
        self.issuer = thread

    def _rows(self, address: int, rows: int, columns: int) -> Area:
        """Where a matrix of 64 or 128 rows lies: 64 take half of the lanes of each quarter."""
        m, first = self.machine, address >> 16
        height = rows // QUARTERS
        if first not in range(0, LANES, height):
            m.fail(findings.OUT_OF_BOUNDS, f"a matrix of {rows} rows at lane {first} of tensor memory")
        return Area(slice(0, QUARTERS), slice(first, first + height), m.tensor_memory.columns(address, columns))

    def _multiply(self, product: Product) -> None:
        m, shape = self.machine, product.shape
        if isinstance(product.left, Area):
            words = m.tensor_memory.words[product.left.index].reshape(shape.rows, LEFT_COLUMNS)
            elements = words if shape.kind == "tf32" else np.stack(halves(words), 2).reshape(shape.rows, shape.depth)
            left = wide(np.ascontiguousarray(elements), shape.kind)
        else:
            left = self._matrix(product.left, shape)
        result = left @ self._matrix(product.right, shape).T
        target = m.tensor_memory.words.view(np.float32)[product.target.index]
        if product.adds:
            result = result + target.reshape(result.shape)
        target[...] = result.astype(np.float32).reshape(target.shape)

    def _matrix(self, offsets: Array, shape: Shape) -> Array:
        return wide(self.machine.shared_memory.views[shape.width][offsets // shape.width], shape.kind)

    def commit(self, a: slice | Array, addresses: Array) -> None:
        """``tcgen05.commit``: the mbarrier learns of the end of everything that this thread has issued."""
        m = self.machine
        for thread, address in zip(m.ids[a].tolist(), m.everywhere(a, addresses).tolist()):
            if self.products:
                self._check_issuer(thread)
            m.mbarriers.expect_signal(thread >> 5, address, len(self.products))
            self.commits.append((address, len(self.products)))
            if m.mode.products == "early":
                self.end_next()

    def end_next(self) -> bool:
        """End the products of the oldest commit; whether there was one."""
        if not self.commits:
            return False
        m, (address, last) = self.machine, self.commits.popleft()
        if m.mode.products != "early":
            for product in self.products[self.ended : last]:
                self._multiply(product)
        self.ended = last
        known = np.zeros_like(m.clocks.known[0])
        known[m.clocks.core] = last
        m.mbarriers.signal(address, known)
        return True

    # ---- loads and stores
    def load(self, a: slice | Array, addresses: Array, numbers: list[int], layout: str, split: int) -> None:
        """``tcgen05.ld``

        Registers may be used at once: PTX has true dependencies respected, and Triton's code relies on it. What must
        wait for the end of the load is whoever writes the same tensor memory.
        """
        m = self.machine
        for warp, areas in self._areas(a, addresses, len(numbers), layout, split):
            values = np.empty((len(numbers), 32), np.uint32)
            for area, held in areas:
                if m.mode.checks:
                    m.tensor_memory.begin_load(warp, area)
                values[held.registers, held.threads] = m.tensor_memory.words[area.index][0]
            m.scatter(m.lanes(warp), numbers, values)
            self.loads[warp].append(Access(areas, m.at))

    def store(self, a: slice | Array, addresses: Array, numbers: list[int], layout: str, split: int) -> None:
        """``tcgen05.st``"""
        m = self.machine
        for warp, areas in self._areas(a, addresses, len(numbers), layout, split):
            access = Store(areas, m.at, m.gather(m.lanes(warp), numbers)[:, 0])
            self.stores[warp].append(access)
            if m.mode.checks:
                for area, _ in areas:
                    m.tensor_memory.begin_store(warp, area)
            if m.mode.products == "early":
                self._write(access)

    def wait_loads(self, a: slice | Array) -> None:
        """``tcgen05.wait::ld``"""
        m = self.machine
        for warp in m.whole_warps(a):
            ended, self.loads[warp] = self.loads[warp], []
            if m.mode.checks:
                for area in (area for access in ended for area, _ in access.areas):
                    m.tensor_memory.end_load(warp, area)

    def wait_stores(self, a: slice | Array) -> None:
        """``tcgen05.wait::st``"""
        m = self.machine
        for warp in m.whole_warps(a):
            ended, self.stores[warp] = self.stores[warp], []
            for access in ended:
                if m.mode.products != "early":
                    self._write(access)
            if m.mode.checks:
                for area in (area for access in ended for area, _ in access.areas):
                    m.tensor_memory.end_store(warp, area)

    def _write(self, access: Store) -> None:
        for area, held in access.areas:
            self.machine.tensor_memory.words[area.index] = access.values[held.registers, held.threads]

    def _areas(
        self, a: slice | Array, addresses: Array, count: int, layout: str, split: int
    ) -> list[tuple[int, list[tuple[Area, Fragment]]]]:
        """The rectangles of each warp, which may touch the lanes of its quarter only."""
        m, held = self.machine, fragments(layout, count)
        height = held[0].lanes
        found = []
        for warp, address in self._each_warp(a, addresses):
            quarter, first = divmod(address >> 16, LANES)
            if quarter != warp % QUARTERS or first % height:
                m.fail(findings.OUT_OF_BOUNDS, f"warp {warp} at lane {address >> 16} of tensor memory")
            quarters, lanes = slice(quarter, quarter + 1), slice(first, first + height)
            columns = [m.tensor_memory.columns(address + part.splits * split, part.columns) for part in held]
            found.append((warp, [(Area(quarters, lanes, c), part) for c, part in zip(columns, held)]))
        return found

    # ---- the end
    def at_exit(self) -> None:
        """Report what was not waited for."""
        m = self.machine
        for product in self.products[int(m.clocks.known[: m.warps, m.clocks.core].max()) :]:
            m.report(findings.IN_FLIGHT_AT_EXIT, "a product", product.warp, product.instruction)
        for warp in range(m.warps):
            for access in [*self.loads[warp], *self.stores[warp]]:
                m.report(findings.IN_FLIGHT_AT_EXIT, "an access of tensor memory", warp, access.instruction)
