"""The difference convolution of small maps: all taps of all outputs in one operation each, and one matrix product.

What counts there is the number of operations, and the weight, which is larger than the images. It is used where it
lies, and decides what lies together in lists: channels for a weight in channels_last, else pixels. So a list of pixels
is ``[pixels, C]`` or ``[C, pixels]``, and what every tap of every output has is ``[pixels, kh, kw, C]`` or ``[C, kh, kw,
pixels]``. Guidance and input go together, in this order, as ``[2, ...]``.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from sdn_triton.eager.differences import flow, is_scaled, weighted
from sdn_triton.eager.layouts import compute_dtype, match
from sdn_triton.eager.strips import Strip
from sdn_triton.options import Contrast, DifferenceNeeds, DifferenceOptions

NUMBERS = 2**15
"""Up to so many numbers in the input a call goes by taps."""

View = tuple[tuple[int, ...], tuple[int, ...], int]
"""Sizes, strides and offset."""


class Taps(NamedTuple):
    """Where everything lies in the lists of one shape of images."""

    is_last: bool
    """Whether channels lie together."""
    lists: tuple[int, ...]
    guidance: View
    input: View
    near: View
    far: View
    steps: tuple[int, ...]
    flat: tuple[int, int]
    """Taps and channels as one dimension, in the order of the weight."""
    outputs: View
    by_output: tuple[int, int]
    sums: tuple[View, View]
    back: tuple[int, ...]
    """Sizes of ``h``, of every tap of outputs and of as many pixels around them as a tap reaches."""
    here: View
    there: View
    """Of an output's pixels the opposite taps; of taps in reverse order where pixels lie together."""


def taps_of(input: Tensor, weight: Tensor, options: DifferenceOptions) -> Taps | None:
    """Where everything lies; None where the scheme does not suit."""
    if input.device.type != "cpu":
        return None
    is_last = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    return _taps_of(input.shape, weight.shape[0], options, is_last)


def why_not(shape: tuple[int, ...], options: DifferenceOptions) -> str | None:
    """Why images of this shape do not go by taps; None if they do."""
    if math.prod(shape) > NUMBERS:
        return f"an input of more than {NUMBERS} numbers"
    if options.stride != (1, 1) or options.origin != (0, 0):
        return "an output of another size than the input"
    if options.groups != 1:
        return "groups"
    if options.border != "zeros":
        return f"padding_mode='{options.border}'"
    return None if options.similarity == "channel" else f"similarity='{options.similarity}'"


@lru_cache(maxsize=256)
def _taps_of(shape: tuple[int, ...], O: int, options: DifferenceOptions, is_last: bool) -> Taps | None:
    if why_not(shape, options) is not None:
        return None
    N, C, H, W = shape
    strip = Strip(options, (H, W), N, H)
    L, P, lead, pitch = strip.pixels.length, strip.outputs.length, strip.lead, strip.pixels.pitch
    rows = strip.pixels.spacing * pitch
    first = (strip.pixels.start + options.reach[0]) * pitch
    (height, width), (down, right) = options.kernel_size, (options.dilation[0] * pitch, options.dilation[1])
    start, T = strip.centre - lead, height * width
    if is_last:
        n = T * C

        def maps(channels: int, length: int, first: int) -> View:
            return (N, channels, H, W), (rows * channels, 1, pitch * channels, channels), first * channels

        return Taps(
            True, (2, L, C), maps(C, L, first), maps(C, L, L + first),
            near=((2, P, height, width, C), (L * C, C, 0, 0, 1), strip.centre * C),
            far=((2, P, height, width, C), (L * C, C, down * C, right * C, 1), start * C),
            steps=(P, height, width, C), flat=(P, n), outputs=maps(O, P, 0), by_output=(P, O),
            sums=(maps(C, P, 0), maps(C, P, P)), back=(P + 2 * lead, n),
            here=((P, height, width, C), (n, width * C, C, 1), lead * n),
            there=((P, height, width, C), (n, down * n - width * C, right * n - C, 1), (T - 1) * C),
        )  # fmt: skip

    def maps(channels: int, length: int, first: int) -> View:
        return (N, channels, H, W), (rows, length, pitch, 1), first

    M = P + 2 * lead
    return Taps(
        False, (2, C, L), maps(C, L, first), maps(C, L, C * L + first),
        near=((2, C, height, width, P), (C * L, L, 0, 0, 1), strip.centre),
        far=((2, C, height, width, P), (C * L, L, down, right, 1), start),
        steps=(C, height, width, P), flat=(C * T, P), outputs=maps(O, P, 0), by_output=(O, P),
        sums=(maps(C, P, 0), maps(C, P, C * P)), back=(C * T, M),
        here=((C, height, width, P), (T * M, width * M, M, 1), lead),
        there=((C, height, width, P), (T * M, width * M + down, M + right, 1), 0),
    )  # fmt: skip


