"""The weighted differences of a strip's edges, read from the image where it lies: no copy of it, no padding.

Edges with both ends inside the image are two slices of it. An edge that leaves the image at the pixel p, to where u
and v are zero, has the difference ``-h(p)`` with ``h = g(v) u``; one that comes in at p has ``h(p)``. With zero flux
both are zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdn_triton.eager.diffusivity import similarity
from sdn_triton.eager.frames import Rectangle, frame_of
from sdn_triton.eager.pairs import is_scaled
from sdn_triton.eager.strips import Place, Strip, has_edges
from sdn_triton.options import Contrast, DifferenceOptions


def can_read(input: Tensor, guidance: Tensor, options: DifferenceOptions) -> bool:
    """Whether links are edges, every output has its centre inside the image and channels lie together in memory.

    Of other images the strips are copied in any case, to bring their channels together.
    """
    together = all(x.stride(1) == 1 or x.shape[1] == 1 for x in (input, guidance))
    return has_edges(options) and min(options.origin) >= 0 and together


class Edges:
    """The edges of the outputs of a strip."""

    def __init__(self, strip: Strip, input: Tensor, guidance: Tensor, k: Contrast, dtype: torch.dtype) -> None:
        self.strip, self.input, self.guidance, self.k, self.dtype = strip, input, guidance, k, dtype
        self.fs = strip.pair_buffers(input.shape[1], input, dtype)

    def read(self, place: Place) -> None:
        """Look at the rows that the outputs at ``place`` touch."""
        options, strip = self.strip.options, self.strip
        top = options.origin[0] + place.row
        first, last = max(top - options.reach[0], 0), min(top + strip.rows + options.reach[0], strip.size[0])
        images = slice(place.image, place.image + strip.images)
        self.u = self.input[images, :, first:last].to(self.dtype)
        v = self.guidance[images, :, first:last].to(self.dtype)
        self.v = v / self.k if is_scaled(self.k) else v
        self.frame = frame_of(strip, top - first, last - first)
        self.inward = [self._inward(rim) if rim else None for rim in self.frame.rims]

    def _inward(self, rim: Rectangle) -> Tensor | None:
        """``h = g(v) u`` at the pixels of ``rim``, or with zero flux nothing."""
        if self.strip.options.border == "zero_flux":
            return None
        v = rim.of(self.v)
        return similarity(self.strip.options, v, torch.empty_like(v)) * rim.of(self.u)

    def weighted(self, link: int) -> Tensor:
        """``f [1, C, 1, pairs]`` of a link; what no output takes from it may be anything."""
        f, (position, near, far, crossings) = self.fs[link], self.frame.links[link]
        if near:
            step = torch.sub(far.of(self.v), near.of(self.v))
            g = similarity(self.strip.options, step, step)
            torch.sub(far.of(self.u), near.of(self.u), out=self._slots(f, near, position)).mul_(g)
        for position, rim, pixels, sign in crossings:
            slots, h = self._slots(f, pixels, position), self.inward[rim]
            if h is None:
                slots.zero_()
            elif sign > 0:
                slots.copy_(pixels.of(h))
            else:
                torch.neg(pixels.of(h), out=slots)
        return f

    def _slots(self, f: Tensor, pixels: Rectangle, position: int) -> Tensor:
        """Where ``f`` has, from ``position`` on, the differences of a rectangle of edges."""
        C, pitch = f.shape[1], self.strip.pitch
        sizes = self.strip.images, C, pixels.bottom - pixels.top, pixels.right - pixels.left
        strides = self.strip.image_rows * pitch * C, 1, pitch * C, C
        return f.as_strided(sizes, strides, f.storage_offset() + position * C)
