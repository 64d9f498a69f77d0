"""The difference convolution with mean and variance of its output on the Triton path."""

from __future__ import annotations

import torch
from torch import Tensor

from sdn_triton.kernels.moments import merge_moments_kernel, moments_gradient_kernel
from sdn_triton.launch.difference_call import DifferenceCall
from sdn_triton.launch.difference_conv import launch_forward
from sdn_triton.launch.image_layout import needs_64_bits, strides_of
from sdn_triton.launch.plan import Rest, launch
from sdn_triton.launch.run import cdiv, count_tiles, target_of
from sdn_triton.options import DifferenceArguments, DifferenceOptions
from sdn_triton.tuning.configs import Configs, KernelConfig
from sdn_triton.tuning.defaults import tile_width

MERGE = KernelConfig(block_p=128, block_w=128, block_c=1, block_o=16, num_warps=4, num_stages=1)
"""Of the merging: ``block_p`` are tiles."""
GRADIENT = KernelConfig(block_p=32, block_w=16, block_c=1, block_o=128, num_warps=4, num_stages=1)
WHOLE = KernelConfig(block_p=1024, block_w=32, block_c=1, block_o=64, num_warps=4, num_stages=1)
"""In the interpreter, where large tiles are cheap."""


def forward(
    arguments: DifferenceArguments, options: DifferenceOptions, configs: Configs | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """``y`` of the difference convolution, and per channel ``mean = sum y / n``, ``variance = sum (y - mean)^2 / n``.

    Mean and variance are those of ``y`` as it is stored, in float32; ``y`` must not be empty.
    """
    call = DifferenceCall.of(arguments, options, configs)
    output = call.empty_output()
    config = call.config(call.layout.forward_kernel)
    images, outputs, rows, columns = output.shape
    tiles = count_tiles(images, rows, columns, config)
    moments = output.new_empty((tiles, 2, outputs), dtype=torch.float32)
    launch_forward(call, output, moments)
    mean, variance = (output.new_empty(outputs, dtype=torch.float32) for _ in range(2))

    def rest() -> Rest:
        return (cdiv(outputs, MERGE.block_o),), dict(
            tiles=tiles,
            O=outputs,
            HO=rows,
            WO=columns,
            count=float(images * rows * columns),
            BLOCK_H=config.block_h,
            BLOCK_W=config.block_w,
            BLOCK_T=MERGE.block_p,
            BLOCK_O=MERGE.block_o,
        )

    tensors = dict(mean_ptr=mean, variance_ptr=variance, moments_ptr=moments)
    launch(kernel=merge_moments_kernel, tensors=tensors, config=MERGE, rest=rest, facts=(config, images, rows, columns))
    return output, mean, variance


def gradient(grad: Tensor, response: Tensor, mean: Tensor, by_mean: Tensor, by_variance: Tensor) -> Tensor:
    """``G + (dL/dmean + 2 (y - mean) dL/dvariance) / n`` in the dtype and strides of ``response``."""
    total = torch.empty_like(response)
    images, outputs, rows, columns = response.shape
    is_compiled = target_of(response.device).kind != "interpreter"
    config = GRADIENT if is_compiled else WHOLE
    width = tile_width(config.block_p, rows, columns, wanted=config.block_w)

    def rest() -> Rest:
        height = config.block_p // width
        tiles = images * cdiv(rows, height) * cdiv(columns, width)
        return (tiles * cdiv(outputs, config.block_o),), dict(
            count=float(images * rows * columns),
            O=outputs,
            H=rows,
            W=columns,
            total_strides=strides_of(total),
            g_strides=strides_of(grad),
            y_strides=strides_of(response),
            INT64=needs_64_bits(total, grad, response),
            BLOCK_H=height,
            BLOCK_W=width,
            BLOCK_O=config.block_o,
        )

    tensors = dict(
        total_ptr=total,
        gradient_ptr=grad,
        y_ptr=response,
        mean_ptr=mean.contiguous(),
        by_mean_ptr=by_mean.contiguous(),
        by_variance_ptr=by_variance.contiguous(),
    )
    launch(kernel=moments_gradient_kernel, tensors=tensors, config=config, rest=rest)
    return total
