"""The semantic difference convolution in plain PyTorch: forward and explicit backward, strip by strip.

    y[n,o,p] = b[o] + sum_{c, tap != centre} K[o,c,tap] g(v_q - v_p) (u_q - u_p)

At stride 1 every edge {p, q} of the pixel graph is computed once: ``f = g(d) e`` with ``d = v_q - v_p`` and
``e = u_q - u_p`` serves a tap and its opposite, and with ``t = dL/df`` the gradients are ``g(d) t`` for u and
``g'(d) e t`` for v at q, and minus that at p.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sdn_triton.eager.diffusivity import steepness
from sdn_triton.eager.edges import Edges, can_read
from sdn_triton.eager.layouts import compute_dtype, read_image, write_image
from sdn_triton.eager.pairs import Difference, Ends, Pairs, is_scaled, scale, weighted_difference
from sdn_triton.eager.products import Products, products
from sdn_triton.eager.strips import Field, Load, close, closed_pairs, cut
from sdn_triton.options import Contrast, DifferenceGradients, DifferenceNeeds, DifferenceOptions
from sdn_triton.outputs import empty_output

CACHE_BYTES = 8 * 2**20
"""What the buffers of a strip may take on a CPU, to stay in its last-level cache."""
LEAST_BYTES = 2**19
"""What they may take on a CPU however small the output is."""
LEAST_BYTES_ON_GPU = 2**28


def forward(
    input: Tensor,
    guidance: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    contrast: Contrast,
    options: DifferenceOptions,
) -> Tensor:
    """``y [N, O, Ho, Wo]`` in the dtype and memory format of ``input [N, C, H, W]``.

    All buffers together take no more memory than the output, if that is large enough for a row of it at a time.
    """
    size = input.shape[2], input.shape[3]
    shape = input.shape[0], weight.shape[0], *options.output_size(*size)
    output = empty_output(shape, like=input)
    if output.is_meta or output.numel() == 0:
        return output
    if not options.taps:
        return output.zero_() if bias is None else output.copy_(bias.view(1, -1, 1, 1).expand(shape))
    dtype = compute_dtype(input)
    k = _divisor(contrast, dtype)
    taps = products(weight, bias, options, dtype)
    C, Cg, O = input.shape[1], guidance.shape[1], weight.shape[0]
    in_place = can_read(input, guidance, options)
    accumulates = output.dtype == dtype and output.stride(1) == 1
    copied = input.dtype != dtype
    load = Load(
        pixel=C * copied + Cg * (copied or is_scaled(k)) if in_place else C + Cg,
        pair=C + max(Cg, O),
        output=0 if accumulates else O,
        rim=C if in_place else 0,
    )
    limit = _limit(input, output.nbytes - taps.nbytes) // dtype.itemsize
    for strip, places in cut(options, size, input.shape[0], load, limit):
        pairs = (Edges if in_place else Pairs)(strip, input, guidance, k, dtype)
        for place in places:
            pairs.read(place)
            part = strip.part_of(output, place)
            total = part if accumulates else torch.empty_like(part, dtype=dtype, memory_format=torch.channels_last)
            for i in range(len(strip.links)):
                taps.add(strip, i, pairs.weighted(i), total)
            if not accumulates:
                write_image(part, total)
        del pairs, total  # before those of the next strip are made
    return output


def backward(
    grad: Tensor,
    input: Tensor,
    guidance: Tensor,
    weight: Tensor,
    contrast: Contrast,
    options: DifferenceOptions,
    needs: DifferenceNeeds,
) -> DifferenceGradients:
    """The gradients that are needed, each in the shape, dtype and memory format of its argument."""
    dtype = compute_dtype(input)
    k = _divisor(contrast, dtype)
    taps = products(weight, None, options, dtype)
    sums = Sums(
        input=torch.zeros_like(input, dtype=dtype) if needs.input else None,
        guidance=torch.zeros_like(guidance, dtype=dtype) if needs.guidance else None,
        kernels=[torch.zeros_like(kernel) for kernel in taps.kernels] if needs.weight else None,
        contrast=input.new_zeros(guidance.shape[1], dtype=dtype) if needs.contrast else None,
    )
    if options.taps and grad.numel() > 0 and not grad.is_meta:
        _accumulate(sums, grad, input, guidance, k, options, taps)
    by_contrast = sums.contrast
    if by_contrast is not None:
        assert isinstance(contrast, Tensor)
        by_contrast = (by_contrast / contrast if contrast.dim() else by_contrast.sum() / contrast).to(contrast.dtype)
    return DifferenceGradients(
        input=None if sums.input is None else sums.input.to(input.dtype),
        guidance=None if sums.guidance is None else sums.guidance.div_(k).to(guidance.dtype),
        weight=None if sums.kernels is None else taps.unpack(sums.kernels, weight),
        bias=grad.sum((0, 2, 3), dtype=dtype).to(grad.dtype) if needs.bias else None,
        contrast=by_contrast,
    )


class Sums(NamedTuple):
    """What the strips add their gradients to, in the dtype that is computed in; None where not asked for."""

    input: Tensor | None
    guidance: Tensor | None
    """With respect to the guidance in units of the contrast."""
    kernels: list[Tensor] | None
    contrast: Tensor | None
    """``[Cg]``, with respect to the contrast's logarithm."""


