"""The maps of vector similarity and the gradients that pass through them, on the Triton path."""

from __future__ import annotations

import torch
from torch import Tensor

from sdn_triton.kernels.arguments import Steps
from sdn_triton.kernels.similarity import similarity_gradient_kernel, similarity_kernel
from sdn_triton.launch.image_layout import needs_64_bits, strides_of
from sdn_triton.launch.plan import Rest, launch
from sdn_triton.launch.run import cdiv, contrast_of, count_tiles, steps_of
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
            steps=steps_of(options),
            s_strides=strides_of(maps),
            v_strides=strides_of(guidance),
            KERNEL_H=options.kernel_size[0],
            KERNEL_W=options.kernel_size[1],
            DIFFUSIVITY=options.diffusivity,
            INT64=needs_64_bits(guidance, maps, margin=sum(options.reach) + sum(options.padding)),
            BLOCK_H=config.block_h,
            BLOCK_W=config.block_w,
            BLOCK_C=config.block_c,
        )

    tensors = dict(s_ptr=maps, v_ptr=guidance, contrast=contrast_of(contrast))
    launch(
        kernel=similarity_kernel,
        tensors=tensors,
        config=config,
        rest=rest,
        facts=options,
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
            steps=Steps(1, 1, *options.dilation),
            dv_strides=strides_of(dguidance),
            edge_strides=strides_of(edges),
            v_strides=strides_of(guidance),
            KERNEL_H=options.kernel_size[0],
            KERNEL_W=options.kernel_size[1],
            INT64=needs_64_bits(guidance, edges, *present, margin=sum(options.reach)),
            BLOCK_H=config.block_h,
            BLOCK_W=config.block_w,
            BLOCK_C=config.block_c,
        )

    launch(
        kernel=similarity_gradient_kernel,
        tensors=dict(
            dv_ptr=dguidance,
            contrast_sums_ptr=sums,
            edge_ptr=edges,
            v_ptr=guidance,
            contrast=contrast_of(contrast),
        ),
        config=config,
        rest=rest,
        facts=options,
        tuned="similarity_gradient",
    )
    return dguidance, sums
