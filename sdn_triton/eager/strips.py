"""Lists of pixels on which every tap is a constant offset, and how large images are cut into strips of rows.

A strip holds the pixels that its rows of output touch, one after another. Each row of pixels ends in as many zeros as a
tap reaches, so that "one row down and one to the left" is the same offset everywhere and never meets a pixel of
another row: every step of the work is one long operation. Outputs in those zeros are computed with the others and
never read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from sdn_triton.eager.layouts import Grid, Reader, maps_like
from sdn_triton.options import Contrast, DifferenceOptions


class Place(NamedTuple):
    """Which rows of output a strip computes: from ``row`` on, of the images from ``image`` on."""

    image: int
    row: int


class Link(NamedTuple):
    """Pairs of pixels, all ``offset`` apart: those of a tap with its centres or, at stride 1, of an edge.

    An edge is a tap and its opposite at once: the difference from p to q is minus that from q to p, so one list of
    differences serves both. Taps are counted row by row, the centre among them.
    """

    offset: int
    tap: int
    opposite: int | None


class Pairs(NamedTuple):
    """Values of a link's pairs: of all, of those that start in outputs and, of edges, of those that end in outputs."""

    all: Tensor
    starting: Tensor
    ending: Tensor


class Strip:
    """The geometry of ``rows`` rows of output of each of ``images`` images.

    At stride 1 every link has ``pairs`` edges, from near pixels that begin ``lead`` before the first output, as far as
    a tap reaches: each output finds in the list of a link the edge that starts in it, and ``offset`` before that the
    one that ends in it. Else it finds the pair of its tap at its own place.
    """

    def __init__(self, options: DifferenceOptions, size: tuple[int, int], images: int, rows: int) -> None:
        (reach_y, reach_x), (pad_y, pad_x) = options.reach, options.padding
        self.options, self.size, self.images, self.rows = options, size, images, rows
        self.by_edges = options.stride == (1, 1)
        self.columns = options.output_size(*size)[1]
        self.window = options.stride[0] * (rows - 1) + 1 + 2 * reach_y
        # Zeros between two images, or beside a row, belong to both sides.
        spacing = size[0] + max(pad_y, reach_y) if images > 1 else self.window
        pitch = max(size[1] + max(pad_x, reach_x), self.columns)
        self.pixels = Grid(images, 1, spacing, (images - 1) * spacing + self.window + 2, pitch)
        self.centre = (1 + reach_y) * pitch + options.origin[1]
        if self.by_edges:
            self.outputs = Grid(images, 0, spacing, (images - 1) * spacing + rows, pitch)
            self.lead = reach_y * pitch + reach_x
            margin = reach_y + 1
        else:
            self.outputs = Grid(images, 0, rows, images * rows, self.columns)
            self.lead = margin = 0
        self.pairs = self.outputs.length + self.lead
        self.gradients = self.outputs._replace(start=margin, rows=self.outputs.rows + 2 * margin)
        self.links = tuple(self._links(pitch))

    @property
    def is_whole(self) -> bool:
        """Whether the strip has all outputs and touches all rows of its images."""
        first, last, _ = self.rows_inside(Place(0, 0))
        return self.rows == self.options.output_size(*self.size)[0] and last - first == self.size[0]

    def _links(self, pitch: int) -> list[Link]:
        taps, (_, columns) = self.options.taps, self.options.kernel_size
        half = len(taps) // 2
        numbers = [tap.row * columns + tap.column for tap in taps]
        offsets = [tap.dy * pitch + tap.dx for tap in taps]
        if self.by_edges:
            return [Link(offsets[i], numbers[i], numbers[-1 - i]) for i in range(half, len(taps))]
        return [Link(offset, number, None) for offset, number in zip(offsets, numbers, strict=True)]

    def ends(self, values: Tensor) -> tuple[Tensor, ...]:
        """In a list ``[length, C]`` of pixels the near ends of all pairs, and the far ends of each link's."""
        C, start = values.shape[1], self.centre - self.lead
        if self.by_edges:
            sizes: tuple[int, ...] = (self.pairs, C)
            strides: tuple[int, ...] = (C, 1)
        else:
            (stride_y, stride_x), row = self.options.stride, self.pixels.pitch * C
            sizes = self.images, self.rows, self.columns, C
            strides = self.pixels.spacing * row, stride_y * row, stride_x * C, 1
        offsets, base = (0, *(link.offset for link in self.links)), values.storage_offset() + start * C
        return tuple(values.as_strided(sizes, strides, base + offset * C) for offset in offsets)

    @property
    def pair_size(self) -> tuple[int, ...]:
        """That of a list of pairs, as :meth:`ends` has them."""
        return (self.pairs,) if self.by_edges else (self.images, self.rows, self.columns)

    def pairs_in(self, buffers: Tensor) -> list[Pairs]:
        """The pairs of each link, which take turns in the buffers ``[links, *pair_size, C]``."""
        lists = buffers.view(len(buffers), self.pairs, buffers.shape[-1])
        n, every, starting = self.outputs.length, lists.unbind(0), lists[:, self.lead :].unbind(0)
        pairs = []
        for i, link in enumerate(self.links):
            place = i % len(every)
            ending = every[place].narrow(0, self.lead - link.offset, n) if self.by_edges else every[place]
            pairs.append(Pairs(every[place], starting[place], ending))
        return pairs

    def of_outputs(self, f: Tensor, link: Link) -> Tensor:
        """Of a link's pairs those that start or end in outputs."""
        return f[self.lead - link.offset :] if self.by_edges else f

    def at_ends(self, G: Tensor, link: Link) -> tuple[Tensor, Tensor]:
        """The outputs at the near and at the far ends of a link's pairs, in a list as :attr:`gradients` has it."""
        start = self.gradients.start * self.gradients.pitch - self.lead
        return G.narrow(0, start, self.pairs), G.narrow(0, start + (link.offset if self.by_edges else 0), self.pairs)

    def gradient_of_outputs(self, G: Tensor) -> Tensor:
        """The outputs alone."""
        return G.narrow(0, self.gradients.start * self.gradients.pitch, self.outputs.length)

    def part_of(self, output: Tensor, place: Place) -> Tensor:
        """The strip's part of an output ``[N, O, Ho, Wo]``."""
        return output[place.image : place.image + self.images, :, place.row : place.row + self.rows]

    def rows_inside(self, place: Place) -> tuple[int, int, int]:
        """The first and the last but one of the image's rows that the strip touches, and which of its rows that is."""
        top = self.options.origin[0] + place.row * self.options.stride[0] - self.options.reach[0]
        first = min(max(top, 0), self.size[0])
        return first, max(min(top + self.window, self.size[0]), first), first - top

    def read(self, reader: Reader, image: Tensor, place: Place, unit: Contrast = 1) -> Tensor:
        """The list of the pixels of ``image [N, C, H, W] / unit`` at ``place``."""
        first, last, row = self.rows_inside(place)
        return reader.read(image[place.image : place.image + self.images, :, first:last], row, unit)

    def pass_back(self, image: Tensor, place: Place, values: Tensor, adds: bool) -> None:
        """Put the values at the pixels of a list into ``image [N, C, H, W]``, or add them to what is there."""
        first, last, row = self.rows_inside(place)
        part = image[place.image : place.image + self.images, :, first:last]
        values = maps_like(part, values, self.pixels, row)
        part.add_(values) if adds else part.copy_(values)


