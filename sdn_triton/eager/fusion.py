"""The feature fusion in plain PyTorch: forward and explicit backward; the concatenation is never made.

    z = K [u, a] + b,    a = act(scale * y + shift)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sdn_triton.eager.layouts import compute_dtype, memory_format
from sdn_triton.options import FusionGradients, FusionNeeds


@torch.no_grad()
def forward(
    input: Tensor,
    response: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    activation: str,
) -> Tensor:
    """``z [N, O, H, W]`` in the dtype and memory format of ``input [N, C, H, W]``."""
    dtype, C = compute_dtype(input), input.shape[1]
    weight = weight.to(dtype)
    output = F.conv2d(input.to(dtype), weight[:, :C], None if bias is None else bias.to(dtype))
    output += F.conv2d(_activated(response, scale, shift, activation), weight[:, C:])
    return output.to(input.dtype, memory_format=memory_format(input))


@torch.no_grad()
def backward(
    grad: Tensor,
    input: Tensor,
    response: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    activation: str,
    needs: FusionNeeds,
) -> FusionGradients:
    """The gradients that are needed, each in the shape, dtype and memory format of its argument.

    With ``h = dL/da act'(scale y + shift)``: ``dL/dy = scale h``, ``dL/dscale = sum h y`` and ``dL/dshift = sum h``.
    """
    dtype, C = compute_dtype(input), input.shape[1]
    grad, kernel = grad.to(dtype), weight.to(dtype)
    needs_response = needs.response or needs.scale or needs.shift
    a = _activated(response, scale, shift, activation)
    du, dweight_u = _convolution_backward(grad, input.to(dtype), kernel[:, :C], needs.input, needs.weight)
    h, dweight_a = _convolution_backward(grad, a, kernel[:, C:], needs_response, needs.weight)
    dresponse = dscale = dshift = None
    if h is not None:
        if activation == "relu":
            h = h * (a > 0)
        if needs.response:
            dresponse = _like(h if scale is None else h * scale.to(dtype).view(-1, 1, 1), response)
        if needs.scale and scale is not None:
            dscale = (h * response).sum((0, 2, 3)).to(scale.dtype)
        if needs.shift and shift is not None:
            dshift = h.sum((0, 2, 3)).to(shift.dtype)
    return FusionGradients(
        input=None if du is None else _like(du, input),
        response=dresponse,
        weight=None if dweight_u is None or dweight_a is None else _like(torch.cat((dweight_u, dweight_a), 1), weight),
        bias=grad.sum((0, 2, 3)).to(weight.dtype) if needs.bias else None,
        scale=dscale,
        shift=dshift,
    )


def _activated(response: Tensor, scale: Tensor | None, shift: Tensor | None, activation: str) -> Tensor:
    """``act(scale * response + shift)``."""
    a = response.to(compute_dtype(response))
    if scale is not None:
        a = a * scale.to(a.dtype).view(-1, 1, 1)
    if shift is not None:
        a = a + shift.to(a.dtype).view(-1, 1, 1)
    return F.relu(a) if activation == "relu" else a


def _convolution_backward(
    grad: Tensor, input: Tensor, weight: Tensor, needs_input: bool, needs_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of a 1x1 convolution."""
    if not (needs_input or needs_weight):
        return None, None
    by_input, by_weight, _ = torch.ops.aten.convolution_backward(
        grad, input, weight, None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1, (needs_input, needs_weight, False)
    )
    return by_input, by_weight


def _like(gradient: Tensor, argument: Tensor) -> Tensor:
    """``gradient`` in the dtype and with the strides that ``torch.empty_like(argument)`` has."""
    like = torch.empty_like(argument)
    return gradient if gradient.dtype == like.dtype and gradient.stride() == like.stride() else like.copy_(gradient)
