"""Launches of any kernel on tensors without memory, to compile and to look at."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sdn_triton.launch import block, difference_conv, fusion
from sdn_triton.launch.run import Launch, recorded_launches
from sdn_triton.options import (
    BlockArguments,
    BlockOptions,
    Contrast,
    DifferenceArguments,
    DifferenceNeeds,
    DifferenceOptions,
    FusionArguments,
    FusionNeeds,
)
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.kernels import KERNELS
from sdn_triton.tuning.precision import convolutions_in

DTYPES = {"ieee": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def example_launches(
    kernel: str,
    arithmetic: str,
    config: KernelConfig,
    *,
    channels: int = 256,
    outputs: int = 256,
    size: tuple[int, int] = (64, 64),
    images: int = 2,
    options: DifferenceOptions | None = None,
    contrast: Contrast = 1.0,
    memory_format: torch.memory_format = torch.channels_last,
) -> list[Launch]:
    """The launches of ``kernel`` with ``config`` in the forward or backward pass that it belongs to.

    Of strips, which differ by magnitudes only, it is the first.
    Channels, outputs and options are those of the layer; a kernel of the depthwise or vector kind sets its own groups
    or similarity. Every gradient is asked for, that of the contrast where it is a tensor.
    """
    dtype = DTYPES[arithmetic]
    if options is None:
        options = DifferenceOptions((3, 3), padding=(1, 1))

    def image(channels: int, size: tuple[int, int] = size) -> Tensor:
        return torch.empty((images, channels, *size), device="meta", dtype=dtype).to(memory_format=memory_format)

    def vector(length: int) -> Tensor:
        return torch.empty(length, device="meta", dtype=dtype)

    configs = {kernel: config}
    with convolutions_in("tf32" if arithmetic == "tf32" else "ieee"), recorded_launches() as launches:
        if KERNELS[kernel].family == "fusion":
            weight = torch.empty((outputs, 2 * channels, 1, 1), device="meta", dtype=dtype)
            affine = vector(channels), vector(channels)
            fused = FusionArguments(image(channels), image(channels), weight, vector(outputs), *affine)
            if kernel == "fusion_forward":
                fusion.forward(fused, "relu", configs)
            else:
                needs = FusionNeeds(*(True for _ in FusionNeeds._fields))
                fusion.backward(fused, "relu", image(outputs), needs, configs)
        else:
            if kernel == "block_forward":
                outputs = min(outputs, config.block_o)  # more take two kernels
            elif KERNELS[kernel].family == "depthwise":
                options, outputs = replace(options, groups=channels), channels
            elif KERNELS[kernel].family == "similarity":
                options = replace(options, similarity="vector")
            elif kernel == "tap_products" and memory_format == torch.channels_last:
                options = replace(options, stride=(2, 2))  # at stride 1 edges may have products instead
            weight = torch.empty(
                (outputs, channels // options.groups, *options.kernel_size), device="meta", dtype=dtype
            )
            arguments = DifferenceArguments(image(channels), image(channels), weight, vector(outputs), contrast)
            if KERNELS[kernel].step != "forward":
                needs_all = DifferenceNeeds(True, True, True, True, isinstance(contrast, Tensor))
                grad = image(outputs, options.output_size(*size))
                difference_conv.backward(arguments, options, grad, needs_all, configs)
            elif kernel == "block_forward":
                fusion_weight = torch.empty((outputs, channels + outputs, 1, 1), device="meta", dtype=dtype)
                mean, variance, norm_weight, norm_bias, bias = (vector(outputs) for _ in range(5))
                whole = BlockArguments(*arguments, mean, variance, norm_weight, norm_bias, fusion_weight, bias)
                block.forward(whole, BlockOptions(options, 1e-5), configs)
            else:
                difference_conv.forward(arguments, options, configs)
    own = [launch for launch in launches if launch.tuned_as == kernel]
    in_strips = kernel in ("difference_data_gradient", "tap_products", "edge_products")
    return own[:1] if in_strips else own
