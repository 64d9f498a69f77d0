"""The semantic difference convolution in plain PyTorch: forward and explicit backward.

    y[n,o,p] = b[o] + sum_{c, tap != centre} K[o,c,tap] g(v_q - v_p) (u_q - u_p)

Small maps take all taps at once (:mod:`.taps`); others go strip by strip and link by link (:mod:`.links`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdn_triton.eager import links, taps
from sdn_triton.eager.differences import Call
from sdn_triton.eager.layouts import compute_dtype
from sdn_triton.options import Contrast, DifferenceGradients, DifferenceNeeds, DifferenceOptions
from sdn_triton.outputs import empty_output


def forward(
    input: Tensor,
    guidance: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    contrast: Contrast,
    options: DifferenceOptions,
) -> Tensor:
    """``y [N, O, Ho, Wo]`` in the dtype and memory format of ``input [N, C, H, W]``."""
    return forward_and_keep(input, guidance, weight, bias, contrast, options, keeps=False)[0]


def forward_and_keep(
    input: Tensor,
    guidance: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    contrast: Contrast,
    options: DifferenceOptions,
    keeps: bool = True,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The same, and what :func:`backward` need not compute again: nothing, but for small maps."""
    shape = input.shape[0], weight.shape[0], *options.output_size(input.shape[2], input.shape[3])
    output = empty_output(shape, like=input)
    if output.is_meta or output.numel() == 0:
        return output, ()
    if options.kernel_size == (1, 1):
        return output.zero_() if bias is None else output.copy_(bias.view(1, -1, 1, 1).expand(shape)), ()
    call = _call(input, guidance, weight, bias, contrast, options)
    at = taps.taps_of(call)
    if at is None:
        links.forward(call, output)
    elif keeps and input.numel() <= taps.BACKWARD_NUMBERS:
        return output, taps.forward_and_keep(at, call, output)
    else:
        taps.forward(at, call, output)
    return output, ()


def backward(
    grad: Tensor,
    input: Tensor,
    guidance: Tensor,
    weight: Tensor,
    contrast: Contrast,
    options: DifferenceOptions,
    needs: DifferenceNeeds,
    kept: tuple[Tensor, ...] = (),
) -> DifferenceGradients:
    """The gradients that are needed, each in the shape, dtype and memory format of its argument."""
    call = _call(input, guidance, weight, None, contrast, options)
    by_bias = grad.sum((0, 2, 3), dtype=call.dtype).to(grad.dtype) if needs.bias else None
    if options.kernel_size == (1, 1) or grad.numel() == 0 or grad.is_meta:
        zeros = (torch.zeros_like(x) if need else None for x, need in zip((input, guidance, weight), needs))
        by_input, by_guidance, by_weight = zeros
        by_logarithm = input.new_zeros(guidance.shape[1], dtype=call.dtype) if needs.contrast else None
    elif not needs.contrast and (at := taps.taps_of(call, taps.BACKWARD_NUMBERS)) is not None:
        by_input, by_guidance, by_weight = taps.backward(at, call, grad, needs, taps.Kept(*kept) if kept else None)
        by_logarithm = None
    else:
        by_input, by_guidance, by_weight, by_logarithm = links.backward(call, grad, needs)
    by_contrast = None
    if by_logarithm is not None:
        assert isinstance(contrast, Tensor)
        by_contrast = (by_logarithm / contrast if contrast.dim() else by_logarithm.sum() / contrast).to(contrast.dtype)
    return DifferenceGradients(by_input, by_guidance, by_weight, by_bias, by_contrast)


def describe(
    input: Tensor,
    guidance: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    contrast: Contrast,
    options: DifferenceOptions,
) -> str:
    """Which way a forward is computed, and why."""
    obstacle = taps.why_not(input.shape, options, input.device.type)
    if obstacle is None:
        return "all taps at once, as for every small map"
    return f"link by link, in strips of rows; not all taps at once because of {obstacle}"


def _call(
    input: Tensor,
    guidance: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    contrast: Contrast,
    options: DifferenceOptions,
) -> Call:
    dtype = compute_dtype(input)
    k = contrast.to(dtype) if isinstance(contrast, Tensor) else contrast
    return Call(input, guidance, weight, bias, k, options, dtype)
