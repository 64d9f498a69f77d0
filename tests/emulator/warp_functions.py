"""What the threads of a warp compute together: shuffles and votes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .formats import Array

if TYPE_CHECKING:
    from .machine import Machine


class WarpFunctions:
    """Functions of whole warps."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def shuffle(self, a: slice | Array, kind: str, values: Array, lanes: Array, clamp: Array) -> Array:
        """``shfl.sync``: each thread's value from another one, its own where there is none."""
        self.machine.whole_warps(a)
        values, lanes, clamp = (np.asarray(x).reshape(-1, 32) for x in (values, lanes, clamp))
        lanes, clamp = lanes.astype(np.int64), clamp.astype(np.int64)
        bound, segment = clamp & 31, clamp >> 8 & 31
        own = np.arange(32)
        highest = (own & segment) | (bound & ~segment)
        if kind == "idx":
            source = (own & segment) | (lanes & ~segment & 31)
        else:
            source = {"bfly": own ^ (lanes & 31), "up": own - (lanes & 31), "down": own + (lanes & 31)}[kind]
        is_there = source >= highest if kind == "up" else source <= highest
        return np.take_along_axis(values, np.where(is_there, source, own), 1).reshape(-1)

    def vote(self, a: slice | Array, kind: str, values: Array) -> Array:
        """``vote.sync``: whether the predicate holds for any, for all, or for which threads."""
        self.machine.whole_warps(a)
        values = values.reshape(-1, 32)
        if kind == "ballot":
            bits = (values.astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(1).astype(np.uint32)
            return np.repeat(bits, 32)
        return np.repeat({"any": values.any(1), "all": values.all(1)}[kind], 32)

    def leader(self, a: slice | Array) -> np.uint32:
        """``elect.sync``: one lane, always the same one; which, PTX leaves open."""
        self.machine.whole_warps(a)
        return np.uint32(self.machine.mode.seed % 32)

    def active_mask(self, a: slice | Array) -> np.uint32:
        """``activemask``, for whole warps."""
        self.machine.whole_warps(a)
        return np.uint32(0xFFFFFFFF)
