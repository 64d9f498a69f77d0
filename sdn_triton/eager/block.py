"""The block in evaluation on the eager path: its two operators, one after the other."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sdn_triton.eager import difference_conv, fusion
from sdn_triton.normalisation import Statistics
from sdn_triton.options import BlockOptions, Contrast


def forward(
    input: Tensor,
    guidance: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    contrast: Contrast,
    mean: Tensor,
    variance: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    fusion_weight: Tensor,
    fusion_bias: Tensor | None,
    options: BlockOptions,
) -> Tensor:
    """``z = K2 [u, relu(batch_norm(y))] + b2`` with ``y = SDC(u, v)``; guidance of another size is resized."""
    if guidance.shape[2:] != input.shape[2:]:
        guidance = F.interpolate(guidance, size=input.shape[2:], mode="bilinear", align_corners=False)
    response = difference_conv.forward(input, guidance, weight, bias, contrast, options.difference)
    scale, shift = Statistics(mean, variance, norm_weight, norm_bias, options.eps).scale_and_shift()
    (top, left), (rows, columns) = options.difference.origin, response.shape[2:]
    centres = input[:, :, top : top + rows, left : left + columns]
    return fusion.forward(centres, response, fusion_weight, fusion_bias, scale, shift, "relu")
