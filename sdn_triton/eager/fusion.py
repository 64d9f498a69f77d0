"""The feature fusion in plain PyTorch: a 1x1 convolution over a concatenation that is never made."""

from __future__ import annotations

import torch
from torch import Tensor

from sdn_triton.eager.layouts import compute_dtype, match
from sdn_triton.options import FusionGradients, FusionNeeds
from sdn_triton.outputs import empty_output


def forward(
    input: Tensor,
    response: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    activation: str,
) -> Tensor:
    """``z = A u + B act(scale y + shift) + bias`` with ``weight = [A, B]``, ``u [N, C, H, W]``, ``y [N, R, H, W]``."""
    shape = input.shape[0], weight.shape[0], *input.shape[2:]
    output = empty_output(shape, like=input)
    if output.is_meta or output.numel() == 0:
        return output
    dtype = compute_dtype(input)
    A, B = (part.to(dtype) for part in weight.split((input.shape[1], response.shape[1]), 1))
    h = _activate(_normalise(response, scale, shift, dtype), activation)
    z = torch.conv2d(input.to(dtype), A, None if bias is None else bias.to(dtype))
    return output.copy_(z.add_(torch.conv2d(h, B)))


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

    With ``x = scale y + shift``, ``h = act(x)`` and ``t = act'(x) B^T dz``: ``du = A^T dz``, ``dy = scale t``,
    ``dscale = sum t y``, ``dshift = sum t``, ``dA = sum dz u``, ``dB = sum dz h`` and ``dbias = sum dz``.
    """
    dtype = compute_dtype(input)
    channels = input.shape[1], response.shape[1]
    A, B = (part.to(dtype) for part in weight.split(channels, 1))
    dz, y = grad.to(dtype), response.to(dtype)
    x = _normalise(y, scale, shift, dtype)
    needs_t = needs.response or needs.scale or needs.shift
    du, dA = _product_backward(dz, input.to(dtype), A, needs.input, needs.weight)
    t, dB = _product_backward(dz, _activate(x, activation), B, needs_t, needs.weight)
    gradients: dict[str, Tensor | None] = dict.fromkeys(FusionGradients._fields)
    if du is not None:
        gradients["input"] = match(du, input)
    if dA is not None and dB is not None:
        gradients["weight"] = match(torch.cat((dA, dB), 1), weight)
    if t is not None:
        if activation == "relu":
            t = torch.where(x <= 0, 0, t)
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


def _normalise(response: Tensor, scale: Tensor | None, shift: Tensor | None, dtype: torch.dtype) -> Tensor:
    """``x = scale y + shift``, the response itself without either."""
    x = response.to(dtype)
    if scale is not None:
        x = x * _per_channel(scale, dtype)
    return x if shift is None else x + _per_channel(shift, dtype)


def _activate(x: Tensor, activation: str) -> Tensor:
    return torch.relu(x) if activation == "relu" else x


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
