"""The formulas of kernels as PyTorch functions of one image of one row, for ``bench/proofs/__main__.py``.

Images are ``[columns, channels]``, weights as the kernels take them. The verifier takes all numbers as real ones, so
that conversions say nothing but what type is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


def difference_forward(u: Tensor, v: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``y[p,o] = b[o] + sum_{i, j, c} K[o,i,j,c] s (u[q,c] - u[p,c])`` with ``s = (1 + (v[q,c] - v[p,c])^2)^(-1/2)``.

    3x3 taps, zeros outside the image: all taps of the rows above and below are outside.
    """
    u, v, k = u.float(), v.float(), weight.float()
    total = bias.float()[None, :]
    for i in range(3):
        for j in range(3):
            if (i, j) != (1, 1):
                u_q, v_q = (_at_tap(x, i - 1, j - 1) for x in (u, v))
                d = v_q - v
                total = total + (torch.rsqrt(d * d + 1.0) * (u_q - u)) @ k[:, i, j].t()
    return total.to(torch.bfloat16)


def fusion_forward(u: Tensor, y: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``z[p,o] = b[o] + sum_c K[o,c] u[p,c] + sum_r K[o,C+r] relu(scale[r] y[p,r] + shift[r])``."""
    channels = u.shape[1]
    k = weight[:, :, 0, 0].float()
    a = (y.float() * scale.float()[None, :] + shift.float()[None, :]).clamp(min=0.0)
    return (u.float() @ k[:, :channels].t() + a @ k[:, channels:].t() + bias.float()[None, :]).to(torch.bfloat16)


def _at_tap(x: Tensor, dy: int, dx: int) -> Tensor:
    """``x[q]`` with ``q = p + (dy, dx)``."""
    if dy:
        return x.new_zeros(x.shape)
    if dx == 0:
        return x
    outside = x.new_zeros((1, x.shape[1]))
    return torch.cat([outside, x[:-1]]) if dx < 0 else torch.cat([x[1:], outside])


class Reference(NamedTuple):
    """A formula, and which pointers of the kernel its arguments and its result are."""

    formula: Callable[..., Tensor]
    arguments: tuple[str, ...]
    output: str


REFERENCES = {
    "difference_forward": Reference(difference_forward, ("u_ptr", "v_ptr", "weight_ptr", "bias_ptr"), "y_ptr"),
    "fusion_forward": Reference(
        fusion_forward, ("u_ptr", "y_ptr", "weight_ptr", "bias_ptr", "scale_ptr", "shift_ptr"), "z_ptr"
    ),
}
