"""What a network's neck does to images whose rows are spread over ranks. Each rank fetches the rows it reads.

Whatever looks at neighbours takes a *tile*: the rows that this rank's outputs read, whoever holds them, with the rows
outside the image filled in as the padding mode says. On its tile each rank runs the ordinary operator.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdn_triton.checks import check_difference, pair
from sdn_triton.distributed.rows import OUTSIDE, Rows, Wanted, take_rows
from sdn_triton.functional import semantic_difference_conv2d
from sdn_triton.ops.resize import mixture
from sdn_triton.options import DifferenceOptions
from sdn_triton.outputs import memory_format


class Image(NamedTuple):
    """The rows of an image ``[N, C, H, W]`` that this rank holds, and who holds which."""

    local: Tensor
    rows: Rows

    @property
    def size(self) -> tuple[int, int]:
        return self.rows.height, self.local.shape[3]

    def stand_in(self) -> Tensor:
        """A tensor of the whole image's shape, to check arguments with, that takes no memory."""
        N, C, _, W = self.local.shape
        return self.local.new_empty(()).expand(N, C, self.rows.height, W)


class Window(NamedTuple):
    """The rows of input that an output row reads: ``length`` of them from ``stride * row - padding`` on."""

    length: int
    stride: int
    padding: int


def difference_conv(input: Image, guidance: Image, weight: Tensor, bias: Tensor | None, **options: Any) -> Image:
    """The semantic difference convolution; ``options`` are all those that the function takes after the bias."""
    if input.rows != guidance.rows:
        raise ValueError(
            f"guidance has its rows split at {guidance.rows.bounds} but input at {input.rows.bounds}; "
            "they must be alike"
        )
    is_one = guidance.local is input.local
    if input.local.device.type != "meta" and torch.is_autocast_enabled(input.local.device.type):
        # Before anything is sent, and checked, as the function would.
        dtype = torch.get_autocast_dtype(input.local.device.type)
        input, guidance = (Image(_cast(image.local, dtype), image.rows) for image in (input, guidance))
        weight, bias = _cast(weight, dtype), None if bias is None else _cast(bias, dtype)
    checked = check_difference(
        input.stand_in(), guidance.stand_in(), weight, bias,
        **{name: options[name] for name in ("stride", "padding", "dilation", "groups")},
        **{name: options[name] for name in ("padding_mode", "diffusivity", "contrast", "similarity", "backend")},
    )  # fmt: skip
    out = _output_rows(input, checked.output_size(*input.size)[0])
    wanted, padding, skipped = _tile(input.rows, out, checked, options["padding_mode"])
    tiles = take_rows([input.local] if is_one else [input.local, guidance.local], input.rows, wanted)
    response = semantic_difference_conv2d(
        tiles[0], tiles[-1], weight, bias, **{**options, "padding": (padding, checked.padding[1])}
    )
    return Image(_cut(response, skipped, len(out.own)), out)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.to(dtype)


