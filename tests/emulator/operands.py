"""The two descriptors of ``tcgen05.mma``: of the product, and of an operand in shared memory."""

from __future__ import annotations

from dataclasses import dataclass

from .formats import Array
from .layouts import start_addresses

ELEMENTS = {("f16", 0): "f16", ("f16", 1): "bf16", ("tf32", 2): "tf32"}
"""Type of the elements, by the kind of the instruction and what its descriptor says."""
WIDTHS = {"f16": 2, "bf16": 2, "tf32": 4}
SWIZZLES = {0: 16, 2: 128, 4: 64, 6: 32}
"""Bytes of a row of a swizzled layout, by the upper three bits of a descriptor; 16 is not swizzled."""
DEPTH_BYTES = 32
"""Every product takes so many bytes of a row of A and of a column of B."""


@dataclass(frozen=True)
class Shape:
    """What an instruction descriptor says: D has ``rows`` and ``columns``, the elements of A and B are ``kind``.

    An operand is across if neighbours in memory are neighbouring rows of A or columns of B, not neighbours in depth.
    """

    rows: int
    columns: int
    kind: str
    is_left_across: bool
    is_right_across: bool

    @property
    def width(self) -> int:
        """Bytes of an element."""
        return WIDTHS[self.kind]

    @property
    def depth(self) -> int:
        """How many elements are multiplied for each of D."""
        return DEPTH_BYTES // self.width

    @classmethod
    def described(cls, descriptor: int, kind: str) -> Shape:
        """Read the descriptor of an instruction of ``.kind::f16`` or ``.kind::tf32`` with float32 sums.

        Raises:
            NotImplementedError: it says something else.
        """

        def field(first: int, bits: int) -> int:
            return descriptor >> first & ((1 << bits) - 1)

        left, right, sums = field(7, 3), field(10, 3), field(4, 2)
        rows, columns = field(24, 5) << 4, field(17, 6) << 3
        others = field(0, 4) | field(6, 1) | field(13, 2) | field(23, 1) | field(29, 3)  # sparse, negated, reserved ...
        multiple = {64: 8, 128: 16}.get(rows)
        if others or sums != 1 or left != right or (kind, left) not in ELEMENTS:
            raise NotImplementedError(f"instruction descriptor {descriptor:#x} of kind {kind}")
        if multiple is None or columns % multiple or not 0 < columns <= 256:
            raise NotImplementedError(f"a product of {rows} x {columns}")
        return cls(rows, columns, ELEMENTS[kind, left], bool(field(15, 1)), bool(field(16, 1)))


def operand_addresses(descriptor: int, lines: int, shape: Shape, is_across: bool) -> Array:
    """Addresses in shared memory of the elements [line, depth] of an operand; lines are rows of A or columns of B.

    Raises:
        NotImplementedError: a descriptor of this kind has not been needed so far.
    """
    version, base, mode = descriptor >> 46 & 7, descriptor >> 49 & 0xFFF, descriptor >> 61
    if version != 1 or base or mode not in SWIZZLES:
        raise NotImplementedError(f"descriptor {descriptor:#018x} of an operand")
    start, leading, stride = ((descriptor >> bit & 0x3FFF) << 4 for bit in (0, 16, 32))
    return start_addresses(start, leading, stride, SWIZZLES[mode], lines, shape.depth, shape.width, is_across)
