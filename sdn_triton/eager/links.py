"""The difference convolution strip by strip, link by link: any size, stride, padding and number of groups.

At stride 1 every edge {p, q} of the pixel graph is computed once: ``f = g(d) e`` with ``d = v_q - v_p`` and
``e = u_q - u_p`` serves a tap and its opposite, and with ``t = dL/df`` the gradients are ``g(d) t`` for u and
``g'(d) e t`` for v at q, and minus that at p.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdn_triton.eager.differences import flow, is_scaled, weighted
from sdn_triton.eager.layouts import Reader, buffers, compute_dtype, lists_for, maps_like
from sdn_triton.eager.products import products
from sdn_triton.eager.strips import Load, Pairs, closed_pairs, cut
from sdn_triton.options import Contrast, DifferenceNeeds, DifferenceOptions

FORWARD_BYTES = 12 * 2**20
"""What the buffers of a strip may take on a CPU: some of its last-level cache. Beside a packed weight ..."""
FORWARD_LIMIT = 16 * 2**20
"""... they take no more than this, or than the output."""
BACKWARD_BYTES = 16 * 2**20
LEAST_BYTES = 4 * 2**20
BYTES_ON_GPU = 2**28
TOGETHER = 2**16
"""Up to so many numbers in the input its links are computed at once, in one operation each; else one after another."""


def forward(
    output: Tensor,
    input: Tensor,
    guidance: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    k: Contrast,
    options: DifferenceOptions,
) -> None:
    """Write ``y`` to ``output [N, O, Ho, Wo]``."""
    dtype, size = compute_dtype(input), (input.shape[2], input.shape[3])
    multiply = products(weight, bias, options, dtype)
    C, Cg, O = input.shape[1], guidance.shape[1], weight.shape[0]
    at_once = _at_once(input, options)
    copies = sum(x.shape[1] * lists_for(x) for x in (input, guidance))
    load = Load(pixel=copies, pair=at_once * (C + Cg), output=O * lists_for(output))
    room = max(FORWARD_LIMIT, output.nbytes) - multiply.packed_bytes
    limit = _numbers(input, min(FORWARD_BYTES, max(LEAST_BYTES, room)))
    for strip, places in cut(options, size, input.shape[0], load, limit):
        pairs, grid, shape = (at_once, *strip.pair_size), strip.pixels, (strip.outputs.length, O)
        u_values, v_values, e, d, y = buffers(
            input, dtype, grid.size_for(input), grid.size_for(guidance), (*pairs, C), (*pairs, Cg), shape
        )
        u_reader, v_reader, fs = Reader(grid, u_values), Reader(grid, v_values), strip.pairs_in(e)
        es, ds = e.unbind(0), d.unbind(0)
        for place in places:
            u, v = strip.read(u_reader, input, place), strip.read(v_reader, guidance, place)
            if is_scaled(k):
                v.div_(k)
            closed = closed_pairs(strip, place, u)
            u_ends, v_ends = strip.ends(u), strip.ends(v)
            for first in range(0, len(strip.links), at_once):
                subtract(u_ends, first, es)
                subtract(v_ends, first, ds)
                weighted(e, d, options)
                for i in range(first, first + at_once):
                    close(fs[i], closed, i)
                    multiply.add(strip, strip.links[i], fs[i], y, is_first=i == 0)
            part = strip.part_of(output, place)
            part.copy_(maps_like(part, y, strip.outputs))


def backward(
    grad: Tensor,
    input: Tensor,
    guidance: Tensor,
    weight: Tensor,
    k: Contrast,
    options: DifferenceOptions,
    needs: DifferenceNeeds,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of input, guidance, weight and, per channel, of the contrast's logarithm, where needed."""
    dtype, size = compute_dtype(input), (input.shape[2], input.shape[3])
    multiply = products(weight, None, options, dtype)
    C, Cg, O = input.shape[1], guidance.shape[1], weight.shape[0]
    at_once = _at_once(input, options)
    copies = sum(x.shape[1] * (1 + lists_for(x)) for x in (input, guidance))
    load = Load(pixel=copies, pair=at_once * 2 * (C + Cg), output=O * lists_for(grad))
    cuts = cut(options, size, input.shape[0], load, _numbers(input, BACKWARD_BYTES))
    # Where a strip has all there is of its images, there is nothing to add to.
    is_cut = not all(strip.is_whole for strip, _ in cuts)
    make = torch.zeros_like if is_cut else torch.empty_like
    by_input = make(input, dtype=dtype) if needs.input else None
    by_guidance = make(guidance, dtype=dtype) if needs.guidance else None
    by_kernels = input.new_zeros((multiply.taps, O, weight.shape[1]), dtype=dtype) if needs.weight else None
    sums = None if by_kernels is None else list(by_kernels.unbind(0))
    by_contrast = input.new_zeros(Cg, dtype=dtype) if needs.contrast else None
    wanted = needs.input, needs.guidance, needs.contrast
    for strip, places in cuts:
        pairs, grid = (at_once, *strip.pair_size), strip.pixels
        u_values, v_values, G_values, back_u, back_v, e, t, d, g = buffers(
            input, dtype, grid.size_for(input), grid.size_for(guidance), strip.gradients.size_for(grad),
            (grid.length, C), (grid.length, Cg), (*pairs, C), (*pairs, C), (*pairs, Cg), (*pairs, Cg),
        )  # fmt: skip
        u_reader, v_reader, G_reader = Reader(grid, u_values), Reader(grid, v_values), Reader(strip.gradients, G_values)
        ends_back, fs, ts = (strip.ends(back_u), strip.ends(back_v)), strip.pairs_in(e), strip.pairs_in(t)
        es, ds = e.unbind(0), d.unbind(0)
        for place in places:
            u, v = strip.read(u_reader, input, place), strip.read(v_reader, guidance, place)
            if is_scaled(k):
                v.div_(k)
            G = G_reader.read(strip.part_of(grad, place))
            closed = closed_pairs(strip, place, u)
            back_u.zero_()
            back_v.zero_()
            u_ends, v_ends = strip.ends(u), strip.ends(v)
            for first in range(0, len(strip.links), at_once):
                subtract(u_ends, first, es)
                subtract(v_ends, first, ds)
                f, similarity = weighted(e, d, options, g)
                for i in range(first, first + at_once):
                    close(fs[i], closed, i)
                    if sums is not None:
                        multiply.add_gradient(strip, strip.links[i], fs[i], G, sums)
                    if any(wanted):
                        multiply.back(strip, strip.links[i], G, ts[i])
                        close(ts[i], closed, i)
                *flows, to_contrast = flow(t, f, d, similarity, options, wanted)
                for values, (near, *far) in zip(flows, ends_back):
                    if values is not None:
                        for i, of_link in enumerate(values.unbind(0)):
                            far[first + i].add_(of_link)
                            near.sub_(of_link)
                if to_contrast is not None:
                    by_contrast.add_(to_contrast)
            for total, back in ((by_input, back_u), (by_guidance, back_v)):
                if total is not None:
                    strip.pass_back(total, place, back, is_cut)
    if by_guidance is not None and is_scaled(k):
        by_guidance.div_(k.view(-1, 1, 1) if isinstance(k, Tensor) else k)
    return (
        None if by_input is None else by_input.to(input.dtype),
        None if by_guidance is None else by_guidance.to(guidance.dtype),
        None if by_kernels is None else multiply.gradient(by_kernels, weight),
        by_contrast,
    )


def subtract(ends: tuple[Tensor, ...], first: int, out: tuple[Tensor, ...]) -> None:
    """The differences of the pairs of the links from ``first`` on, far minus near."""
    near = ends[0]
    for far, of_link in zip(ends[first + 1 :], out):
        torch.sub(far, near, out=of_link)


def close(values: Pairs, closed: list[Tensor] | None, link: int) -> None:
    """Set the values of a link's closed pairs to zero."""
    if closed is not None:
        values.all.index_fill_(0, closed[link], 0)


def _at_once(input: Tensor, options: DifferenceOptions) -> int:
    if input.numel() > TOGETHER:
        return 1
    taps = options.kernel_size[0] * options.kernel_size[1] - 1
    return taps // 2 if options.stride == (1, 1) else taps


def _numbers(tensor: Tensor, size: int) -> int:
    """Numbers that the buffers of a strip may hold, which are ``size`` bytes on a CPU."""
    return (size if tensor.device.type == "cpu" else BYTES_ON_GPU) // compute_dtype(tensor).itemsize
