"""The block in evaluation on the eager path: its two operators, one after the other."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from sdn_triton.eager import difference_conv, fusion
from sdn_triton.normalisation import Statistics
from sdn_triton.options import BlockArguments, BlockOptions, FusionArguments


def forward(arguments: BlockArguments, options: BlockOptions) -> Tensor:
    """``z = K2 [u, relu(batch_norm(y))] + b2`` with ``y = SDC(u, v)``; guidance of another size is resized."""
    input, difference = arguments.input, arguments.difference
    if arguments.guidance.shape[2:] != input.shape[2:]:
        guidance = F.interpolate(arguments.guidance, size=input.shape[2:], mode="bilinear", align_corners=False)
        difference = difference._replace(guidance=guidance)
    response = difference_conv.forward(difference, options.difference)
    scale, shift = Statistics.of_block(arguments, options).scale_and_shift()
    (top, left), (rows, columns) = options.difference.origin, response.shape[2:]
    centres = input[:, :, top : top + rows, left : left + columns]
    second = FusionArguments(centres, response, arguments.fusion_weight, arguments.fusion_bias, scale, shift)
    return fusion.forward(second, "relu")
