"""``cvt``: between integers and floating-point numbers of all formats."""

from __future__ import annotations

import numpy as np

from .arithmetic import ftz
from .formats import NARROW, TYPES, WIDE, Array, f32, f64, s64

TO_INTEGER = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
KNOWN = {"rn", "rna", "ftz", "sat", "relu", "satfinite", *TO_INTEGER}


def convert(x: Array, target: str, source: str, how: tuple[str, ...]) -> Array:
    """Values of the type ``source`` as the type ``target``; half types and TF32 are given and returned as bits.

    Raises:
        NotImplementedError: a rounding that no kernel has needed so far.
    """
    if unknown := set(how) - KNOWN:
        raise NotImplementedError(f"cvt.{'.'.join(unknown)}")
    if source in WIDE:
        x = WIDE[source](x)
    if "ftz" in how and source == "f32":
        x = ftz(x)
    if "relu" in how:
        x = np.where(np.isnan(x) | (x > 0), x, np.zeros_like(x))
    if source[0] in "us":
        return _from_integer(x, target, "sat" in how)
    if target[0] in "us":
        return _to_integer(x, target, next(TO_INTEGER[name] for name in how if name in TO_INTEGER))
    for name in how:
        if name in TO_INTEGER:
            x = TO_INTEGER[name](x)
    if "sat" in how:
        x = np.clip(np.nan_to_num(x), 0, 1)
    if target == "f32" and np.asarray(x).dtype == f64:
        return x.astype(f32)
    return NARROW[target](x) if target in NARROW else x.astype(TYPES[target])


def _from_integer(x: Array, target: str, saturates: bool) -> Array:
    if target[0] in "us":
        if saturates:
            info = np.iinfo(TYPES[target])
            x = np.clip(x.astype(s64), info.min, info.max)
        return x.astype(TYPES[target])
    return NARROW[target](x.astype(f64)) if target in NARROW else x.astype(TYPES[target])


def _to_integer(x: Array, target: str, rounding: np.ufunc) -> Array:
    """Values outside are clamped, NaN is zero."""
    if target[1:] == "64":
        raise NotImplementedError("cvt of floating point to 64-bit integers")
    info = np.iinfo(TYPES[target])
    whole = rounding(np.where(np.isnan(x), 0, x).astype(f64))
    return np.clip(whole, info.min, info.max).astype(s64).astype(TYPES[target])
