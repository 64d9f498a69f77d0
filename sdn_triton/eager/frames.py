"""Where the edges of a strip's outputs lie in the image: in its inside, or across its frame."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

from sdn_triton.eager.strips import Strip, linked_taps


class Rectangle(NamedTuple):
    """Pixels from (top, left) on, up to but without (bottom, right)."""

    top: int
    bottom: int
    left: int
    right: int

    def of(self, image: Tensor) -> Tensor:
        """These pixels of ``image [N, C, H, W]``."""
        top, bottom, left, right = self
        strides = image.stride()
        # One operation, where an index takes two.
        return image.as_strided(
            (image.size(0), image.size(1), bottom - top, right - left),
            strides,
            image.storage_offset() + top * strides[2] + left * strides[3],
        )

    def __bool__(self) -> bool:
        return self.top < self.bottom and self.left < self.right

    def __and__(self, other: Rectangle) -> Rectangle:
        (top, bottom, left, right), (a, b, c, d) = self, other
        return Rectangle(max(top, a), min(bottom, b), max(left, c), min(right, d))

    def moved(self, dy: int, dx: int) -> Rectangle:
        """The pixels that lie ``(dy, dx)`` from these."""
        return Rectangle(self.top + dy, self.bottom + dy, self.left + dx, self.right + dx)

    def beside(self, other: Rectangle) -> tuple[Rectangle, Rectangle, Rectangle, Rectangle]:
        """What of these pixels lies above, below, and between that left and right of ``other``."""
        top, bottom, left, right = self
        first = min(max(other.top, top), bottom)
        last = min(max(other.bottom, first), bottom)
        return (
            Rectangle(top, first, left, right),
            Rectangle(last, bottom, left, right),
            Rectangle(first, last, left, min(other.left, right)),
            Rectangle(first, last, max(other.right, left), right),
        )


class Crossing(NamedTuple):
    """The edges of a link that cross one side of the frame: out of it with ``sign`` -1, into it with 1."""

    position: int
    """That of the first in the list of the link's pairs."""
    rim: int
    inner: Rectangle
    """Their ends inside the image, counted from the first pixel of the rim."""
    sign: int


class InnerEdges(NamedTuple):
    """The edges of a link with both ends in the image, and those that cross its frame."""

    position: int
    near: Rectangle
    far: Rectangle
    crossings: tuple[Crossing, ...]


class Frame(NamedTuple):
    """The edges of a strip in the rows of the image that they touch."""

    rims: tuple[Rectangle, ...]
    """The outputs above, below, left and right at which edges may cross the frame."""
    links: tuple[InnerEdges, ...]


@lru_cache(maxsize=1024)
def frame_of(strip: Strip, top: int, height: int) -> Frame:
    """The frame of ``strip`` where it touches ``height`` rows and its first output has its centre in row ``top``."""
    (reach_y, reach_x), left, width = strip.options.reach, strip.options.origin[1], strip.size[1]
    image, outputs = Rectangle(0, height, 0, width), Rectangle(top, top + strip.rows, left, left + strip.columns)
    bottom, right = outputs.bottom, outputs.right
    rims = (
        Rectangle(top, min(bottom, reach_y), left, right),
        Rectangle(max(top, height - reach_y), bottom, left, right),
        Rectangle(top, bottom, left, min(right, reach_x)),
        Rectangle(top, bottom, max(left, width - reach_x), right),
    )

    def position(p: Rectangle) -> int:
        return (p.top - top) * strip.pitch + p.left - left

    links = []
    for (*_, tap), link in zip(linked_taps(strip.options), strip.links, strict=True):
        dy, dx = tap.dy, tap.dx
        # Edges that start or end in an output.
        near = Rectangle(top - dy, bottom, left - max(dx, 0), right - min(dx, 0))
        near = near & image & image.moved(-dy, -dx)
        crossings = [
            Crossing(offset + position(p), side, p.moved(-rims[side].top, -rims[side].left), sign)
            for sign, offset in ((-1, link.spacing), (1, 0))
            for side, p in enumerate(outputs.beside(image.moved(sign * dy, sign * dx)))
            if p
        ]
        links.append(InnerEdges(link.spacing + position(near), near, near.moved(dy, dx), tuple(crossings)))
    return Frame(rims, tuple(links))