def _accumulate(
    sums: Sums,
    grad: Tensor,
    input: Tensor,
    guidance: Tensor,
    k: Contrast,
    options: DifferenceOptions,
    taps: Products,
) -> None:
    """Add the gradients of all strips to ``sums``."""
    size, dtype = (input.shape[2], input.shape[3]), compute_dtype(input)
    C, Cg, O = input.shape[1], guidance.shape[1], grad.shape[1]
    needs_t = sums.input is not None or sums.guidance is not None or sums.contrast is not None
    load = Load(pixel=2 * (C + Cg), pair=3 * C + 2 * Cg, output=O)
    for strip, places in cut(options, size, input.shape[0], load, _limit(input, CACHE_BYTES) // dtype.itemsize):
        u, v, by_u, by_v = (Field(strip, x, dtype) for x in (input, guidance, input, guidance))
        G = strip.output_buffer(O, grad, dtype).zero_()
        # Made once a strip: memory that is given back after every link is cleared by the system before it returns.
        fs, steps, similarities = (strip.pair_buffers(channels, input, dtype) for channels in (C, Cg, Cg))
        for place in places:
            u.read(input, place)
            scale(v.read(guidance, place), k)
            read_image(strip.images_of(G), strip.part_of(grad, place))
            by_u.values.zero_()
            by_v.values.zero_()
            closed = closed_pairs(strip, place, u.values)
            for i, link in enumerate(strip.links):
                difference = weighted_difference(u.ends[i], v.ends[i], options, fs[i], steps[i], similarities[i])
                close(difference.weighted, closed, i)
                t, by_kernel = taps.back(i, link.spacing, difference.weighted, G, (needs_t, sums.kernels is not None))
                if sums.kernels is not None and by_kernel is not None:
                    sums.kernels[i].add_(by_kernel)
                if t is not None:
                    close(t, closed, i)
                    _push(t, difference, options, sums, by_u.ends[i], by_v.ends[i])
            for total, field in ((sums.input, by_u), (sums.guidance, by_v)):
                if total is not None:
                    field.add_to(total, place)


def _push(t: Tensor, difference: Difference, options: DifferenceOptions, sums: Sums, by_u: Ends, by_v: Ends) -> None:
    """What pairs with ``t = dL/df`` add to the gradients at their ends; ``t`` and ``difference`` are used up."""
    f, similarity, step = difference
    flow = f.mul_(t)
    if sums.input is not None:
        t.mul_(similarity)
        by_u[1].add_(t)
        by_u[0].sub_(t)
    if options.diffusivity == "constant" or (sums.guidance is None and sums.contrast is None):
        return
    if options.similarity == "vector":
        flow = flow.sum(1, keepdim=True)
    # dL/d(step) = g'(d) k e t = -steepness step f t
    flow.mul_(steepness(options.diffusivity, similarity, out=similarity))
    flow = flow.mul_(step) if flow.shape == step.shape else flow * step
    if sums.guidance is not None:
        by_v[1].sub_(flow)
        by_v[0].add_(flow)
    if sums.contrast is not None:
        sums.contrast.add_(flow.mul_(step).sum((0, 2, 3)))


def _limit(tensor: Tensor, spare: int) -> int:
    """Bytes that the buffers of a strip may take: as many as the output where that is not too few or too many."""
    if tensor.device.type != "cpu":
        return max(LEAST_BYTES_ON_GPU, spare)
    return min(CACHE_BYTES, max(LEAST_BYTES, spare))


def _divisor(contrast: Contrast, dtype: torch.dtype) -> Contrast:
    """k in the shape and dtype to divide guidance by."""
    return contrast.to(dtype).view(-1, 1, 1) if isinstance(contrast, Tensor) else contrast
