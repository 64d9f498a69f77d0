"""What the arithmetic instructions compute, on arrays with an element a thread.

Names are those of the instructions; generated code calls these functions (see ``translation.py``).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .formats import NARROW, WIDE, Array, f32, f64, from_bf16, from_f16, joined, lower, s64, u16, u32, u64, upper

SMALLEST_NORMAL = f32(2.0**-126)


# ---- floating point
def odd_sum(x: Array, y: Array) -> Array:
    """``x + y`` in float64, inexact sums to the neighbour that is odd, so that rounding to fewer bits is right."""
    total = x + y
    rest = total - x
    error = (x - (total - rest)) + (y - rest)
    bits = np.atleast_1d(total).view(s64)
    is_even = (bits & 1) == 0
    # Away from zero where the error has the sign of the sum: one step in the bits either way.
    step = np.where((error > 0) == (total > 0), 1, -1)
    odd = (bits + np.where(is_even & (error != 0) & np.isfinite(total), step, 0)).view(f64)
    return odd.reshape(np.shape(total))


def fma(a: Array, b: Array, c: Array) -> Array:
    """``a * b + c`` of float32, rounded once. The product is exact in float64; the sum may need :func:`odd_sum`."""
    product = np.multiply(a, b, dtype=f64)
    total = np.asarray(product + c)
    result = total.astype(f32)
    # Rounded twice: it matters where the first rounding lands in the middle between two float32 numbers, ...
    doubtful = (total.view(u64) & u64(0x1FFFFFFF)) == u64(0x10000000)
    # ... or where float32 has fewer bits than usual.
    doubtful |= np.abs(result) < SMALLEST_NORMAL
    if doubtful.any():
        exact = odd_sum(product, np.broadcast_to(c, product.shape).astype(f64)).astype(f32)
        result = np.where(doubtful, exact, result)
    return result


def ftz(x: Array) -> Array:
    """Subnormal numbers as zero of their sign."""
    return np.where(np.abs(x) < SMALLEST_NORMAL, x * f32(0), x)


def _packed(op: Callable[..., Array], kind: str) -> Callable[..., Array]:
    """A function of float64 values as one of bits of f16 or bf16, or of words of two of them."""
    element = kind.removesuffix("x2")
    wide, narrow = WIDE[element], NARROW[element]

    def single(*xs: Array) -> Array:
        return narrow(op(*[wide(x).astype(f64) for x in xs]))

    def double(*xs: Array) -> Array:
        words = np.broadcast_arrays(*[np.asarray(x, u32) for x in xs])
        return single(*[np.ascontiguousarray(x).view(u16) for x in words]).view(u32)

    return double if kind.endswith("x2") else single


PACKED = {
    f"{name}_{kind}": _packed(op, kind)
    for kind in ("f16", "f16x2", "bf16", "bf16x2")
    for name, op in {
        "add": odd_sum,
        "sub": lambda a, b: odd_sum(a, -b),
        "mul": np.multiply,
        "fma": lambda a, b, c: odd_sum(a * b, c),
        "neg": np.negative,
        "abs": np.abs,
        "min": np.fmin,
        "max": np.fmax,
    }.items()
}
"""Arithmetic of half types; generated code calls these as ``add_f16x2(...)``."""

COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "lo": "<", "ls": "<=", "hi": ">"}
COMPARISONS["hs"] = ">="


def unordered_or(found: Array, x: Array, y: Array) -> Array:
    """``setp.ltu`` and its like: true also where an operand is NaN."""
    return found | np.isnan(x) | np.isnan(y)


def ordered_and(found: Array, x: Array, y: Array) -> Array:
    """``setp.ne`` is false where an operand is NaN."""
    return found & ~(np.isnan(x) | np.isnan(y))


# ---- integers
def div(a: Array, b: Array) -> Array:
    """Integers divided toward zero; by zero all bits are set."""
    a, b = np.broadcast_arrays(a, b)
    by = np.where(b == 0, 1, b).astype(a.dtype)
    quotient = a // by  # rounded down
    if a.dtype.kind == "i":
        quotient = quotient + ((quotient * by != a) & ((a < 0) != (by < 0)))
    return np.where(b == 0, np.array(-1).astype(a.dtype), quotient).astype(a.dtype)


def rem(a: Array, b: Array) -> Array:
    """The rest of :func:`div`."""
    return (a - div(a, b) * b).astype(np.asarray(a).dtype)


def shl(x: Array, n: Array) -> Array:
    """Shifts of the whole width or more leave nothing."""
    width = x.dtype.itemsize * 8
    return np.where(n < width, x << np.minimum(n, width - 1).astype(x.dtype), x.dtype.type(0))


def shr(x: Array, n: Array) -> Array:
    """Of signed numbers with copies of the sign."""
    width = x.dtype.itemsize * 8
    shifted = x >> np.minimum(n, width - 1).astype(x.dtype)
    return shifted if x.dtype.kind == "i" else np.where(n < width, shifted, x.dtype.type(0))


def mulhi(a: Array, b: Array) -> Array:
    """The upper half of the product."""
    kind = np.asarray(a).dtype
    if kind.itemsize == 8:
        products = [int(x) * int(y) >> 64 for x, y in np.broadcast(a, b)]
        return np.array([p & (2**64 - 1) for p in products], u64).view(kind)
    wide = s64 if kind.kind == "i" else u64
    return ((a.astype(wide) * b.astype(wide)) >> wide(8 * kind.itemsize)).astype(kind)


def wide_product(a: Array, b: Array, kind: type) -> Array:
    """``mul.wide``: the whole product."""
    return np.asarray(a).astype(kind) * np.asarray(b).astype(kind)


def bfe(x: Array, start: Array, length: Array) -> Array:
    """Bit field extract, by the signedness of ``x``; beyond the top there are zeros or the sign."""
    bits = x.dtype.itemsize * 8
    if bits != 32:
        raise NotImplementedError("bfe of 64 bits")
    start, length = (np.minimum(np.asarray(n, s64) & 0xFF, bits) for n in (start, length))
    field = (x.astype(s64) >> start) & ((s64(1) << length) - 1)
    if x.dtype.kind == "i":
        is_negative = (length > 0) & ((field >> np.maximum(length - 1, 0)) & 1 == 1)
        field = np.where(is_negative, field - (s64(1) << length), field)
    return field.astype(x.dtype)


def bfi(a: Array, b: Array, start: Array, length: Array) -> Array:
    """Bit field insert: ``length`` bits of ``a`` into ``b`` at ``start``."""
    start, length = (np.minimum(np.asarray(n, u64) & u64(0xFF), u64(32)) for n in (start, length))
    mask = (((u64(1) << length) - u64(1)) << start).astype(u32)
    return (b & ~mask) | ((np.asarray(a).astype(u64) << start).astype(u32) & mask)


def prmt(a: Array, b: Array, selector: Array) -> Array:
    """Four bytes chosen from those of two words, or copies of their sign bits."""
    source = np.asarray(a).astype(u64) | (np.asarray(b).astype(u64) << u64(32))
    selector = np.asarray(selector).astype(u64)
    result = np.zeros(np.broadcast(source, selector).shape, u64)
    for i in range(4):
        nibble = (selector >> u64(4 * i)) & u64(15)
        byte = (source >> ((nibble & u64(7)) * u64(8))) & u64(0xFF)
        sign = np.where((byte & u64(0x80)) != 0, u64(0xFF), u64(0))
        result |= np.where((nibble & u64(8)) != 0, sign, byte) << u64(8 * i)
    return result.astype(u32)


def lop3(a: Array, b: Array, c: Array, table: int) -> Array:
    """The logical function of three bits whose table of truth are the bits of ``table``."""
    result = np.zeros_like(a)
    for i in range(8):
        if table >> i & 1:
            result |= (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
    return result


def popc(x: Array) -> Array:
    """The number of bits that are set."""
    return np.array([int(v).bit_count() for v in x], u32)


FUNCTIONS = (fma, ftz, unordered_or, ordered_and, div, rem, shl, shr, mulhi, wide_product, bfe, bfi, prmt, lop3)
FUNCTIONS += (popc, from_bf16, from_f16, joined, lower, upper)
NAMES = {function.__name__: function for function in FUNCTIONS} | PACKED
"""What generated code may call."""
