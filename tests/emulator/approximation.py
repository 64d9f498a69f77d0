"""Approximate instructions: exactly rounded, or wrong by as much as the PTX manual allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .formats import Array, f32, f64, u32


@dataclass(frozen=True)
class Approximation:
    """A function in float64, and how far the instruction may be from it: ``relative`` or ``absolute``."""

    function: Callable[[Array], Array]
    relative: float = 0.0
    absolute: float = 0.0


APPROXIMATIONS = {
    "rsqrt": Approximation(lambda x: 1 / np.sqrt(x), relative=2**-22.9),
    "rcp": Approximation(lambda x: 1 / x, relative=2**-23),
    "sqrt": Approximation(np.sqrt, relative=2**-23),
    "ex2": Approximation(np.exp2, relative=2**-22.5),
    "lg2": Approximation(np.log2, absolute=2**-22.6),
    "sin": Approximation(np.sin, absolute=2**-20.9),
    "cos": Approximation(np.cos, absolute=2**-20.9),
    "tanh": Approximation(np.tanh, relative=2**-11),
}
"""Those of float32, with the errors that the manual of PTX names."""


def exactly(name: str, x: Array) -> Array:
    """Rounded to nearest."""
    return APPROXIMATIONS[name].function(np.asarray(x).astype(f64)).astype(f32)


def erring(name: str, x: Array) -> Array:
    """As wrong as allowed, up for some arguments and down for others."""
    known = APPROXIMATIONS[name]
    exact = known.function(np.asarray(x).astype(f64))
    mixed = np.asarray(x, f32).view(u32) * u32(0x9E3779B1)
    sign = np.where((mixed >> u32(16)) & u32(1), 1.0, -1.0)
    return (exact * (1 + sign * known.relative) + sign * known.absolute).astype(f32)
