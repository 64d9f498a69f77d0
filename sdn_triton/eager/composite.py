"""The operators in plain differentiable PyTorch: for second derivatives, tracing and export, and to compare with.

They keep a copy of the features for every tap; everything else runs :mod:`sdn_triton.eager.difference_conv` and
:mod:`sdn_triton.eager.fusion`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sdn_triton.eager.diffusivity import diffusivity
from sdn_triton.eager.layouts import compute_dtype
from sdn_triton.options import DifferenceArguments, DifferenceOptions, FusionArguments


def difference_conv2d(arguments: DifferenceArguments, options: DifferenceOptions) -> Tensor:
    """``y[n,o,p] = b[o] + sum_{c, tap != centre} K[o,c,tap] g(v_q - v_p) (u_q - u_p)``, differentiable to any order.

    The similarity is a function of the squared distance, so that nothing is divided by a distance of 0.
    """
    input, guidance, weight, bias, contrast = arguments
    dtype = compute_dtype(input)
    (pad_y, pad_x), (reach_y, reach_x), (stride_y, stride_x) = options.padding, options.reach, options.stride
    rows, columns = options.output_size(input.shape[2], input.shape[3])

    def padded(x: Tensor) -> Tensor:
        return F.pad(x, (pad_x, pad_x, pad_y, pad_y))

    def at(x: Tensor, dy: int = 0, dx: int = 0) -> Tensor:
        y0, x0 = reach_y + dy, reach_x + dx
        return x[
            :, :, y0 : y0 + stride_y * (rows - 1) + 1 : stride_y, x0 : x0 + stride_x * (columns - 1) + 1 : stride_x
        ]

    if isinstance(contrast, Tensor):
        contrast = contrast.to(dtype).reshape(-1, 1, 1)
    u, v = padded(input.to(dtype)), padded(guidance.to(dtype) / contrast)
    inside = padded(u.new_ones((1, 1, *input.shape[2:])))
    differences, kernels = [], []
    for tap in options.taps:
        step = at(v, tap.dy, tap.dx) - at(v)
        a = step * step
        if options.similarity == "vector":
            a = a.sum(1, keepdim=True)
        difference = diffusivity(options.diffusivity, a) * (at(u, tap.dy, tap.dx) - at(u))
        if options.border == "zero_flux":
            difference = torch.where(at(inside, tap.dy, tap.dx) * at(inside) > 0, difference, 0)
        differences.append(difference)
        kernels.append(weight[:, :, tap.row, tap.column])
    bias = None if bias is None else bias.to(dtype)
    if not differences:  # A sum over no taps: zeros that have gradients, and no operation on nothing.
        everything = at(u)[:, :1] + at(v)[:, :1] + weight[:, :1, 0].to(dtype).view(1, -1, 1, 1)
        y = everything.masked_fill(torch.ones_like(everything, dtype=torch.bool), 0)
        return (y if bias is None else y + bias.view(-1, 1, 1)).to(input.dtype)
    stacked = torch.stack(differences, 2).flatten(1, 2)
    kernel = torch.stack(kernels, 2).flatten(1).to(dtype)
    return F.conv2d(stacked, kernel[..., None, None], bias, groups=options.groups).to(input.dtype)


def feature_fusion(arguments: FusionArguments, activation: str) -> Tensor:
    """``z = weight @ [input, act(scale * response + shift)] + bias``, differentiable to any order."""
    input, response, weight, bias, scale, shift = arguments
    dtype = compute_dtype(input)
    h = response.to(dtype)
    if scale is not None:
        h = h * scale.to(dtype).view(-1, 1, 1)
    if shift is not None:
        h = h + shift.to(dtype).view(-1, 1, 1)
    if activation == "relu":
        h = F.relu(h)
    z = F.conv2d(torch.cat((input.to(dtype), h), 1), weight.to(dtype), None if bias is None else bias.to(dtype))
    return z.to(input.dtype)