class Kept(NamedTuple):
    """What the forward keeps for the backward, of all taps of all outputs."""

    weighted: Tensor
    step: Tensor
    similarity: Tensor


def forward(
    at: Taps,
    output: Tensor,
    input: Tensor,
    guidance: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    k: Contrast,
    options: DifferenceOptions,
    keeps: bool = False,
) -> Kept:
    """Write ``y`` to ``output [N, O, H, W]``; what is returned serves the backward if ``keeps``."""
    dtype = compute_dtype(input)
    kept = _differences(at, input, guidance, k, options, dtype, keeps)
    kernel, f = _flat(at, weight.to(dtype)), kept.weighted.view(at.flat)
    bias = None if bias is None else bias.to(dtype)
    if at.is_last:
        y = torch.mm(f, kernel.t()) if bias is None else torch.addmm(bias, f, kernel.t())
    else:
        y = torch.mm(kernel, f) if bias is None else torch.addmm(bias.unsqueeze(1), kernel, f)
    output.copy_(y.as_strided(*at.outputs))
    return kept


def backward(
    at: Taps,
    grad: Tensor,
    input: Tensor,
    guidance: Tensor,
    weight: Tensor,
    k: Contrast,
    options: DifferenceOptions,
    needs: DifferenceNeeds,
    kept: Kept | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of input, guidance and weight where needed.

    With ``h = K^T G`` of every output and tap, the edge from p to q has ``t = h(p, tap) - h(q, opposite tap)``. It changes
    its sign with the edge's direction, so gradients are plain sums over the taps of a pixel.
    """
    dtype = compute_dtype(input)
    f, d, g = _differences(at, input, guidance, k, options, dtype, True) if kept is None else kept
    G = input.new_zeros(at.by_output, dtype=dtype)
    G.as_strided(*at.outputs).copy_(grad)
    by_input = by_guidance = by_weight = None
    if needs.weight:
        layout = torch.channels_last if at.is_last else torch.contiguous_format
        by_weight = torch.empty_like(weight, dtype=dtype, memory_format=layout)
        left, right = (G.t(), f.view(at.flat)) if at.is_last else (G, f.view(at.flat).t())
        torch.mm(left, right, out=_flat(at, by_weight))
        by_weight = match(by_weight, weight)
    if needs.input or needs.guidance:
        flows = input.new_empty((2, *at.steps), dtype=dtype)
        along, t = flows.unbind(0)
        _back(at, G, _flat(at, weight.to(dtype)), t)
        flow(t, f, d, g, options, (True, needs.guidance, False), out=along)
        sums = flows.flatten(2, 3).sum(2)
        if needs.guidance:
            by_guidance = torch.empty_like(guidance).copy_(sums.as_strided(*at.sums[0]))
            if options.diffusivity == "constant":
                by_guidance.zero_()
            elif is_scaled(k):
                by_guidance.div_(k.view(-1, 1, 1) if isinstance(k, Tensor) else k)
        if needs.input:
            by_input = torch.empty_like(input).copy_(sums.as_strided(*at.sums[1]))
    return by_input, by_guidance, by_weight


def _differences(
    at: Taps, input: Tensor, guidance: Tensor, k: Contrast, options: DifferenceOptions, dtype: torch.dtype, keeps: bool
) -> Kept:
    """The weighted differences of all taps of all outputs, with what they are made of if that is kept.

    Those of the centre, which is no tap, are zero.
    """
    lists = input.new_zeros(at.lists, dtype=dtype)
    lists.as_strided(*at.guidance).copy_(guidance)
    lists.as_strided(*at.input).copy_(input)
    if is_scaled(k):
        lists[0].div_(k.view(-1, 1) if isinstance(k, Tensor) and k.dim() and not at.is_last else k)
    steps = input.new_empty((2, *at.steps), dtype=dtype)
    torch.sub(lists.as_strided(*at.far), lists.as_strided(*at.near), out=steps)
    d, e = steps.unbind(0)
    f, g = weighted(e, d, options, torch.empty_like(d) if keeps else d)
    return Kept(f, d, g)


def _flat(at: Taps, weight: Tensor) -> Tensor:
    """``[O, taps and channels]``."""
    return (weight.permute(0, 2, 3, 1) if at.is_last else weight).reshape(weight.shape[0], -1)


def _back(at: Taps, G: Tensor, kernel: Tensor, out: Tensor) -> None:
    """``-t`` of all taps of all outputs."""
    h = G.new_zeros(at.back)
    if at.is_last:
        lead = at.here[2] // at.back[1]
        torch.mm(G, kernel, out=h[lead : lead + len(G)])
        there = h
    else:
        lead = at.here[2]
        torch.mm(kernel.t(), G, out=h[:, lead : lead + G.shape[1]])
        there = h.view(at.steps[0], -1, at.back[1]).flip(1)
    torch.sub(there.as_strided(*at.there), h.as_strided(*at.here), out=out)
