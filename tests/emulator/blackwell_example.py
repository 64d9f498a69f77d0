"""A small kernel of tcgen05, written by hand: two products whose results the tests know, each line there for a reason.

The first takes both operands from shared memory, the second its left one from tensor memory, and adds. What the host
lays out as shared memory is copied there byte by byte, so that the layouts under test are made by other code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .findings import Findings
from .formats import NARROW, WIDE, joined
from .handwritten import execute
from .machine import Mode
from .shared_memory import BASE

THREADS, COLUMNS = 128, 16
LEFT, RIGHT, MBARRIER, ADDRESS = 0, 16384, 32768, 32784
"""Offsets in shared memory: of the operands, of an mbarrier, and of where tcgen05.alloc writes."""
SHARED_BYTES = 32800

TEXT = """
    add.s32 %r3, %r2, MBARRIER_AT;
    add.s32 %r4, %r2, ADDRESS_AT;
    shr.u32 %r6, %r0, 5;
    setp.eq.s32 %p1, %r6, 0;
    elect.sync %r7|%p2, -1;
    and.pred %p3, %p1, %p2;

    mov.b32 %r8, 0;
copy_loop:
    mad.lo.s32 %r9, %r8, 128, %r0;
    shl.b32 %r9, %r9, 4;
    mad.wide.u32 %rd5, %r9, 1, %rd0;
    ld.global.v4.b32 {%r10, %r11, %r12, %r13}, [%rd5];
    add.s32 %r14, %r2, %r9;
    st.shared.v4.b32 [%r14], {%r10, %r11, %r12, %r13};
    add.s32 %r8, %r8, 1;
    setp.lt.s32 %p4, %r8, 16;
    @%p4 bra copy_loop;
    fence.proxy.async.shared::cta;

    @%p1 tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r4], 32;
    @%p3 mbarrier.init.shared::cta.b64 [%r3], 1;
    bar.sync 0;
    ld.shared.b32 %r5, [%r4];
    @%p1 tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;

    mov.b64 %rd6, LEFT_DESCRIPTOR;
    mov.b64 %rd7, RIGHT_DESCRIPTOR;
    mov.b32 %r15, SHAPE;
    mov.pred %p5, 0;
    @%p3 tcgen05.mma.cta_group::1.kind::KIND [%r5 + 0], %rd6, %rd7, %r15, %p5;
    @%p3 tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%r3];
    mov.b32 %r16, 0;
{
    .reg .pred complete;
    waitLoop:
    mbarrier.try_wait.parity.shared::cta.b64 complete, [%r3], %r16;
    @!complete bra.uni waitLoop;
}

    mad.wide.u32 %rd9, %r0, 32, %rd1;
    ld.global.v4.b32 {%r20, %r21, %r22, %r23}, [%rd9];
    ld.global.v4.b32 {%r24, %r25, %r26, %r27}, [%rd9+16];
    shl.b32 %r18, %r6, 21;
    add.s32 %r18, %r18, %r5;
    STORE_LEFT
    tcgen05.wait::st.sync.aligned;
    bar.sync 1;
    mov.b32 %r29, MADE_SHAPE;
    mov.pred %p6, -1;
    @%p3 tcgen05.mma.cta_group::1.kind::KIND [%r5 + 0], [%r5 + 16], %rd7, %r29, %p6;
    @%p3 tcgen05.commit.cta_group::1.mbarrier::arrive::one.b64 [%r3];
    mov.b32 %r19, 1;
{
    .reg .pred complete;
    waitLoop:
    mbarrier.try_wait.parity.shared.b64 complete, [%r3], %r19;
    @!complete bra.uni waitLoop;
}

    LOAD_SUMS
    tcgen05.wait::ld.sync.aligned;
    mad.wide.u32 %rd11, %r0, 64, %rd2;
    st.global.v4.b32 [%rd11], {%r30, %r31, %r32, %r33};
    st.global.v4.b32 [%rd11+16], {%r34, %r35, %r36, %r37};
    SECOND_HALF
    bar.sync 2;
    @%p3 mbarrier.inval.shared::cta.b64 [%r3];
    @%p1 tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r5, 32;
"""
"""The tensors are what becomes shared memory, the left operand of the second product, and the result."""
STORE = {
    128: "tcgen05.st.sync.aligned.32x32b.x8.b32 [%r18 + 16], {%r20, %r21, %r22, %r23, %r24, %r25, %r26, %r27};",
    64: "tcgen05.st.sync.aligned.16x32bx2.x4.b32 [%r18 + 16], 4, {%r20, %r21, %r22, %r23};",
}
LOAD = {
    128: "tcgen05.ld.sync.aligned.32x32b.x16.b32 {%r30, %r31, %r32, %r33, %r34, %r35, %r36, %r37, "
    "%r40, %r41, %r42, %r43, %r44, %r45, %r46, %r47}, [%r18 + 0];",
    64: "tcgen05.ld.sync.aligned.16x32bx2.x8.b32 {%r30, %r31, %r32, %r33, %r34, %r35, %r36, %r37}, [%r18 + 0], 8;",
}
SECOND_HALF = """
    st.global.v4.b32 [%rd11+32], {%r40, %r41, %r42, %r43};
    st.global.v4.b32 [%rd11+48], {%r44, %r45, %r46, %r47};
