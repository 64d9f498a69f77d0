"""Where the pixels of some rows of output lie: long lists of positions on which a tap is a constant offset.

A strip holds the pixels that its rows of output touch, one after another, as a map ``[1, C, 1, positions]`` that is
channels-last in memory. Each row of pixels ends in as many zeros as a tap reaches, so that "one row down and one to
the left" is the same offset everywhere and never meets a pixel of another row: every step of the work is one long
operation. Outputs at positions in those zeros are computed with the others and never read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from sdn_triton.eager.layouts import add_image, channels_last, read_image
from sdn_triton.options import DifferenceOptions, Tap


class Place(NamedTuple):
    """Which rows of output a strip computes: from ``row`` on, of the images from ``image`` on."""

    image: int
    row: int


class Link(NamedTuple):
    """Pairs of pixels, all the same offset apart: a tap with its centres or, at stride 1, an edge.

    An edge is a tap and its opposite at once: the difference from p to q is minus that from q to p, so one list of
    differences serves both. ``near`` and ``far`` are the positions of the first pair. An output takes from the list the
    difference of its own position and, with an edge, the one ``spacing`` before: the edge that ends in it.
    """

    near: int
    far: int
    length: int
    spacing: int


def has_edges(options: DifferenceOptions) -> bool:
    """Whether both ends of every tap are centres, so that links are edges."""
    return options.stride == (1, 1)


def linked_taps(options: DifferenceOptions) -> tuple[tuple[Tap, ...], ...]:
    """The taps that each link serves: (opposite, tap) of an edge, else (tap,)."""
    taps = options.taps
    if has_edges(options):
        return tuple((taps[-1 - i], taps[i]) for i in range(len(taps) // 2, len(taps)))
    return tuple((tap,) for tap in taps)


class Strip:
    """The geometry of ``rows`` rows of output of each of ``images`` images."""

    def __init__(self, options: DifferenceOptions, size: tuple[int, int], images: int, rows: int) -> None:
        (reach_y, reach_x), (pad_y, pad_x) = options.reach, options.padding
        self.options, self.size, self.images, self.rows = options, size, images, rows
        self.by_edges = has_edges(options)
        self.columns = options.output_size(*size)[1]
        self.window_rows = options.stride[0] * (rows - 1) + 1 + 2 * reach_y
        self.image_rows = self.window_rows + max(0, reach_y - pad_y if images > 1 else 0)
        self.pitch = max(size[1] + max(pad_x, reach_x), self.columns)
        # Zeros before the first row, which the rows after it find at the end of the row above.
        self.margin = pad_x
        self.length = self.margin + self.image_rows * images * self.pitch + 2 * reach_x
        self.centre = self.margin + reach_y * self.pitch + options.origin[1]
        if self.by_edges:
            self.outputs = ((images - 1) * self.image_rows + rows) * self.pitch
        else:
            self.outputs = images * rows * self.columns
        self.links = tuple(self._links())
        self.pairs = max(link.length for link in self.links)
        self.rim = 2 * images * (reach_y * self.columns + reach_x * rows)

    def _links(self) -> Iterator[Link]:
        for *_, tap in linked_taps(self.options):
            offset = tap.dy * self.pitch + tap.dx
            before = offset if self.by_edges else 0
            yield Link(self.centre - before, self.centre - before + offset, self.outputs + before, max(before, 1))

    def ends(self, values: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The values at the near and at the far ends of each link's pairs."""
        if self.by_edges:
            return [(values.narrow(3, at.near, at.length), values.narrow(3, at.far, at.length)) for at in self.links]
        C, (stride_y, stride_x) = values.shape[1], self.options.stride
        sizes = self.images, C, self.rows, self.columns
        strides = self.image_rows * self.pitch * C, 1, stride_y * self.pitch * C, stride_x * C

        def view(position: int) -> Tensor:
            return values.as_strided(sizes, strides, position * C)

        return [(view(link.near), view(link.far)) for link in self.links]

    def pair_buffers(self, channels: int, like: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """One buffer for the values of any link's pairs, as each link sees it."""
        if self.by_edges:
            reach = self.options.reach[1]
            values = channels_last((1, channels, 1, reach + self.pairs), like, dtype)
            return [values.narrow(3, reach, link.length) for link in self.links]
        return [channels_last((self.images, channels, self.rows, self.columns), like, dtype)] * len(self.links)

    def output_buffer(self, channels: int, like: Tensor, dtype: torch.dtype) -> Tensor:
        """An empty buffer for all outputs of the strip."""
        if self.by_edges:
            return channels_last((1, channels, 1, self.outputs), like, dtype)
        return channels_last((self.images, channels, self.rows, self.columns), like, dtype)

    def images_of(self, outputs: Tensor) -> Tensor:
        """The outputs of the strip as images ``[images, O, rows, columns]``, without what is never read."""
        if not self.by_edges:
            return outputs
        O = outputs.shape[1]
        sizes = self.images, O, self.rows, self.columns
        return outputs.as_strided(sizes, (self.image_rows * self.pitch * O, 1, self.pitch * O, O))

    def part_of(self, output: Tensor, place: Place) -> Tensor:
        """The strip's part of an output ``[N, O, Ho, Wo]``."""
        return output[place.image : place.image + self.images, :, place.row : place.row + self.rows]

    def inside(self, values: Tensor, image: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        """The pixels of the strip that lie inside ``image [N, C, H, W]``, in ``values`` and in ``image``."""
        options, (height, width), C = self.options, self.size, values.shape[1]
        top = options.origin[0] + place.row * options.stride[0] - options.reach[0]
        first = min(max(top, 0), height)
        last = max(min(top + self.window_rows, height), first)
        sizes = self.images, C, last - first, width
        strides = self.image_rows * self.pitch * C, 1, self.pitch * C, C
        part = values.as_strided(sizes, strides, (self.margin + max(first - top, 0) * self.pitch) * C)
        return part, image[place.image : place.image + self.images, :, first:last]


class Field:
    """The values of one tensor at the pixels of a strip, with zeros outside the image."""

    def __init__(self, strip: Strip, like: Tensor, dtype: torch.dtype) -> None:
        self.strip = strip
        self.values = channels_last((1, like.shape[1], 1, strip.length), like, dtype)
        self.is_zero_outside = False
        self.ends = strip.ends(self.values)

    def read(self, image: Tensor, place: Place) -> Tensor:
        """Take the pixels of ``image [N, C, H, W]`` at ``place``."""
        values, pixels = self.strip.inside(self.values, image, place)
        clipped = pixels.shape[2] < self.strip.window_rows
        if clipped or not self.is_zero_outside:
            self.values.zero_()  # The place before may have left pixels in rows that are outside now.
            self.is_zero_outside = True
        read_image(values, pixels)
        return self.values

    def add_to(self, image: Tensor, place: Place) -> None:
        """Add the values to the pixels of ``image`` at ``place``."""
        values, pixels = self.strip.inside(self.values, image, place)
        add_image(pixels, values)


def closed_pairs(strip: Strip, place: Place, like: Tensor) -> list[Tensor] | None:
    """With zero flux the numbers of each link's pairs that do not have both ends inside the image; else None."""
    if strip.options.border != "zero_flux":
        return None
    image = like.new_ones(()).expand(place.image + strip.images, 1, *strip.size)
    inside = Field(strip, image, like.dtype)
    inside.read(image, place)
    return [torch.nonzero((near * far).flatten() == 0).squeeze(1) for near, far in inside.ends]


def close(values: Tensor, closed: list[Tensor] | None, link: int) -> None:
    """Set the values of a link's closed pairs to zero."""
    if closed is not None:
        values.permute(0, 2, 3, 1).flatten(0, 2).index_fill_(0, closed[link], 0)


class Load(NamedTuple):
    """How many numbers the buffers of a strip hold for each of its pixels, pairs, outputs and pixels at its rim."""

    pixel: int
    pair: int
    output: int
    rim: int = 0

    def of(self, strip: Strip) -> int:
        """All numbers that the buffers of ``strip`` hold."""
        return self.pixel * strip.length + self.pair * strip.pairs + self.output * strip.outputs + self.rim * strip.rim


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