def conv2d(input: Image, layer: nn.Conv2d) -> Image:
    """A convolution with zeros as its padding."""
    padding, stride, dilation = (
        pair(name, getattr(layer, name), least) for name, least in (("padding", 0), ("stride", 1), ("dilation", 1))
    )
    window = Window(dilation[0] * (layer.kernel_size[0] - 1) + 1, stride[0], padding[0])
    out = _output_rows(input, (input.rows.height + 2 * window.padding - window.length) // window.stride + 1)
    (tile,) = take_rows([input.local], input.rows, _windows(input.rows.bounds, out.bounds, window, "zeros"))
    response = F.conv2d(tile, layer.weight, layer.bias, stride, (0, padding[1]), dilation, layer.groups)
    return Image(_cut(response, 0, len(out.own)), out)


def pointwise(call: Callable[..., Tensor], *images: Image) -> Image:
    """``call`` on images alike, of a function that looks at one pixel at a time."""
    rows = images[0].rows
    if rows.own:
        return Image(call(*(image.local for image in images)), rows)
    # No convolution takes an image without a row. Not left out, so that parameters get their gradients on all ranks.
    return Image(call(*(F.pad(image.local, (0, 0, 0, 1)) for image in images)).narrow(2, 0, 0), rows)


def resize(image: Image, width: int, rows: Rows) -> Image:
    """Resize bilinearly, as ``F.interpolate`` with ``align_corners=False``, to the rows of another image."""
    if (rows, width) == (image.rows, image.local.shape[3]):
        return image
    wide = torch.promote_types(image.local.dtype, torch.float32)  # as F.interpolate computes
    wanted = _sources(image.rows.height, rows.bounds, wide)
    (tile,) = take_rows([image.local], image.rows, wanted)
    tile = F.interpolate(tile.to(wide), (tile.shape[2], width), mode="bilinear", align_corners=False)
    first = wanted[rows.rank][0]
    low, high, share = mixture(_numbers(rows.own, tile.device), image.rows.height, rows.height, wide)
    below, above = tile.index_select(2, low - first), tile.index_select(2, high - first)
    return Image(torch.lerp(below, above, share.view(-1, 1)).to(image.local.dtype), rows)


def _cut(tensor: Tensor, first: int, length: int) -> Tensor:
    """``length`` rows of ``tensor``, in memory of their own where there are others."""
    part = tensor.narrow(2, first, length)
    return tensor if length == tensor.shape[2] else part.contiguous(memory_format=memory_format(tensor))


def _output_rows(input: Image, height: int) -> Rows:
    """Outputs of the input's height stay where their centres are; others are split anew."""
    return input.rows if height == input.rows.height else Rows.chunked(height, input.rows.group)


def _tile(input: Rows, out: Rows, options: DifferenceOptions, padding_mode: str) -> tuple[Wanted, int, int]:
    """The rows of each rank's tile, its own padding in rows, and how many rows of its output come before the wanted."""
    window = Window(2 * options.reach[0] + 1, options.stride[0], options.padding[0])
    if padding_mode != "zero_flux":
        return _windows(input.bounds, out.bounds, window, padding_mode), 0, 0
    # Nothing may flow across the image's border, so a tile ends there and the operator pads it.
    spans = [_closed(span, input.height, out.height, window) for span in out.spans]
    first, _, padding = spans[out.rank]
    start = _computed(out.own, out.height)[0]
    skipped = (start * window.stride - window.padding - (first - padding)) // window.stride
    return tuple(tuple(range(first, last)) for first, last, _ in spans), padding, skipped


def _computed(span: range, height: int) -> range:
    """The output rows that a rank computes: those it holds, or one that it drops, so that all have the same graph."""
    first = min(span.start, height - 1)
    return range(first, max(span.stop, first + 1))


def _closed(span: range, height: int, out_height: int, window: Window) -> tuple[int, int, int]:
    """First row, end and padding of a tile that ends where the image does."""
    outputs = _computed(span, out_height)
    first = outputs[0] * window.stride - window.padding
    last = outputs[-1] * window.stride - window.padding + window.length
    if first >= 0 and last <= height:
        return first, last, 0
    # With the padding, the tile's first centre is that of an output only if it starts at a multiple of the stride.
    first = min(max(0, first), height - 1) // window.stride * window.stride
    return first, max(min(last, height), first + 1), window.padding


@lru_cache(maxsize=256)
def _windows(bounds: tuple[int, ...], out_bounds: tuple[int, ...], window: Window, padding_mode: str) -> Wanted:
    """The rows that each rank's outputs read, those outside replaced as ``padding_mode`` says."""
    height, out_height = bounds[-1], out_bounds[-1]

    def inside(row: int) -> int:
        if 0 <= row < height:
            return row
        if padding_mode == "replicate":
            return min(max(row, 0), height - 1)
        if padding_mode == "reflect":
            return abs(row) if row < height else 2 * (height - 1) - row
        return row % height if padding_mode == "circular" else OUTSIDE

    wanted = []
    for start, stop in pairwise(out_bounds):
        outputs = _computed(range(start, stop), out_height)
        first = outputs[0] * window.stride - window.padding
        last = outputs[-1] * window.stride - window.padding + window.length
        wanted.append(tuple(inside(row) for row in range(first, last)))
    return tuple(wanted)


def _numbers(rows: range, device: torch.device) -> Tensor:
    return torch.arange(rows.start, rows.stop, device=device)


@lru_cache(maxsize=256)
def _sources(height: int, out_bounds: tuple[int, ...], dtype: torch.dtype) -> Wanted:
    """The rows that each rank's output rows are mixed of."""
    wanted = []
    for start, stop in pairwise(out_bounds):
        outputs = _computed(range(start, stop), out_bounds[-1])
        low, high, _ = mixture(_numbers(outputs, torch.device("cpu")), height, out_bounds[-1], dtype)
        wanted.append(tuple(range(int(low[0]), int(high[-1]) + 1)))
    return tuple(wanted)
