"""Which pixels of a tile a tap is the first to touch: what the first-level cache cannot have, however good it is."""

from __future__ import annotations

from collections.abc import Sequence

NEIGHBOURS = ((-1, -1), (1, 1), (-1, 0), (1, 0), (-1, 1), (1, -1), (0, -1), (0, 1))
"""The taps of a 3x3 kernel, each followed by its opposite, as the kernels that go through them in pairs."""


def first_touches(block_h: int, block_w: int, taps: Sequence[tuple[int, int]] = NEIGHBOURS) -> list[list[bool]]:
    """For the centre and then each tap: whether it is the first to touch each pixel of the tile moved by the tap.

    A tile of ``block_h`` x ``block_w`` pixels is read where it stands, and then once for each tap, moved by it.
    """
    touched: set[tuple[int, int]] = set()
    touches = []
    for dy, dx in ((0, 0), *taps):
        moved = [(row + dy, column + dx) for row in range(block_h) for column in range(block_w)]
        touches.append([pixel not in touched for pixel in moved])
        touched.update(moved)
    return touches


def share(touches: Sequence[bool], begin: float, end: float) -> float:
    """The share of first touches among the pixels between two fractions of the tile."""
    first = min(int(begin * len(touches) + 1e-9), len(touches) - 1)
    part = touches[first : max(first + 1, int(end * len(touches) + 1e-9))]
    return sum(part) / len(part)
