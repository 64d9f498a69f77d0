"""Copies of images in other strides: channels-last ones of a whole number of blocks of channels, and the way back."""

from __future__ import annotations

import torch
from torch import Tensor

from sdn_triton.kernels.image_copy import image_copy_kernel
from sdn_triton.launch.image_layout import as_long_rows, needs_64_bits, strides_of
from sdn_triton.launch.plan import Rest, launch
from sdn_triton.launch.run import cdiv, target_of
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.defaults import tile_width

TILE = KernelConfig(block_p=64, block_w=64, block_c=64, block_o=1, num_warps=4, num_stages=1)
"""A line of the cache along either axis."""
WHOLE = KernelConfig(block_p=1024, block_w=64, block_c=64, block_o=1, num_warps=4, num_stages=1)
"""In the interpreter, where large tiles are cheap."""


def in_channels_last(image: Tensor, channels: int) -> Tensor:
    """A channels-last copy with so many channels: those of the image, then zeros."""
    shape = image.shape[0], channels, *image.shape[2:]
    copy = torch.empty(shape, dtype=image.dtype, device=image.device, memory_format=torch.channels_last)
    copy_image(copy, image)
    return copy


def copy_image(target: Tensor, source: Tensor) -> None:
    """Fill ``target`` from an image of the same size; channels that the source lacks are zero, others are left out."""
    target_rows, source_rows = as_long_rows(target, source)
    config = WHOLE if target_of(target.device).kind == "interpreter" else TILE

    def rest() -> Rest:
        images, channels, rows, columns = target_rows.shape
        width = tile_width(config.block_p, rows, columns, wanted=config.block_w)
        height = config.block_p // width
        tiles = images * cdiv(rows, height) * cdiv(columns, width)
        return (tiles * cdiv(channels, config.block_c),), dict(
            target_channels=channels,
            source_channels=source.shape[1],
            H=rows,
            W=columns,
            target_strides=strides_of(target_rows),
            source_strides=strides_of(source_rows),
            INT64=needs_64_bits(target_rows, source_rows),
            BLOCK_H=height,
            BLOCK_W=width,
            BLOCK_C=config.block_c,
        )

    tensors = dict(target_ptr=target, source_ptr=source)
    launch(kernel=image_copy_kernel, tensors=tensors, config=config, rest=rest)
