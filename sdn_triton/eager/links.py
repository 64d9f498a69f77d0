"""The difference convolution strip by strip, link by link: any size, stride, padding and number of groups.

At stride 1 every edge {p, q} of the pixel graph is computed once: ``f = g(d) e`` with ``d = v_q - v_p`` and
``e = u_q - u_p`` serves a tap and its opposite, and with ``t = dL/df`` the gradients are ``g(d) t`` for u and
``g'(d) e t`` for v at q, and minus that at p.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sdn_triton.eager.differences import Call, flow, weighted
from sdn_triton.eager.layouts import Reader, copies_to_list, maps_like
from sdn_triton.eager.products import Products, products
from sdn_triton.eager.strips import Load, Place, Strip, closed_pairs, cut
from sdn_triton.eager.workspace import buffers
from sdn_triton.options import DifferenceNeeds

FORWARD_BYTES = 12 * 2**20
"""What the buffers of a strip may take on a CPU: some of its last-level cache ..."""
FORWARD_LIMIT = 16 * 2**20
"""... and with a weight that is brought into another order no more than this, or than the output."""
LEAST_BYTES = 2 * 2**20
BACKWARD_BYTES = 16 * 2**20
BYTES_ON_GPU = 2**28
TOGETHER = 2**16
"""Up to so many numbers in the input its links are computed at once, in one operation each; else one after another."""


def forward(call: Call, output: Tensor) -> None:
    """Write ``y`` to ``output [N, O, Ho, Wo]``."""
    input, guidance, options = call.input, call.guidance, call.options
    multiply = products(call)
    C, Cg, O, at_once = input.shape[1], guidance.shape[1], output.shape[1], _at_once(call)
    copies = sum(x.shape[1] * copies_to_list(x) for x in (input, guidance))
    load = Load(pixel=copies, pair=at_once * (C + Cg), output=O * copies_to_list(output))
    room = max(FORWARD_LIMIT, output.nbytes) - multiply.packed_bytes
    limit = _numbers(call, min(FORWARD_BYTES, max(LEAST_BYTES, room)))
    for strip, places in cut(options, call.size, input.shape[0], load, limit):
        _forward_strips(call, multiply, strip, places, at_once, output)


def _forward_strips(
    call: Call, multiply: Products, strip: Strip, places: tuple[Place, ...], at_once: int, output: Tensor
) -> None:
    """Write ``y`` at ``places``, in one block of memory that is given back before that of other strips is taken."""
    input, guidance, grid, pairs = call.input, call.guidance, strip.pixels, (at_once, *strip.pair_size)
    with buffers(
        input,
        call.dtype,
        grid.size_for(input),
        grid.size_for(guidance),
        (*pairs, input.shape[1]),
        (*pairs, guidance.shape[1]),
        (strip.outputs.length, output.shape[1]),
    ) as (u_values, v_values, e, d, y):
        images, fs = _Images(call, strip, u_values, v_values), strip.pairs_in(e)
        for place in places:
            images.read(place)
            for first in range(0, len(strip.links), at_once):
                images.subtract(first, e, d)
                weighted(e, d, call.options)
                for i in range(first, first + at_once):
                    images.close(fs[i].all, i)
                    multiply.add(strip, strip.links[i], fs[i], y, is_first=i == 0)
            part = strip.part_of(output, place)
            part.copy_(maps_like(part, y, strip.outputs))


def backward(
    call: Call, grad: Tensor, needs: DifferenceNeeds
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of input, guidance, weight and, per channel, of the contrast's logarithm, where needed."""
    input, guidance, weight, _, _, options, dtype = call
    multiply = products(call)
    C, Cg, O, at_once = input.shape[1], guidance.shape[1], grad.shape[1], _at_once(call)
    copies = sum(x.shape[1] * (1 + copies_to_list(x)) for x in (input, guidance))
    load = Load(pixel=copies, pair=at_once * 2 * (C + Cg), output=O * copies_to_list(grad))
    cuts = cut(options, call.size, input.shape[0], load, _numbers(call, BACKWARD_BYTES))
    # Where a strip has all there is of its images, there is nothing to add to.
    is_cut = not all(strip.is_whole for strip, _ in cuts)
    make = torch.zeros_like if is_cut else torch.empty_like
    by_input = make(input, dtype=dtype) if needs.input else None
    by_guidance = make(guidance, dtype=dtype) if needs.guidance else None
    by_kernels = input.new_zeros((multiply.taps if needs.weight else 0, O, weight.shape[1]), dtype=dtype)
    sums = Sums(by_input, by_guidance, by_kernels.unbind(0), input.new_zeros(Cg, dtype=dtype))
    for strip, places in cuts:
        _backward_strips(call, multiply, strip, places, at_once, grad, needs, sums, is_cut)
    return (
        None if by_input is None else by_input.to(input.dtype),
        None if by_guidance is None else call.from_units(by_guidance).to(guidance.dtype),
        multiply.gradient(by_kernels, weight) if needs.weight else None,
        sums.contrast if needs.contrast else None,
    )


