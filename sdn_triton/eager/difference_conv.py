"""The semantic difference convolution in plain PyTorch: forward and explicit backward.

    y[n,o,p] = b[o] + sum_{c, tap != centre} K[o,c,tap] g(v_q - v_p) (u_q - u_p)

Small maps take all taps at once (:mod:`.taps`); others go strip by strip and link by link (:mod:`.links`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdn_triton.eager import links, taps
from sdn_triton.eager.differences import Call
from sdn_triton.options import DifferenceArguments, DifferenceGradients, DifferenceNeeds, DifferenceOptions
from sdn_triton.outputs import empty_output


def forward(arguments: DifferenceArguments, options: DifferenceOptions) -> Tensor:
    """``y [N, O, Ho, Wo]`` in the dtype and memory format of ``input [N, C, H, W]``."""
    return forward_and_keep(arguments, options, keeps=False)[0]


def forward_and_keep(
    arguments: DifferenceArguments, options: DifferenceOptions, keeps: bool = True
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The same, and what :func:`backward` need not compute again: nothing, but for small maps."""
    input, weight, bias = arguments.input, arguments.weight, arguments.bias
    shape = input.shape[0], weight.shape[0], *options.output_size(input.shape[2], input.shape[3])
    output = empty_output(shape, like=input)
    if output.is_meta or output.numel() == 0:
        return output, ()
    if options.kernel_size == (1, 1):
        return output.zero_() if bias is None else output.copy_(bias.view(1, -1, 1, 1).expand(shape)), ()
    call = Call.of(arguments, options)
    at = taps.taps_of(call)
    if at is None:
        links.forward(call, output)
    elif keeps and input.numel() <= taps.BACKWARD_NUMBERS:
        return output, taps.forward_and_keep(at, call, output)
    else:
        taps.forward(at, call, output)
    return output, ()


def backward(
    arguments: DifferenceArguments,
    options: DifferenceOptions,
    grad: Tensor,
    needs: DifferenceNeeds,
    kept: tuple[Tensor, ...] = (),
) -> DifferenceGradients:
    """The gradients that are needed, each in the shape, dtype and memory format of its argument."""
    call, contrast = Call.of(arguments, options), arguments.contrast
    by_bias = grad.sum((0, 2, 3), dtype=call.dtype).to(grad.dtype) if needs.bias else None
    if options.kernel_size == (1, 1) or grad.numel() == 0 or grad.is_meta:
        by_input, by_guidance, by_weight = (
            torch.zeros_like(x) if need else None
            for x, need in ((call.input, needs.input), (call.guidance, needs.guidance), (call.weight, needs.weight))
        )
        by_logarithm = grad.new_zeros(arguments.guidance.shape[1], dtype=call.dtype) if needs.contrast else None
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


def describe(arguments: DifferenceArguments, options: DifferenceOptions) -> str:
    """Which way a forward is computed, and why."""
    obstacle = taps.why_not(arguments.input.shape, options, arguments.input.device.type)
    if obstacle is None:
        return "all taps at once, as for every small map"
    return f"link by link, in strips of rows; not all taps at once because of {obstacle}"