"""
MODES = {16: 0, 128: 2, 64: 4, 32: 6}
"""Of a descriptor, by the bytes of a row of the layout; 16 is not swizzled."""
KINDS = {"f16": (0, "f16"), "bf16": (1, "f16"), "tf32": (2, "tf32")}
"""Type in the instruction descriptor, and kind of the instruction."""


@dataclass(frozen=True)
class Layout:
    """How an operand lies in shared memory; it is across if its lines, not its depth, run along a row."""

    swizzle: int = 128
    is_across: bool = False
    leading: int = 2048
    stride: int = 1024

    def place(self, line: int, k: int, width: int) -> int:
        """The offset of an element, as the manual draws it: the row decides the order of its 16-byte pieces."""
        along, row = (line, k) if self.is_across else (k, line)
        block, within = divmod(along * width, self.swizzle)
        eighth, row = divmod(row, 8)
        if self.is_across and self.swizzle == 16:
            start = block * self.stride + eighth * self.leading
        else:
            start = block * self.leading + eighth * self.stride
        piece, byte = divmod(within, 16)
        piece ^= {16: 0, 32: row // 4, 64: row // 2, 128: row}[self.swizzle]
        return start + row * self.swizzle + piece * 16 + byte

    def descriptor(self, offset: int) -> int:
        """For an operand at this offset."""
        fields = (BASE + offset) >> 4 | (self.leading >> 4) << 16 | (self.stride >> 4) << 32 | 1 << 46
        return fields | MODES[self.swizzle] << 61


@dataclass(frozen=True)
class Example:
    """The kernel with products of so many rows, elements of this kind, and operands that lie so."""

    rows: int = 128
    kind: str = "bf16"
    left: Layout = Layout()
    right: Layout = Layout(64, stride=512)

    @property
    def width(self) -> int:
        return 4 if self.kind == "tf32" else 2

    @property
    def depth(self) -> int:
        return 32 // self.width

    def text(self) -> str:
        """The body of the kernel."""
        number, kind = KINDS[self.kind]
        shape = (
            1 << 4 | number << 7 | number << 10 | self.right.is_across << 16 | COLUMNS >> 3 << 17 | self.rows >> 4 << 24
        )
        values = {
            "MBARRIER_AT": MBARRIER,
            "ADDRESS_AT": ADDRESS,
            "LEFT_DESCRIPTOR": self.left.descriptor(LEFT),
            "RIGHT_DESCRIPTOR": self.right.descriptor(RIGHT),
            "MADE_SHAPE": shape,
            "SHAPE": shape | self.left.is_across << 15,
            "KIND": kind,
            "STORE_LEFT": STORE[self.rows],
            "LOAD_SUMS": LOAD[self.rows],
            "SECOND_HALF": SECOND_HALF if self.rows == THREADS else "",
        }
        text = TEXT
        for name, value in values.items():
            text = text.replace(name, str(value))
        return text

    def run(self, text: str, mode: Mode) -> tuple[np.ndarray, np.ndarray, Findings]:
        """The result, what it should be, and what was found."""
        random = np.random.default_rng(0)
        left, other = (self._drawn(random, self.rows) for _ in range(2))
        right = self._drawn(random, COLUMNS)
        image = np.zeros(32768, np.uint8)
        for bits, layout, start in ((left, self.left, LEFT), (right, self.right, RIGHT)):
            for (line, k), element in np.ndenumerate(bits):
                at = start + layout.place(line, k, self.width)
                image[at : at + self.width] = np.frombuffer(element.tobytes(), np.uint8)
        out = torch.full((THREADS, COLUMNS), torch.nan)
        tensors = torch.from_numpy(image), torch.from_numpy(self._registers(other).view(np.int32)), out
        found = execute(text, *tensors, threads=THREADS, shared=SHARED_BYTES, mode=mode)
        left, other, right = (WIDE[self.kind](bits).astype(np.float64) for bits in (left, other, right))
        return self._matrix(out.numpy()), (left + other) @ right.T, found

    def _drawn(self, random: np.random.Generator, lines: int) -> np.ndarray:
        return NARROW[self.kind](random.standard_normal((lines, self.depth)).astype(np.float32))

    def _registers(self, matrix: np.ndarray) -> np.ndarray:
        """Eight words for each thread: those of its row, or (64 rows) of the first or second half of it."""
        words = matrix if self.kind == "tf32" else joined(matrix[:, 0::2], matrix[:, 1::2])
        if self.rows == THREADS:
            return np.ascontiguousarray(words)
        result = np.zeros((THREADS, 8), np.uint32)
        for thread in range(THREADS):
            row, half = row_and_half(thread)
            result[thread, :4] = words[row, 4 * half : 4 * half + 4]
        return result

    def _matrix(self, out: np.ndarray) -> np.ndarray:
        """The result from what each thread wrote."""
        if self.rows == THREADS:
            return out
        result = np.empty((self.rows, COLUMNS), np.float32)
        for thread in range(THREADS):
            row, half = row_and_half(thread)
            result[row, 8 * half : 8 * half + 8] = out[thread, :8]
        return result


def row_and_half(thread: int) -> tuple[int, int]:
    """Of a matrix of 64 rows: each warp holds sixteen, the upper half of its threads the right halves of the rows."""
    warp, lane = divmod(thread, 32)
    half, row = divmod(lane, 16)
    return 16 * warp + row, half
