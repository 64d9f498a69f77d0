"""The feature fusion in plain PyTorch: a 1x1 convolution over a concatenation that is never made."""

from __future__ import annotations

import torch
from torch import Tensor

from sdn_triton.eager.layouts import compute_dtype, match
from sdn_triton.options import FusionArguments, FusionGradients, FusionNeeds
from sdn_triton.outputs import empty_output, memory_format


def forward(arguments: FusionArguments, activation: str) -> Tensor:
    """``z = A u + B act(scale y + shift) + bias`` with ``weight = [A, B]``, ``u [N, C, H, W]``, ``y [N, R, H, W]``."""
    input, response, weight, bias, scale, shift = arguments
    shape = input.shape[0], weight.shape[0], *input.shape[2:]
    if input.is_meta or 0 in shape:
        return empty_output(shape, like=input)
    dtype = compute_dtype(input)
    A, B = (part.to(dtype) for part in weight.split((input.shape[1], response.shape[1]), 1))
    z = torch.conv2d(input.to(dtype), A, None if bias is None else bias.to(dtype))
    z.add_(torch.conv2d(_activated(response, scale, shift, activation, dtype), B))
    return z.to(input.dtype).contiguous(memory_format=memory_format(input))


def backward(arguments: FusionArguments, activation: str, grad: Tensor, needs: FusionNeeds) -> FusionGradients:
    """The gradients that are needed, each in the shape, dtype and memory format of its argument.

    With ``x = scale y + shift``, ``h = act(x)`` and ``t = act'(x) B^T dz``: ``du = A^T dz``, ``dy = scale t``,
    ``dscale = sum t y``, ``dshift = sum t``, ``dA = sum dz u``, ``dB = sum dz h`` and ``dbias = sum dz``.
    """
    input, response, weight, _, scale, shift = arguments
    dtype = compute_dtype(input)
    channels = input.shape[1], response.shape[1]
    A, B = (part.to(dtype) for part in weight.split(channels, 1))
    dz, y = grad.to(dtype), response.to(dtype)
    h = _activated(response, scale, shift, activation, dtype)
    needs_t = needs.response or needs.scale or needs.shift
    du, dA = _product_backward(dz, input.to(dtype), A, needs.input, needs.weight)
    t, dB = _product_backward(dz, h, B, needs_t, needs.weight)
    gradients: dict[str, Tensor | None] = dict.fromkeys(FusionGradients._fields)
    if du is not None:
        gradients["input"] = match(du, input)
    if dA is not None and dB is not None:
        gradients["weight"] = match(torch.cat((dA, dB), 1), weight)
    if t is not None:
        if activation == "relu":
            t = torch.ops.aten.threshold_backward(t, h, 0)
        if needs.response:
            gradients["response"] = match(t if scale is None else t * _per_channel(scale, dtype), response)
        if scale is not None and needs.scale:
            gradients["scale"] = (t * y).sum((0, 2, 3)).to(scale.dtype)
        if shift is not None and needs.shift:
            gradients["shift"] = t.sum((0, 2, 3)).to(shift.dtype)
    if needs.bias:
        gradients["bias"] = dz.sum((0, 2, 3)).to(weight.dtype)
    return FusionGradients(**gradients)


def _per_channel(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.to(dtype).view(-1, 1, 1)


def _activated(
    response: Tensor, scale: Tensor | None, shift: Tensor | None, activation: str, dtype: torch.dtype
) -> Tensor:
    """``h = act(scale y + shift)``."""
    y = response.to(dtype)
    k, b = (None if x is None else _per_channel(x, dtype) for x in (scale, shift))
    x = y if k is None else y * k if b is None else torch.addcmul(b, y, k)
    if k is None and b is not None:
        x = y + b
    if activation != "relu":
        return x
    return torch.relu(x) if x is response else torch.relu_(x)


def _product_backward(
    grad: Tensor, values: Tensor, kernel: Tensor, needs_values: bool, needs_kernel: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of ``conv2d(values, kernel)``; None where not needed."""
    if not needs_values and not needs_kernel:
        return None, None
    by_values, by_kernel, _ = torch.ops.aten.convolution_backward(
        grad, values, kernel, None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1, (needs_values, needs_kernel, False)
    )
    return by_values, by_kernel
