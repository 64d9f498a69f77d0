"""The difference convolution of small maps: all taps of all outputs in one operation each, and one matrix product.

What counts there is the number of operations, and the weight, which is larger than the images. It is used where it
lies, and decides what lies together: channels for a weight in channels_last, else pixels. So a list of pixels is
``[pixels, C]`` or ``[C, pixels]``, and what every tap of every output has is ``[N, H, W, kh, kw, C]`` or
``[C, kh, kw, pixels]``. Guidance and input go together, in this order, as ``[2, ...]``.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from sdn_triton.eager.differences import Call, flow, weighted
from sdn_triton.eager.layouts import divide, match
from sdn_triton.eager.strips import Strip
from sdn_triton.eager.workspace import workspace
from sdn_triton.options import DifferenceNeeds, DifferenceOptions

NUMBERS = 2**16
"""Up to so many numbers in the input a forward goes by taps ..."""
BACKWARD_NUMBERS = 2**15
"""... and up to so many a backward, for which the forward keeps what it has made."""

View = tuple[tuple[int, ...], tuple[int, ...], int]
"""Sizes, strides and offset."""


class Taps(NamedTuple):
    """Where everything lies, for one shape of images."""

    is_last: bool
    """Whether channels lie together."""
    lists: tuple[int, ...]
    images: tuple[View, View]
    near: View
    far: View
    steps: tuple[int, ...]
    flat: tuple[int, int]
    """Taps and channels as one dimension, in the order of the weight."""
    outputs: View
    gradients: View
    """Those of outputs, in a list of pixels."""
    by_output: tuple[int, int]
    sums: tuple[View, View]
    back: tuple[int, int]
    """Sizes of ``h = K^T G`` of the outputs and of as many pixels around them as a tap reaches, where it is zero."""
    lead: int
    here: View
    there: View
    """In ``h`` the opposite taps of the far ends; taps are in reverse order where pixels lie together."""


def why_not(shape: tuple[int, ...], options: DifferenceOptions, device: str = "cpu") -> str | None:
    """What keeps images of this shape from the scheme; None if nothing does."""
    if math.prod(shape) > NUMBERS:
        return f"more than {NUMBERS} numbers in the input"
    if device != "cpu":
        return f"the device, {device}"
    if options.stride != (1, 1) or options.origin != (0, 0):
        return "an output that is not of the input's size"
    if options.groups != 1:
        return f"groups={options.groups}"
    if options.border != "zeros":
        return f"padding_mode='{options.border}'"
    return None if options.similarity == "channel" else f"similarity='{options.similarity}'"


def taps_of(call: Call, most: int = NUMBERS) -> Taps | None:
    """Where everything lies; None where the scheme does not suit, as for inputs of more than ``most`` numbers."""
    weight = call.weight
    if weight.device.type != "cpu" or call.input.numel() > most:
        return None
    is_last = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    return _taps_of(call.input.shape, weight.shape[0], call.options, is_last)


@lru_cache(maxsize=256)
def _taps_of(shape: tuple[int, ...], O: int, options: DifferenceOptions, is_last: bool) -> Taps | None:
    if why_not(shape, options) is not None:
        return None
    N, C, H, W = shape
    strip = Strip(options, (H, W), N, H)
    L, P, lead, pitch = strip.pixels.length, strip.outputs.length, strip.lead, strip.pixels.pitch
    (height, width), (down, right) = options.kernel_size, (options.dilation[0] * pitch, options.dilation[1])
    T, M = height * width, P + 2 * lead

    # The pixels around the images, which a list has, take part only where their rows are what is long in memory.
    pixels = (N, H, W) if is_last else (P,)
    Q = math.prod(pixels)

    def across(pixel: int) -> tuple[int, ...]:
        """The strides of pixels in a list."""
        return (strip.pixels.spacing * pitch * pixel, pitch * pixel, pixel) if is_last else (pixel,)

    def ordered(pixels: tuple[int, ...], rows: int, columns: int, channels: int) -> tuple[int, ...]:
        return (*pixels, rows, columns, channels) if is_last else (channels, rows, columns, *pixels)

    def flat(pixels: int, channels: int) -> tuple[int, int]:
        return (pixels, channels) if is_last else (channels, pixels)

    def maps(channels: int, length: int, first: int = 0, offset: int = 0) -> View:
        """The images in a list of ``length`` pixels that begin with pixel ``first``."""
        pixel, channel = (channels, 1) if is_last else (1, length)
        row = pitch * pixel
        return (N, channels, H, W), (strip.pixels.spacing * row, channel, row, pixel), offset + first * pixel

    def results(channels: int, offset: int = 0) -> View:
        """The images in what was computed for all pixels."""
        if not is_last:
            return maps(channels, P, 0, offset)
        return (N, channels, H, W), (H * W * channels, 1, W * channels, channels), offset

    pixel, channel = (C, 1) if is_last else (1, L)
    first, steps = (strip.pixels.start + options.reach[0]) * pitch, ordered(pixels, height, width, C)
    # Those of h, which has taps between pixels and channels.
    h_pixel, h_tap, h_channel = (T * C, C, 1) if is_last else (1, M, T * M)
    back = -h_tap if is_last else h_tap
    return Taps(
        is_last,
        lists=(2, *flat(L, C)),
        images=(maps(C, L, first), maps(C, L, first, L * C)),
        near=((2, *steps), (L * C, *ordered(across(pixel), 0, 0, channel)), strip.centre * pixel),
        far=(
            (2, *steps),
            (L * C, *ordered(across(pixel), down * pixel, right * pixel, channel)),
            (strip.centre - lead) * pixel,
        ),
        steps=steps,
        flat=flat(Q, T * C),
        outputs=results(O),
        gradients=maps(O, P),
        by_output=flat(P, O),
        sums=(results(C), results(C, Q * C)),
        back=flat(M, T * C),
        lead=lead,
        here=(steps, ordered(across(h_pixel), width * h_tap, h_tap, h_channel), lead * h_pixel),
        there=(
            steps,
            ordered(across(h_pixel), down * h_pixel + width * back, right * h_pixel + back, h_channel),
            (T - 1) * h_tap if is_last else 0,
        ),
    )


class Memory:
    """What differences are made in, with all views of it.

    For the smallest maps, to make it takes as long as to compute with it.
    """

    def __init__(self, at: Taps, dtype: torch.dtype) -> None:
        with torch.inference_mode(False):
            lists = torch.zeros(at.lists, dtype=dtype, device="cpu")
            self.steps = torch.empty((2, *at.steps), dtype=dtype, device="cpu")
        self.nbytes = lists.nbytes + self.steps.nbytes
        self.images = [lists.as_strided(*view) for view in at.images]
        self.near, self.far = lists.as_strided(*at.near), lists.as_strided(*at.far)
        self.d, self.e = self.steps.unbind(0)
        self.f = self.e.view(at.flat)

    def subtract(self, call: Call) -> tuple[Tensor, Tensor]:
        """The differences of guidance and of input of all taps of all outputs; those of the centre are zero."""
        # What lies around the images is zero and is never written to.
        for image, values in zip(self.images, (call.guidance, call.input)):
            image.copy_(values)
        divide(self.images[0], call.k)
        torch.sub(self.far, self.near, out=self.steps)
        return self.d, self.e


class Kept(NamedTuple):
    """What a forward keeps for the backward, of all taps of all outputs."""

    weighted: Tensor
    step: Tensor
    similarity: Tensor


def forward(at: Taps, call: Call, output: Tensor) -> None:
    """Write ``y`` to ``output [N, O, H, W]``."""
    memory = workspace.take((at, call.dtype), lambda: Memory(at, call.dtype))
    d, e = memory.subtract(call)
    weighted(e, d, call.options)
    _multiply(at, call, memory.f, output)
    workspace.give_back((at, call.dtype), memory)


def forward_and_keep(at: Taps, call: Call, output: Tensor) -> Kept:
    """The same, and what the backward need not compute again."""
    kept = _differences(at, call)
    _multiply(at, call, kept.weighted.view(at.flat), output)
    return kept


def _multiply(at: Taps, call: Call, f: Tensor, output: Tensor) -> None:
    """Write ``y`` to ``output`` from the weighted differences of all taps, as :attr:`Taps.flat`."""
    kernel = _flat(at, call.weight.to(call.dtype))
    left, right = (f, kernel.t()) if at.is_last else (kernel, f)
    if call.bias is None:
        y = torch.mm(left, right)
    else:
        bias = call.bias.to(call.dtype)
        y = torch.addmm(bias if at.is_last else bias.unsqueeze(1), left, right)
    output.copy_(y.as_strided(*at.outputs))


def backward(
    at: Taps, call: Call, grad: Tensor, needs: DifferenceNeeds, kept: Kept | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of input, guidance and weight where needed.

    With ``h = K^T G`` of every output and tap, the edge from p to q has ``t = h(p, tap) - h(q, opposite tap)``. It
    changes its sign with the edge's direction, so gradients are plain sums over the taps of a pixel.
    """
    input, guidance, weight, options = call.input, call.guidance, call.weight, call.options
    f, d, g = _differences(at, call) if kept is None else kept
    G = input.new_zeros(at.by_output, dtype=call.dtype)
    G.as_strided(*at.gradients).copy_(grad)
    by_input = by_guidance = by_weight = None
    if needs.weight:
        layout = torch.channels_last if at.is_last else torch.contiguous_format
        by_weight = torch.empty_like(weight, dtype=call.dtype, memory_format=layout)
        by_pixel = grad.permute(1, 0, 2, 3).reshape(grad.shape[1], -1).to(call.dtype) if at.is_last else G
        torch.mm(by_pixel, f.view(at.flat) if at.is_last else f.view(at.flat).t(), out=_flat(at, by_weight))
        by_weight = match(by_weight, weight)
    if needs.input or needs.guidance:
        flows = input.new_empty((2, *at.steps), dtype=call.dtype)
        along, t = flows.unbind(0)
        _back(at, G, _flat(at, weight.to(call.dtype)), out=t)
        flow(t, f, d, g, options, needs._replace(input=True), out=along)
        sums = flows.flatten(-3, -2).sum(-2) if at.is_last else flows.flatten(2, 3).sum(2)
        if needs.guidance and options.diffusivity == "constant":
            by_guidance = torch.zeros_like(guidance)
        elif needs.guidance:
            by_guidance = divide(torch.empty_like(guidance).copy_(sums.as_strided(*at.sums[0])), call.k)
        if needs.input:
            by_input = torch.empty_like(input).copy_(sums.as_strided(*at.sums[1]))
    return by_input, by_guidance, by_weight


def _differences(at: Taps, call: Call) -> Kept:
    """The weighted differences of all taps of all outputs, with what they are made of, for keeping."""
    d, e = Memory(at, call.dtype).subtract(call)
    f, g = weighted(e, d, call.options, torch.empty_like(d))
    return Kept(f, d, g)


def _flat(at: Taps, weight: Tensor) -> Tensor:
    """``[O, taps and channels]``, a view of a weight in the layout that ``at`` is for."""
    return (weight.permute(0, 2, 3, 1) if at.is_last else weight).reshape(weight.shape[0], -1)


def _back(at: Taps, G: Tensor, kernel: Tensor, out: Tensor) -> None:
    """``-t`` of all taps of all outputs."""
    h, channels = G.new_zeros(at.back), 1 - at.is_last
    left, right = (G, kernel) if at.is_last else (kernel.t(), G)
    torch.mm(left, right, out=h.narrow(channels, at.lead, G.shape[channels]))
    there = h if at.is_last else h.view(at.steps[0], -1, at.back[1]).flip(1)
    torch.sub(there.as_strided(*at.there), h.as_strided(*at.here), out=out)
