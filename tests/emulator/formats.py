"""The formats of numbers: bits of bfloat16, float16 and TF32 from and to values, rounded as PTX says."""

from __future__ import annotations

import numpy as np
from numpy import float16 as f16
from numpy import float32 as f32
from numpy import float64 as f64
from numpy import int8 as s8
from numpy import int16 as s16
from numpy import int32 as s32
from numpy import int64 as s64
from numpy import uint8 as u8
from numpy import uint16 as u16
from numpy import uint32 as u32
from numpy import uint64 as u64

Array = np.ndarray
TYPES = {
    **{"b8": u8, "u8": u8, "s8": s8, "b16": u16, "u16": u16, "s16": s16, "f16": f16},
    **{"b32": u32, "u32": u32, "s32": s32, "f32": f32, "b64": u64, "u64": u64, "s64": s64, "f64": f64},
    "pred": np.bool_,
}
"""What the elements of a register are, read as a type of PTX."""

TYPE_NAMES = {"u8": u8, "u16": u16, "u32": u32, "u64": u64, "s8": s8, "s16": s16, "s32": s32, "s64": s64}
TYPE_NAMES |= {"f16": f16, "f32": f32, "f64": f64}
"""What generated code calls the types of numpy."""

UNSIGNED = {1: u8, 2: u16, 4: u32, 8: u64}
"""Bits, by the number of bytes."""

NAN_BF16 = u16(0x7FFF)
TF32_BITS = u32(0xFFFFE000)


def odd_f32(x: Array) -> Array:
    """float64 to float32, values between two of them to the one that is odd.

    Rounded once more, to fewer bits, the result is what rounding ``x`` itself would have given.
    """
    near = x.astype(f32)
    back = near.astype(f64)
    toward_zero = near.view(u32) - (np.abs(back) > np.abs(x)).astype(u32)
    return (toward_zero | (back != x).astype(u32)).view(f32)


def to_bf16(x: Array) -> Array:
    """Bits of float32 or float64 values as bfloat16, to nearest, ties to even."""
    x = np.asarray(x)
    if x.dtype == f64:
        x = odd_f32(x)
    bits = x.astype(f32).view(u32)
    rounded = ((bits.astype(u64) + u64(0x7FFF) + ((bits >> u32(16)) & u32(1))) >> u64(16)).astype(u16)
    return np.where(np.isnan(x), NAN_BF16, rounded)


def from_bf16(bits: Array) -> Array:
    """bfloat16 as float32."""
    return (np.asarray(bits).astype(u32) << u32(16)).view(f32)


def to_f16(x: Array) -> Array:
    """Bits of float32 or float64 values as float16, to nearest, ties to even."""
    return np.asarray(x).astype(f16).view(u16)


def from_f16(bits: Array) -> Array:
    """float16 as float32."""
    return np.asarray(bits).view(f16).astype(f32)


def lower(words: Array) -> Array:
    """The lower half of each."""
    return np.asarray(words).astype(u16)


def upper(words: Array) -> Array:
    """The upper half of each."""
    return (np.asarray(words) >> u32(16)).astype(u16)


def from_tf32(bits: Array) -> Array:
    """The value that a tensor core takes a 32-bit operand for: its last 13 bits do not count."""
    return (np.asarray(bits) & TF32_BITS).view(f32)


def to_tf32(x: Array) -> Array:
    """float32 to TF32, to nearest, ties away from zero."""
    bits = np.asarray(x, f32).view(u32)
    rounded = (bits + u32(0x1000)) & TF32_BITS
    return np.where(np.isfinite(x), rounded, bits)


def halves(words: Array) -> tuple[Array, Array]:
    """The lower and the upper 16 bits of each word."""
    words = np.asarray(words, u32)
    return (words & u32(0xFFFF)).astype(u16), (words >> u32(16)).astype(u16)


def joined(lower: Array, upper: Array) -> Array:
    """Words of two 16-bit halves."""
    return lower.astype(u32) | (upper.astype(u32) << u32(16))


WIDE = {"f16": from_f16, "bf16": from_bf16, "tf32": from_tf32}
"""Functions of bits to float32 values."""
NARROW = {"f16": to_f16, "bf16": to_bf16, "tf32": to_tf32}
"""Functions of values to bits."""


def wide(bits: Array, kind: str) -> Array:
    """Elements of a matrix as float64."""
    return WIDE[kind](bits).astype(f64)
