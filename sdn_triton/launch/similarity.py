"""The maps of vector similarity and the gradients that pass through them, on the Triton path."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sdn_triton.kernels.similarity import similarity_gradient_kernel, similarity_kernel
from sdn_triton.launch.plan import Rest, launch
from sdn_triton.launch.run import cdiv, count_tiles, image_strides, needs_64_bits
from sdn_triton.options import Contrast, DifferenceOptions
from sdn_triton.tuning.configs import KernelConfig


def forward(
    guidance: Tensor, contrast: Contrast, options: DifferenceOptions, output_size: tuple[int, int], config: KernelConfig
) -> Tensor:
    """``s[n,tap,p] = g(||v[n,:,q] - v[n,:,p]||_2)`` as [N, taps, Ho, Wo] in float32."""
    images, channels, rows, columns = guidance.shape
    maps = guidance.new_empty((images, len(options.taps), *output_size), dtype=torch.float32)

    def rest() -> Rest:
        return (count_tiles(images, *output_size, config), len(options.taps)), dict(
            CG=channels,
            H=rows,
            W=columns,
            HO=output_size[0],
            WO=output_size[1],
            origin_h=options.origin[0],
            origin_w=options.origin[1],
            step_h=options.stride[0],
            step_w=options.stride[1],
            dilation_h=options.dilation[0],
            dilation_w=options.dilation[1],
            **image_strides("s", maps),
            **image_strides("v", guidance),
            **_contrast_numbers(contrast),
            KERNEL_H=options.kernel_size[0],
            KERNEL_W=options.kernel_size[1],
            DIFFUSIVITY=options.diffusivity,
            INT64=needs_64_bits(guidance, maps, margin=sum(options.reach) + sum(options.padding)),
            BLOCK_H=config.block_h,
            BLOCK_W=config.block_w,
            BLOCK_C=config.block_c,
        )

    tensors = dict(s_ptr=maps, v_ptr=guidance, contrast_ptr=contrast if isinstance(contrast, Tensor) else None)
    number = None if isinstance(contrast, Tensor) else contrast
    launch(
        kernel=similarity_kernel,
        tensors=tensors,
        config=config,
        rest=rest,
        facts=(options, number),
        tuned="similarity",
    )
    return maps


def backward(
    edges: Tensor,
    guidance: Tensor,
    contrast: Contrast,
    options: DifferenceOptions,
    config: KernelConfig,
    *,
    needs_guidance: bool,
    needs_contrast: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradient of the guidance, and the sums that make up the gradient of the contrast."""
    images, channels, rows, columns = guidance.shape
    blocks = count_tiles(images, rows, columns, config) * cdiv(channels, config.block_c)
    dguidance = torch.empty_like(guidance) if needs_guidance else None
    present = () if dguidance is None else (dguidance,)
    sums = guidance.new_empty((blocks,), dtype=torch.float32) if needs_contrast else None

    def rest() -> Rest:
        return (blocks,), dict(
            CG=channels,
            H=rows,
            W=columns,
            dilation_h=options.dilation[0],
            dilation_w=options.dilation[1],
            **image_strides("dv", dguidance),
            **image_strides("edge_", edges),
            **image_strides("v", guidance),
            **_contrast_numbers(contrast),
            KERNEL_H=options.kernel_size[0],
            KERNEL_W=options.kernel_size[1],
            NEEDS_V=needs_guidance,
            NEEDS_CONTRAST=needs_contrast,
            INT64=needs_64_bits(guidance, edges, *present, margin=sum(options.reach)),
            BLOCK_H=config.block_h,
            BLOCK_W=config.block_w,
            BLOCK_C=config.block_c,
        )

    number = None if isinstance(contrast, Tensor) else contrast
    launch(
        kernel=similarity_gradient_kernel,
        tensors=dict(
            dv_ptr=dguidance,
            contrast_sums_ptr=sums,
            edge_ptr=edges,
            v_ptr=guidance,
            contrast_ptr=contrast if isinstance(contrast, Tensor) else None,
        ),
        config=config,
        rest=rest,
        facts=(options, number),
        tuned="similarity_gradient",
    )
    return dguidance, sums


def _contrast_numbers(contrast: Contrast) -> dict[str, Any]:
    is_tensor = isinstance(contrast, Tensor)
    return {
        "inverse_contrast": 1.0 if is_tensor else 1.0 / contrast,
        "LOAD_CONTRAST": is_tensor,
    }
