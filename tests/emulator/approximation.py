"""Approximate instructions: rounded to nearest, or wrong by as much as the PTX manual allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .formats import Array, f32, f64, u32


@dataclass(frozen=True)
class Approximation:
    """A function in float64, and how far from it the instruction may be, the farthest of the three counting.

    ``ulps`` are units in the last place of float32.
    """

    function: Callable[..., Array]
    relative: float = 0.0
    absolute: float = 0.0
    ulps: float = 0.0


APPROXIMATIONS = {
    "rsqrt": Approximation(lambda x: 1 / np.sqrt(x), relative=2**-22.9),
    "rcp": Approximation(lambda x: 1 / x, ulps=1),
    "sqrt": Approximation(np.sqrt, relative=2**-23),
    "ex2": Approximation(np.exp2, ulps=2),
    "lg2": Approximation(np.log2, relative=2**-22, absolute=2**-22),
    "sin": Approximation(np.sin, absolute=2**-20.5),
    "cos": Approximation(np.cos, absolute=2**-20.5),
    "tanh": Approximation(np.tanh, relative=2**-11),
    "div": Approximation(np.divide, ulps=2),
}
"""Those of float32, with the errors of the manual (PTX ISA 9.0, section 9.7.3); of sine and cosine up to two turns."""


def exactly(name: str, *xs: Array) -> Array:
    """Rounded to nearest."""
    return APPROXIMATIONS[name].function(*[np.asarray(x).astype(f64) for x in xs]).astype(f32)


def erring(name: str, *xs: Array) -> Array:
    """As wrong as allowed: too large for some arguments and too small for others, always the same for the same."""
    known = APPROXIMATIONS[name]
    exact = known.function(*[np.asarray(x).astype(f64) for x in xs])
    mixed = sum(np.asarray(x, f32).view(u32) for x in xs) * u32(0x9E3779B1)
    sign = np.where((mixed >> u32(16)) & u32(1), 1.0, -1.0)
    ulp = np.spacing(np.abs(exact).astype(f32)).astype(f64)
    error = np.maximum(np.maximum(np.abs(exact) * known.relative, known.absolute), known.ulps * ulp)
    is_regular = np.isfinite(exact) & (exact != 0)  # zeros and infinities are exact
    return np.where(is_regular, exact + sign * error, exact).astype(f32)