class Sums(NamedTuple):
    """What the strips add their gradients to, in the dtype that is computed in."""

    input: Tensor | None
    guidance: Tensor | None
    """With respect to the guidance in units of the contrast."""
    kernels: tuple[Tensor, ...]
    contrast: Tensor
    """``[Cg]``, with respect to the contrast's logarithm."""


def _backward_strips(
    call: Call,
    multiply: Products,
    strip: Strip,
    places: tuple[Place, ...],
    at_once: int,
    grad: Tensor,
    needs: DifferenceNeeds,
    sums: Sums,
    is_cut: bool,
) -> None:
    """Add the gradients of the outputs at ``places`` to ``sums``."""
    input, guidance, grid, pairs = call.input, call.guidance, strip.pixels, (at_once, *strip.pair_size)
    C, Cg = input.shape[1], guidance.shape[1]
    with buffers(
        input,
        call.dtype,
        grid.size_for(input),
        grid.size_for(guidance),
        strip.gradients.size_for(grad),
        (grid.length, C),
        (grid.length, Cg),
        *((*pairs, channels) for channels in (C, C, Cg, Cg)),
    ) as (u_values, v_values, G_values, back_u, back_v, e, t, d, g):
        images, G_reader = _Images(call, strip, u_values, v_values), Reader(strip.gradients, G_values)
        fs, ts, ends_back = strip.pairs_in(e), strip.pairs_in(t), (strip.ends(back_u), strip.ends(back_v))
        for place in places:
            images.read(place)
            G = G_reader.read(strip.part_of(grad, place))
            back_u.zero_()
            back_v.zero_()
            for first in range(0, len(strip.links), at_once):
                images.subtract(first, e, d)
                f, similarity = weighted(e, d, call.options, g)
                for i in range(first, first + at_once):
                    images.close(fs[i].all, i)
                    if needs.weight:
                        multiply.add_gradient(strip, strip.links[i], fs[i], G, sums.kernels)
                    if needs.input or needs.guidance or needs.contrast:
                        multiply.back(strip, strip.links[i], G, ts[i])
                        images.close(ts[i].all, i)
                *flows, to_contrast = flow(t, f, d, similarity, call.options, needs)
                for values, (near, *far) in zip(flows, ends_back):
                    for i, of_link in enumerate(() if values is None else values.unbind(0)):
                        far[first + i].add_(of_link)
                        near.sub_(of_link)
                if to_contrast is not None:
                    sums.contrast.add_(to_contrast)
            for total, back in ((sums.input, back_u), (sums.guidance, back_v)):
                if total is not None:
                    strip.pass_back(total, place, back, is_cut)


class _Images:
    """Input and guidance of a strip, in units of the contrast, and the differences of its pairs."""

    def __init__(self, call: Call, strip: Strip, u_values: Tensor, v_values: Tensor) -> None:
        self.call, self.strip = call, strip
        self.u: tuple[Tensor, ...] = ()
        self.v: tuple[Tensor, ...] = ()
        self.readers = Reader(strip.pixels, u_values), Reader(strip.pixels, v_values)

    def read(self, place: Place) -> None:
        """Look at the rows that the outputs at ``place`` touch."""
        self.u = self.v = ()  # What was read before may go.
        images = self.call.input, self.call.guidance
        u, v = (self.strip.read(reader, image, place) for reader, image in zip(self.readers, images))
        if self.call.is_scaled:
            v.div_(self.call.k)
        self.u, self.v, self.closed = self.strip.ends(u), self.strip.ends(v), closed_pairs(self.strip, place, u)

    def subtract(self, first: int, e: Tensor, d: Tensor) -> None:
        """The differences of the pairs of as many links as ``e`` and ``d`` have places, from ``first`` on."""
        for (near, *far), out in ((self.u, e), (self.v, d)):
            for i, of_link in enumerate(out.unbind(0)):
                torch.sub(far[first + i], near, out=of_link)

    def close(self, values: Tensor, link: int) -> None:
        """Set the values of a link's pairs to zero where with zero flux nothing passes."""
        if self.closed is not None:
            values.index_fill_(0, self.closed[link], 0)


def _at_once(call: Call) -> int:
    """How many links are computed in one operation."""
    if call.input.numel() > TOGETHER:
        return 1
    taps = call.options.kernel_size[0] * call.options.kernel_size[1] - 1
    return taps // 2 if call.options.stride == (1, 1) else taps


def _numbers(call: Call, size: int) -> int:
    """Numbers that the buffers of a strip may hold, which take ``size`` bytes on a CPU."""
    return (size if call.input.device.type == "cpu" else BYTES_ON_GPU) // call.dtype.itemsize
