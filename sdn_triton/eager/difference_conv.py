"""The semantic difference convolution in plain PyTorch: forward and explicit backward, strip by strip.

    y[n,o,p] = b[o] + sum_{c, tap != centre} K[o,c,tap] g((v_q - v_p) / k) (u_q - u_p)

At stride 1 every edge {p, q} of the pixel graph is computed once: ``f = g(d) e`` with ``d = v_q - v_p`` and
``e = u_q - u_p`` serves tap and opposite tap, and with ``t = dL/df`` the gradients are ``g t`` for u and ``g'(d) e t``
for v, at q, and minus that at p.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sdn_triton.eager.diffusivity import diffusivity, steepness
from sdn_triton.eager.layouts import compute_dtype, memory_format, read_image, write_image
from sdn_triton.eager.products import products
from sdn_triton.eager.strips import Field, Load, close, closed_pairs, cut
from sdn_triton.options import Contrast, DifferenceGradients, DifferenceNeeds, DifferenceOptions

CACHE_BYTES = 8 * 2**20
"""What the buffers of a strip may take on a CPU, to stay in its last-level cache."""
LEAST_BYTES = 2**19
"""What they may take however small the output is."""
LEAST_BYTES_ON_GPU = 2**28

Ends = tuple[Tensor, Tensor]


class Difference(NamedTuple):
    """The differences of one link's pairs."""

    weighted: Tensor
    """``f = g(d) e``, ``[..., C]``."""
    similarity: Tensor
    """``g(d)``, ``[..., C]`` or, of vectors, ``[..., 1]``."""
    step: Tensor
    """``d / k``, ``[..., Cg]``."""


def weighted_difference(input: Ends, guidance: Ends, options: DifferenceOptions, keep_step: bool = False) -> Difference:
    """``g(|v_q - v_p|) (u_q - u_p)`` for values at the near and far ends of pairs, the guidance in units of the contrast.

    Without ``keep_step`` the memory of the step is used again for the similarity.
    """
    step = torch.sub(guidance[1], guidance[0])
    a = torch.mul(step, step, out=None if keep_step else step)
    if options.similarity == "vector":
        a = a.sum(1, keepdim=True)
    similarity = diffusivity(options.diffusivity, a, out=a)
    return Difference(torch.sub(input[1], input[0]).mul_(similarity), similarity, step)


@torch.no_grad()
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
    output = torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=memory_format(input))
    if output.is_meta or output.numel() == 0:
        return output
    if not options.taps:
        return output.zero_() if bias is None else output.copy_(bias.view(1, -1, 1, 1).expand(shape))
    dtype = compute_dtype(input)
    taps = products(weight, bias, options, dtype)
    C, Cg, O = input.shape[1], guidance.shape[1], weight.shape[0]
    load = Load(pixel=C + Cg, pair=C + max(Cg, O), output=O)
    limit = _limit(input, output.nbytes - taps.bytes) // dtype.itemsize
    for strip, places in cut(options, size, input.shape[0], load, limit):
        u, v = Field(strip, input, dtype), Field(strip, guidance, dtype)
        for place in places:
            u.read(input, place)
            v.read(guidance, place).div_(_divisor(contrast, dtype))
            closed = closed_pairs(strip, place, u.values)
            total = None
            for i, link in enumerate(strip.links):
                f = weighted_difference(u.ends[i], v.ends[i], options).weighted
                if closed is not None:
                    close(f, closed[i])
                total = taps.add(i, link.spacing, f, total)
                del f
            assert total is not None
            write_image(strip.part_of(output, place), strip.images_of(total))
            del total
    return output


