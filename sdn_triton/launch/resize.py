"""The gradient of bilinear interpolation on the Triton path."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdn_triton.kernels.arguments import Ratio
from sdn_triton.kernels.resize import resize_gradient_kernel
from sdn_triton.launch.image_layout import needs_64_bits, strides_of
from sdn_triton.launch.plan import Rest, launch
from sdn_triton.launch.run import cdiv, target_of
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.defaults import tile_width

TILE = KernelConfig(block_p=32, block_w=8, block_c=64, block_o=1, num_warps=4, num_stages=1)
WHOLE = KernelConfig(block_p=1024, block_w=32, block_c=64, block_o=1, num_warps=4, num_stages=1)
"""In the interpreter, where large tiles are cheap."""


def gradient(grad: Tensor, like: Tensor) -> Tensor:
    """The gradient of an image of the size, dtype and strides of ``like`` that was resized to the size of ``grad``."""
    small = torch.empty_like(like)
    images, channels, rows, columns = like.shape
    height, width = grad.shape[2:]
    config = WHOLE if target_of(grad.device).kind == "interpreter" else TILE
    block_w = tile_width(config.block_p, rows, columns, wanted=config.block_w)
    block_h = config.block_p // block_w

    def rest() -> Rest:
        tiles = images * cdiv(rows, block_h) * cdiv(columns, block_w)
        return (tiles * cdiv(channels, config.block_c),), dict(
            C=channels,
            H=height,
            W=width,
            HV=rows,
            WV=columns,
            ratio=Ratio(rows / height, columns / width),
            reach_h=_reach(height, rows),
            reach_w=_reach(width, columns),
            small_strides=strides_of(small),
            large_strides=strides_of(grad),
            INT64=needs_64_bits(small, grad),
            BLOCK_H=block_h,
            BLOCK_W=block_w,
            BLOCK_C=config.block_c,
        )

    launch(kernel=resize_gradient_kernel, tensors=dict(small_ptr=small, large_ptr=grad), config=config, rest=rest)
    return small


def _reach(large: int, small: int) -> int:
    """Lines of the larger image that may mix one of the smaller: those less than a line of it away, and rounding."""
    return min(math.ceil(2 * large / small) + 4, 2 * large + 4)
