"""Which thread holds which element of a matrix, and where in shared memory a matrix descriptor points.

A fragment is an array of registers [register, warp, lane]; a matrix has the warps first: [warp, row, column].
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .formats import Array, f32, halves, wide

LANE = np.arange(32)
GROUP, IN_GROUP = LANE >> 2, LANE & 3
"""Eight groups of four threads: a group holds a row (of A and D) or a column (of B)."""


def left_matrix(registers: Array, kind: str) -> Array:
    """A of ``m16n8k16`` (half types) or ``m16n8k8`` (TF32): four registers as matrices of 16 rows."""
    warps = registers.shape[1]
    per_register = 1 if kind == "tf32" else 2
    matrix = np.empty((warps, 16, 8 * per_register))
    for k in range(4):
        row, column = GROUP + 8 * (k & 1), per_register * (IN_GROUP + 4 * (k >> 1))
        for part, bits in enumerate([registers[k]] if kind == "tf32" else halves(registers[k])):
            matrix[:, row, column + part] = wide(bits, kind)
    return matrix


def right_matrix(registers: Array, kind: str) -> Array:
    """B of the same instructions: two registers as matrices of 8 columns."""
    warps = registers.shape[1]
    per_register = 1 if kind == "tf32" else 2
    matrix = np.empty((warps, 8 * per_register, 8))
    for k in range(2):
        row = per_register * (IN_GROUP + 4 * k)
        for part, bits in enumerate([registers[k]] if kind == "tf32" else halves(registers[k])):
            matrix[:, row + part, GROUP] = wide(bits, kind)
    return matrix


def sums_matrix(registers: Array) -> Array:
    """C and D, bits of float32: four registers for every eight columns, as matrices of 16 rows."""
    count, warps, _ = registers.shape
    parts = registers.view(f32).reshape(count // 4, 2, 2, warps, 8, 4)  # eighth of columns, row / 8, column & 1, ...
    return parts.transpose(3, 1, 4, 0, 5, 2).reshape(warps, 16, 2 * count)


def sums_registers(matrix: Array) -> Array:
    """The inverse of :func:`sums_matrix`, rounded to float32."""
    warps, _, columns = matrix.shape
    parts = matrix.astype(f32).reshape(warps, 2, 8, columns // 8, 4, 2)
    return parts.transpose(3, 1, 5, 0, 2, 4).reshape(columns // 2, warps, 32).view(np.uint32)


def tile_registers(tiles: Array) -> Array:
    """Tiles of 8x8 16-bit elements [warp, 8, 8] as the register of each thread [warp, lane]."""
    lower = tiles[:, GROUP, 2 * IN_GROUP].astype(np.uint32)
    return lower | tiles[:, GROUP, 2 * IN_GROUP + 1].astype(np.uint32) << np.uint32(16)


def register_tiles(words: Array) -> Array:
    """The inverse of :func:`tile_registers`."""
    tiles = np.empty((len(words), 8, 8), np.uint16)
    tiles[:, GROUP, 2 * IN_GROUP], tiles[:, GROUP, 2 * IN_GROUP + 1] = halves(words)
    return tiles


SWIZZLES = {0: 16, 1: 128, 2: 64, 3: 32}
"""Bytes of a row of a swizzled layout, by the upper two bits of a descriptor of sm_90; 16 is not swizzled."""


def descriptor_addresses(descriptor: int, lines: int, depth: int, width: int, is_transposed: bool) -> Array:
    """Addresses in shared memory of the elements [line, depth] of an operand of wgmma.

    Lines are the rows of A or the columns of B. A transposed operand has neighbouring lines next to each other in
    memory, others have neighbours in depth.
    """
    if descriptor >> 49 & 7:
        raise NotImplementedError("base offset of a matrix descriptor")
    swizzle = SWIZZLES[descriptor >> 62 & 3]
    start, leading, stride = ((descriptor >> bit & 0x3FFF) << 4 for bit in (0, 16, 32))
    return start_addresses(start, leading, stride, swizzle, lines, depth, width, is_transposed)


@lru_cache(maxsize=4096)
def start_addresses(
    start: int, leading: int, stride: int, swizzle: int, lines: int, depth: int, width: int, is_transposed: bool
) -> Array:
    """Like :func:`descriptor_addresses`, for what stands in a descriptor; ``swizzle`` in bytes."""
    line, k = np.arange(lines)[:, None], np.arange(depth)[None, :]
    if is_transposed and width != 2:
        raise NotImplementedError("transposed operand of 32 bits")
    byte = line * width if is_transposed else k * width
    if is_transposed and swizzle == 16:
        found = byte % 16 + byte // 16 * stride + k % 8 * 16 + k // 8 * leading
    elif is_transposed:
        found = byte % swizzle + byte // swizzle * leading + k % 8 * swizzle + k // 8 * stride
    elif swizzle == 16:
        found = line % 8 * 16 + line // 8 * stride + byte % 16 + byte // 16 * leading
    elif depth * width > swizzle:
        raise NotImplementedError("operand deeper than its swizzle")
    else:
        found = line % 8 * swizzle + line // 8 * stride + byte
    found = found + start
    found = found ^ ((found >> 7 & (swizzle // 16 - 1)) << 4)
    found.flags.writeable = False
    return found