@torch.no_grad()
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
    size = input.shape[2], input.shape[3]
    du = torch.zeros_like(input, dtype=dtype)
    dv = torch.zeros_like(guidance, dtype=dtype)
    slope = guidance.new_zeros(guidance.shape[1], dtype=torch.promote_types(dtype, torch.float64))
    taps = products(weight, None, options, dtype)
    kernels = [torch.zeros_like(kernel) for kernel in taps.kernels] if needs.weight else []
    needs_steps = needs.guidance or needs.contrast
    wanted = needs.input or needs_steps, needs.weight
    C, Cg, O = input.shape[1], guidance.shape[1], weight.shape[0]
    load = Load(pixel=2 * (C + Cg), pair=3 * C + 2 * Cg, output=2 * O)
    limit = max(CACHE_BYTES, _limit(input, 0)) // dtype.itemsize
    if not any(wanted) or not options.taps or grad.numel() == 0:
        strips = ()
    else:
        strips = cut(options, size, input.shape[0], load, limit)
    for strip, places in strips:
        u, v = Field(strip, input, dtype), Field(strip, guidance, dtype)
        to_u, to_v = Field(strip, input, dtype), Field(strip, guidance, dtype)
        G = strip.output_buffer(O, grad, dtype).zero_()
        for place in places:
            u.read(input, place)
            v.read(guidance, place).div_(_divisor(contrast, dtype))
            to_u.values.zero_()
            to_v.values.zero_()
            read_image(strip.images_of(G), strip.part_of(grad, place))
            closed = closed_pairs(strip, place, u.values)
            for i, link in enumerate(strip.links):
                difference = weighted_difference(u.ends[i], v.ends[i], options, keep_step=True)
                f, similarity, step = difference
                if closed is not None:
                    close(f, closed[i])
                t, by_kernel = taps.back(i, link.spacing, f, G, wanted)
                if by_kernel is not None:
                    kernels[i] += by_kernel
                if t is None:
                    continue
                if closed is not None:
                    close(t, closed[i])
                if needs_steps:
                    flow = step_gradient(difference, f.mul_(t), options)
                    if needs.contrast:
                        slope += (flow * step).sum((0, 2, 3))
                    _flow(to_v.ends[i], flow)
                if needs.input:
                    _flow(to_u.ends[i], t.mul_(similarity))
            to_u.add_to(du, place)
            to_v.add_to(dv, place)
    dv /= _divisor(contrast, dtype)
    return DifferenceGradients(
        input=du.to(input.dtype) if needs.input else None,
        guidance=dv.to(guidance.dtype) if needs.guidance else None,
        weight=taps.unpack(kernels, weight) if needs.weight else None,
        bias=grad.sum((0, 2, 3), dtype=dtype).to(grad.dtype) if needs.bias else None,
        contrast=_contrast_gradient(slope, contrast) if needs.contrast else None,
    )


def step_gradient(difference: Difference, flow: Tensor, options: DifferenceOptions) -> Tensor:
    """``dL/d(d / k)`` from ``flow = dL/df f``, whose memory is used again."""
    g, step = difference.similarity, difference.step
    if options.similarity == "vector":
        flow = flow.sum(1, keepdim=True)
    flow = flow.mul_(steepness(options.diffusivity, g, out=torch.empty_like(g))).neg_()
    return flow * step


def _flow(ends: Ends, values: Tensor) -> None:
    """What leaves the near end of each pair arrives at the far end."""
    near, far = ends
    near.sub_(values)
    far.add_(values)


def _contrast_gradient(slope: Tensor, contrast: Contrast) -> Tensor:
    """``dL/dk = - sum dL/d(d / k) (d / k) / k`` for one contrast or one for each channel."""
    assert isinstance(contrast, Tensor)
    total = slope if contrast.dim() else slope.sum()
    return (-total / contrast.to(slope.dtype)).to(contrast.dtype)


def _limit(tensor: Tensor, spare: int) -> int:
    """Bytes that the buffers of a strip may take: as many as the output where that is not too few or too many."""
    if tensor.device.type != "cpu":
        return max(LEAST_BYTES_ON_GPU, spare)
    return min(CACHE_BYTES, max(LEAST_BYTES, spare))


def _divisor(contrast: Contrast, dtype: torch.dtype) -> Contrast:
    """k in the shape and dtype to divide guidance by."""
    return contrast.to(dtype).view(-1, 1, 1) if isinstance(contrast, Tensor) else contrast
