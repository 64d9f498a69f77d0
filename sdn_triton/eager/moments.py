"""The difference convolution with mean and variance of its output on the eager path."""

from __future__ import annotations

import torch
from torch import Tensor

from sdn_triton.eager import difference_conv
from sdn_triton.eager.layouts import compute_dtype
from sdn_triton.options import DifferenceArguments, DifferenceOptions


def forward(arguments: DifferenceArguments, options: DifferenceOptions) -> tuple[Tensor, Tensor, Tensor]:
    """``y`` of the difference convolution, and per channel ``mean = sum y / n``, ``variance = sum (y - mean)^2 / n``.

    Mean and variance are those of ``y`` as it is stored, in float32 or wider; ``y`` must not be empty.
    """
    response = difference_conv.forward(arguments, options)
    variance, mean = torch.var_mean(response.to(compute_dtype(response)), (0, 2, 3), correction=0)
    return response, mean, variance
