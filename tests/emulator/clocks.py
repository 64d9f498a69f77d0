"""What happened before what: vector clocks of the warps of a program."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np


class Clocks:
    """``known[w, v]`` is the last moment of warp ``v`` that is over before what warp ``w`` does now.

    A warp's own moments pass at barriers and fences. What ``v`` does at its moment ``c`` is ordered before what ``w``
    does if ``known[w, v] >= c``. The last of them, ``core``, is the tensor core: its moments are the ends of products.
    """

    def __init__(self, warps: int) -> None:
        self.core = warps
        self.known = np.eye(warps + 1, dtype=np.int32)
        self.version = 0
        self.fences: list[list[int]] = [[] for _ in self.known]
        self.known_at_fence = np.zeros_like(self.known)

    def now(self, warps: np.ndarray | int) -> np.ndarray:
        """The moments of these warps."""
        return self.known[warps, warps]

    def meet(self, warps: Sequence[int]) -> None:
        """A barrier: afterwards each of these warps knows what any of them knew."""
        self.known[warps] = self.known[warps].max(0)
        self.advance(warps)

    def release(self, warp: int) -> np.ndarray:
        """What somebody who learns from this warp will know."""
        known = self.known[warp].copy()
        self.advance([warp])
        return known

    def acquire(self, warp: int, known: np.ndarray) -> None:
        """Learn what somebody released."""
        self.known[warp] = np.maximum(self.known[warp], known)
        self.version += 1

    def advance(self, warps: Sequence[int]) -> None:
        """Begin another moment."""
        self.known[warps, warps] += 1
        self.version += 1

    def proxy_fence(self, warp: int) -> None:
        """What this warp wrote or knows of may be read by the asynchronous proxy, by whoever comes to know of it."""
        self.fences[warp].append(int(self.known[warp, warp]))
        self.known_at_fence[warp] = self.known[warp]
        self.advance([warp])

    def fenced(self, warp: int) -> np.ndarray:
        """Up to which moment of each warp its writes are visible to asynchronous reads of ``warp``."""
        covered = self.known_at_fence[warp].copy()
        for other, fences in enumerate(self.fences):
            behind = bisect_right(fences, self.known[warp, other])
            if behind:
                covered[other] = max(covered[other], fences[behind - 1])
        return covered