def closed_pairs(strip: Strip, place: Place, like: Tensor) -> list[Tensor] | None:
    """With zero flux the numbers of each link's pairs that do not have both ends inside the image; else None."""
    if strip.options.border != "zero_flux":
        return None
    image = like.new_ones(()).expand(place.image + strip.images, 1, *strip.size)
    inside = strip.read(Reader(strip.pixels, like.new_empty((strip.pixels.length, 1))), image, place)
    near, *far = strip.ends(inside)
    return [torch.nonzero((near * ends).flatten() == 0).squeeze(1) for ends in far]


class Load(NamedTuple):
    """How many numbers the buffers of a strip hold for each of its pixels, pairs and outputs."""

    pixel: int
    pair: int
    output: int

    def of(self, strip: Strip) -> int:
        """All numbers that the buffers of ``strip`` hold."""
        return self.pixel * strip.pixels.length + self.pair * strip.pairs + self.output * strip.gradients.length


@lru_cache(maxsize=256)
def cut(
    options: DifferenceOptions, size: tuple[int, int], batch: int, load: Load, limit: int
) -> tuple[tuple[Strip, tuple[Place, ...]], ...]:
    """Cut the output into strips whose buffers hold at most ``limit`` numbers where possible; those alike together."""
    height = options.output_size(*size)[0]
    rows = _share(height, limit, lambda n: load.of(Strip(options, size, 1, n)))
    images = _share(batch, limit, lambda n: load.of(Strip(options, size, n, rows))) if rows == height else 1
    strips: dict[tuple[int, int], list[Place]] = {}
    for image in range(0, batch, images):
        for row in range(0, height, rows):
            strips.setdefault((min(images, batch - image), min(rows, height - row)), []).append(Place(image, row))
    return tuple((Strip(options, size, *shape), tuple(places)) for shape, places in strips.items())


def _share(total: int, limit: int, cost: Callable[[int], int]) -> int:
    """Split ``total`` into equal parts of a linear ``cost`` of at most ``limit``, or into ones."""
    one, two = cost(1), cost(2)
    most = min(total, 1 + max(0, limit - one) // (two - one))
    return -(-total // -(-total // most))
