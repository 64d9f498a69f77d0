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
from sdn_triton.eager.layouts import Reader, copies_to_list, divide, maps_like
from sdn_triton.eager.products import Products, products
from sdn_triton.eager.strips import Load, Place, Strip, closed_pairs, cut
from sdn_triton.eager.workspace import laid_out
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
    with laid_out(
        _Forward,
        strip,
        input,
        call.dtype,
        grid.size_for(input),
        grid.size_for(guidance),
        (*pairs, input.shape[1]),
        (*pairs, guidance.shape[1]),
        (strip.outputs.length, output.shape[1]),
    ) as at:
        images, y = at.images, at.y
        for place in places:
            images.read(call, place)
            for first in range(0, len(strip.links), at_once):
                images.subtract(first)
                weighted(images.e, images.d, call.options)
                for i in range(first, first + at_once):
                    images.close(at.f[i].all, i)
                    multiply.add(strip, strip.links[i], at.f[i], y, is_first=i == 0)
            part = strip.part_of(output, place)
            part.copy_(maps_like(part, y, strip.outputs))
        images.drop()


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
        None if by_guidance is None else divide(by_guidance, call.k).to(guidance.dtype),
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
    with laid_out(
        _Backward,
        strip,
        input,
        call.dtype,
        grid.size_for(input),
        grid.size_for(guidance),
        strip.gradients.size_for(grad),
        (grid.length, C),
        (grid.length, Cg),
        *((*pairs, channels) for channels in (C, C, Cg, Cg)),
    ) as at:
        images, e, d = at.images, at.images.e, at.images.d
        for place in places:
            images.read(call, place)
            G = at.gradients.read(strip.part_of(grad, place))
            at.by_input.zero_()
            at.by_guidance.zero_()
            for first in range(0, len(strip.links), at_once):
                images.subtract(first)
                f, similarity = weighted(e, d, call.options, at.g)
                for i in range(first, first + at_once):
                    images.close(at.f[i].all, i)
                    if needs.weight:
                        multiply.add_gradient(strip, strip.links[i], at.f[i], G, sums.kernels)
                    if needs.input or needs.guidance or needs.contrast:
                        multiply.back(strip, strip.links[i], G, at.t_of_links[i])
                        images.close(at.t_of_links[i].all, i)
                *flows, to_contrast = flow(at.t, f, d, similarity, call.options, needs)
                for values, (near, *far) in zip(flows, at.ends_back):
                    for i, of_link in enumerate(() if values is None else values.unbind(0)):
                        far[first + i].add_(of_link)
                        near.sub_(of_link)
                if to_contrast is not None:
                    sums.contrast.add_(to_contrast)
            for total, back in ((sums.input, at.by_input), (sums.guidance, at.by_guidance)):
                if total is not None:
                    strip.pass_back(total, place, back, is_cut)
        images.drop()


class _Images:
    """Input and guidance of a strip, in units of the contrast, and the differences of its pairs.

    ``e`` and ``d``, of input and guidance, have places for as many links as are computed at once.
    """

    def __init__(self, strip: Strip, u_values: Tensor, v_values: Tensor, e: Tensor, d: Tensor) -> None:
        self.strip, self.e, self.d = strip, e, d
        self.of_links = e.unbind(0), d.unbind(0)
        self.readers = Reader(strip.pixels, u_values), Reader(strip.pixels, v_values)
        # A list that is not the buffer itself is another one every time.
        self.kept_ends = tuple(strip.ends(reader.values) if reader.is_list else None for reader in self.readers)
        self.drop()

    def forget(self) -> None:
        """Nothing is known of what the buffers hold."""
        for reader in self.readers:
            reader.forget()

    def drop(self) -> None:
        """Let go of what was read into other memory than the buffers'."""
        self.ends: tuple[tuple[Tensor, ...], ...] = ()
        self.closed: list[Tensor] | None = None

    def read(self, call: Call, place: Place) -> None:
        """Look at the rows that the outputs at ``place`` touch."""
        self.drop()
        u = self.strip.read(self.readers[0], call.input, place)
        v = self.strip.read(self.readers[1], call.guidance, place, call.k)
        self.ends = tuple(kept or self.strip.ends(values) for kept, values in zip(self.kept_ends, (u, v)))
        self.closed = closed_pairs(self.strip, place, u)

    def subtract(self, first: int) -> None:
        """The differences of the pairs of as many links as there are places for, from ``first`` on."""
        for (near, *far), of_links in zip(self.ends, self.of_links):
            for i, of_link in enumerate(of_links):
                torch.sub(far[first + i], near, out=of_link)

    def close(self, values: Tensor, link: int) -> None:
        """Set the values of a link's pairs to zero where with zero flux nothing passes."""
        if self.closed is not None:
            values.index_fill_(0, self.closed[link], 0)


class _Forward:
    """The buffers of a forward, and all views of them."""

    def __init__(self, strip: Strip, u_values: Tensor, v_values: Tensor, e: Tensor, d: Tensor, y: Tensor) -> None:
        self.images, self.f, self.y = _Images(strip, u_values, v_values, e, d), strip.pairs_in(e), y

    def forget(self) -> None:
        self.images.forget()


class _Backward:
    """The buffers of a backward, and all views of them."""

    def __init__(
        self,
        strip: Strip,
        u_values: Tensor,
        v_values: Tensor,
        G_values: Tensor,
        by_input: Tensor,
        by_guidance: Tensor,
        e: Tensor,
        t: Tensor,
        d: Tensor,
        g: Tensor,
    ) -> None:
        self.images, self.gradients = _Images(strip, u_values, v_values, e, d), Reader(strip.gradients, G_values)
        self.by_input, self.by_guidance, self.t, self.g = by_input, by_guidance, t, g
        self.f, self.t_of_links = strip.pairs_in(e), strip.pairs_in(t)
        self.ends_back = strip.ends(by_input), strip.ends(by_guidance)

    def forget(self) -> None:
        self.images.forget()
        self.gradients.forget()


def _at_once(call: Call) -> int:
    """How many links are computed in one operation."""
    if call.input.numel() > TOGETHER:
        return 1
    taps = call.options.kernel_size[0] * call.options.kernel_size[1] - 1
    return taps // 2 if call.options.stride == (1, 1) else taps


def _numbers(call: Call, size: int) -> int:
    """Numbers that the buffers of a strip may hold, which take ``size`` bytes on a CPU."""
    return (size if call.input.device.type == "cpu" else BYTES_ON_GPU) // call.dtype.itemsize
