"""The semantic difference convolution in plain PyTorch: forward and explicit backward.

    y[n,o,p] = b[o] + sum_{c, tap != centre} K[o,c,tap] g(v_q - v_p) (u_q - u_p)

Small maps take all taps at once (:mod:`.taps`); others go strip by strip and link by link (:mod:`.links`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdn_triton.eager import links, taps
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
    return _forward(input, guidance, weight, bias, contrast, options, keeps=False)[0]


def forward_and_keep(
    input: Tensor,
    guidance: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    contrast: Contrast,
    options: DifferenceOptions,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The same, and what :func:`backward` need not compute again: nothing, but for small maps."""
    return _forward(input, guidance, weight, bias, contrast, options, keeps=True)


def _forward(
    input: Tensor,
    guidance: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    contrast: Contrast,
    options: DifferenceOptions,
    keeps: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    shape = input.shape[0], weight.shape[0], *options.output_size(input.shape[2], input.shape[3])
    output = empty_output(shape, like=input)
    if output.is_meta or output.numel() == 0:
        return output, ()
    if options.kernel_size == (1, 1):
        return output.zero_() if bias is None else output.copy_(bias.view(1, -1, 1, 1).expand(shape)), ()
    given = output, input, guidance, weight, bias, _divisor(contrast, compute_dtype(input)), options
    at = taps.taps_of(input, weight, options)
    if at is None:
        links.forward(*given)
        return output, ()
    kept = taps.forward(at, *given, keeps)
    return output, kept if keeps else ()


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
    dtype = compute_dtype(input)
    by_bias = grad.sum((0, 2, 3), dtype=dtype).to(grad.dtype) if needs.bias else None
    if options.kernel_size == (1, 1) or grad.numel() == 0 or grad.is_meta:
        zeros = [torch.zeros_like(x) if need else None for x, need in zip((input, guidance, weight), needs)]
        by_contrast = torch.zeros_like(contrast) if needs.contrast and isinstance(contrast, Tensor) else None
        return DifferenceGradients(*zeros, by_bias, by_contrast)
    k = _divisor(contrast, dtype)
    # Of a contrast every edge counts once.
    at = None if needs.contrast else taps.taps_of(input, weight, options)
    if at is not None:
        found = taps.backward(at, grad, input, guidance, weight, k, options, needs, taps.Kept(*kept) if kept else None)
        return DifferenceGradients(*found, by_bias, None)
    *found, by_logarithm = links.backward(grad, input, guidance, weight, k, options, needs)
    by_contrast = None
    if by_logarithm is not None:
        assert isinstance(contrast, Tensor)
        by_contrast = (by_logarithm / contrast if contrast.dim() else by_logarithm.sum() / contrast).to(contrast.dtype)
    return DifferenceGradients(*found, by_bias, by_contrast)


def _divisor(contrast: Contrast, dtype: torch.dtype) -> Contrast:
    """k as a number, or as a tensor in the dtype that is computed in."""
    return contrast.to(dtype) if isinstance(contrast, Tensor) else contrast
