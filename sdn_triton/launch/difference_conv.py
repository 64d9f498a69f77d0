"""The semantic difference convolution on the Triton path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sdn_triton.kernels.depthwise import depthwise_forward_kernel, depthwise_weight_gradient_kernel
from sdn_triton.kernels.difference_data_gradient import difference_data_gradient_kernel
from sdn_triton.kernels.difference_forward import difference_forward_kernel
from sdn_triton.kernels.difference_weight_gradient import difference_weight_gradient_kernel
from sdn_triton.launch import similarity
from sdn_triton.launch.run import (
    Launch,
    arithmetic_of,
    cdiv,
    count_tiles,
    empty_output,
    image_strides,
    needs_64_bits,
    next_power,
    precision_of,
    refuse_wrong_interpretation,
    target_of,
)
from sdn_triton.options import Contrast, DifferenceGradients, DifferenceNeeds, DifferenceOptions
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.defaults import Work, default_config

Configs = Mapping[str, KernelConfig]


def forward(
    input: Tensor,
    guidance: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    contrast: Contrast,
    options: DifferenceOptions,
    configs: Configs | None = None,
) -> Tensor:
    """``y[n,o,p] = b[o] + sum_{c, tap} K[o,c,tap] s(n,c,p,q) (u[n,c,q] - u[n,c,p])``.

    ``configs`` overrides the default configuration of a kernel by its name.
    """
    call = _Call.of(input, guidance, weight, contrast, options, configs)
    output = empty_output((input.shape[0], weight.shape[0], *call.output_size), like=input)
    if output.numel() == 0:
        return output
    maps = call.similarity_maps()
    if call.is_depthwise:
        launch = _depthwise_forward(call, output, bias)
    else:
        launch = _dense_forward(call, output, bias, maps)
    launch(input.device)
    return output


def backward(
    grad: Tensor,
    input: Tensor,
    guidance: Tensor,
    weight: Tensor,
    contrast: Contrast,
    options: DifferenceOptions,
    needs: DifferenceNeeds,
    configs: Configs | None = None,
) -> DifferenceGradients:
    """The gradients that ``needs`` asks for, each of its argument's shape, dtype and strides; see the kernels."""
    call = _Call.of(input, guidance, weight, contrast, options, configs)
    if grad.numel() == 0:
        return _zero_gradients(input, guidance, weight, contrast, grad, needs)
    grad = grad.to(input.dtype)
    maps = call.similarity_maps()
    if options.diffusivity == "constant":
        dinput, _, _ = _data_gradients(call, grad, maps, needs._replace(guidance=False, contrast=False))
        dguidance = torch.zeros_like(guidance) if needs.guidance else None
        dcontrast = torch.zeros_like(contrast) if needs.contrast and isinstance(contrast, Tensor) else None
    else:
        dinput, dguidance, dcontrast = _data_gradients(call, grad, maps, needs)
    dweight, dbias = _weight_gradients(call, grad, maps, needs)
    return DifferenceGradients(dinput, dguidance, dweight, dbias, dcontrast)


def describe_configs(
    input: Tensor,
    guidance: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    contrast: Contrast,
    options: DifferenceOptions,
) -> tuple[str, ...]:
    """A line per kernel that forward and backward would launch, with its configuration and where that comes from."""
    call = _Call.of(input, guidance, weight, contrast, options, None)
    family = "depthwise" if call.is_depthwise else "difference"
    kernels = [f"{family}_forward", f"{family}_data_gradient", f"{family}_weight_gradient"]
    if call.uses_maps:
        kernels = ["similarity", *kernels, "similarity_gradient"]
    return tuple(f"{kernel}: {call.config(kernel)}" for kernel in kernels)


@dataclass(frozen=True, eq=False)
class _Call:
    """What the launches of one call have in common."""

    input: Tensor
    guidance: Tensor
    weight: Tensor
    contrast: Contrast
    options: DifferenceOptions
    configs: Configs

    @staticmethod
    def of(
        input: Tensor,
        guidance: Tensor,
        weight: Tensor,
        contrast: Contrast,
        options: DifferenceOptions,
        configs: Configs | None,
    ) -> _Call:
        refuse_wrong_interpretation(input)
        if options.diffusivity == "constant":
            # Nothing looks at the guidance then, and the input has the one shape that every kernel can read.
            options, guidance, contrast = replace(options, similarity="channel"), input, 1.0
        return _Call(input, guidance, weight, contrast, options, configs or {})

    @property
    def is_depthwise(self) -> bool:
        return self.options.groups == self.input.shape[1] > 1 and not self.uses_maps

    @property
    def uses_maps(self) -> bool:
        return self.options.similarity == "vector"

    @cached_property
    def output_size(self) -> tuple[int, int]:
        return self.options.output_size(self.input.shape[2], self.input.shape[3])

    @property
    def channels(self) -> int:
        """Channels of one group; all of them in a depthwise convolution, whose kernels know no groups."""
        return self.input.shape[1] if self.is_depthwise else self.weight.shape[1]

    @property
    def outputs(self) -> int:
        """Outputs of one group, or all of them likewise."""
        return self.weight.shape[0] if self.is_depthwise else self.weight.shape[0] // self.options.groups

    @property
    def groups(self) -> int:
        return 1 if self.is_depthwise else self.options.groups

    @property
    def multiplier(self) -> int:
        return self.weight.shape[0] // self.input.shape[1]

    @property
    def taps(self) -> int:
        return self.options.kernel_size[0] * self.options.kernel_size[1]

    @cached_property
    def arithmetic(self) -> str:
        return arithmetic_of(self.input.dtype)

    def config(self, kernel: str) -> KernelConfig:
        """The configuration of a kernel: the caller's, or the default for this size."""
        if kernel in self.configs:
            return self.configs[kernel]
        over_input = kernel.endswith("data_gradient") or kernel == "similarity_gradient"
        rows, columns = self.input.shape[2:] if over_input else self.output_size
        work = Work(
            arithmetic=self.arithmetic,
            images=self.input.shape[0],
            rows=rows,
            columns=columns,
            channels=self.guidance.shape[1] if kernel.startswith("similarity") else self.channels,
            outputs=self.outputs,
            groups=self.groups,
            taps=self.taps,
        )
        return default_config(kernel, work, target_of(self.input.device))

    def similarity_maps(self) -> Tensor | None:
        """The similarity of every tap, for all channels at once; None where each channel has its own."""
        if not self.uses_maps:
            return None
        return similarity.forward(
            self.guidance, self.contrast, self.options, self.output_size, self.config("similarity")
        )

    def packed_weight(self) -> Tensor:
        """The weight as [O, kh, kw, C / groups], contiguous; a copy only where it is not stored like that."""
        return self.weight.permute(0, 2, 3, 1).contiguous()

    def contrast_arguments(self) -> dict[str, Any]:
        """The contrast as the kernels take it: a pointer that they load from, or the inverse of one number."""
        if isinstance(self.contrast, Tensor):
            return {
                "contrast_ptr": self.contrast,
                "inverse_contrast": 1.0,
                "stride_contrast": self.contrast.stride(0) if self.contrast.ndim else 0,
                "LOAD_CONTRAST": True,
            }
        return {
            "contrast_ptr": None,
            "inverse_contrast": 1.0 / self.contrast,
            "stride_contrast": 0,
            "LOAD_CONTRAST": False,
        }

    def geometry(self) -> dict[str, int]:
        """Sizes, and where centres and taps are."""
        return {
            "H": self.input.shape[2],
            "W": self.input.shape[3],
            "HO": self.output_size[0],
            "WO": self.output_size[1],
            "origin_h": self.options.origin[0],
            "origin_w": self.options.origin[1],
            "step_h": self.options.stride[0],
            "step_w": self.options.stride[1],
            "dilation_h": self.options.dilation[0],
            "dilation_w": self.options.dilation[1],
        }

    def constants(self, *tensors: Tensor) -> dict[str, Any]:
        """The compile-time options; ``tensors`` are the images that a kernel addresses besides input and guidance."""
        margin = sum(self.options.reach) + sum(self.options.padding)
        return {
            "KERNEL_H": self.options.kernel_size[0],
            "KERNEL_W": self.options.kernel_size[1],
            "DIFFUSIVITY": self.options.diffusivity,
            "ZERO_FLUX": self.options.border == "zero_flux",
            "INT64": needs_64_bits(self.input, self.guidance, *tensors, margin=margin),
        }


def _dense_forward(call: _Call, output: Tensor, bias: Tensor | None, maps: Tensor | None) -> Launch:
    config = call.config("difference_forward")
    guidance = call.guidance if maps is None else maps
    return Launch(
        kernel=difference_forward_kernel,
        grid=(
            count_tiles(output.shape[0], *call.output_size, config) * cdiv(call.outputs, config.block_o),
            call.groups,
        ),
        arguments=dict(
            y_ptr=output,
            u_ptr=call.input,
            v_ptr=guidance,
            weight_ptr=call.packed_weight(),
            bias_ptr=None if bias is None else bias.contiguous(),
            C=call.channels,
            O=call.outputs,
            **call.geometry(),
            **image_strides("y", output),
            **image_strides("u", call.input),
            **image_strides("v", guidance),
            **call.contrast_arguments(),
            **call.constants(output, guidance),
            HAS_BIAS=bias is not None,
            VECTOR=maps is not None,
            PRECISION=precision_of(call.arithmetic),
            BLOCK_H=config.block_h,
            BLOCK_W=config.block_w,
            BLOCK_C=config.block_c,
            BLOCK_O=config.block_o,
        ),
        config=config,
    )


def _depthwise_forward(call: _Call, output: Tensor, bias: Tensor | None) -> Launch:
    config = call.config("depthwise_forward")
    return Launch(
        kernel=depthwise_forward_kernel,
        grid=(count_tiles(output.shape[0], *call.output_size, config) * cdiv(call.outputs, config.block_o),),
        arguments=dict(
            y_ptr=output,
            u_ptr=call.input,
            v_ptr=call.guidance,
            weight_ptr=call.packed_weight(),
            bias_ptr=None if bias is None else bias.contiguous(),
            O=call.outputs,
            **call.geometry(),
            **image_strides("y", output),
            **image_strides("u", call.input),
            **image_strides("v", call.guidance),
            **call.contrast_arguments(),
            **call.constants(output),
            MULTIPLIER=call.multiplier,
            HAS_BIAS=bias is not None,
            BLOCK_H=config.block_h,
            BLOCK_W=config.block_w,
            BLOCK_O=config.block_o,
        ),
        config=config,
    )


def _data_gradients(
    call: _Call, grad: Tensor, maps: Tensor | None, needs: DifferenceNeeds
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of input, guidance and contrast, from one launch, or two where the similarity has maps."""
    needs_contrast = needs.contrast and isinstance(call.contrast, Tensor)
    if not (needs.input or needs.guidance or needs_contrast):
        return None, None, None
    config = call.config("depthwise_data_gradient" if call.is_depthwise else "difference_data_gradient")
    input, guidance = call.input, call.guidance
    images, _, rows, columns = input.shape
    tiles = count_tiles(images, rows, columns, config)
    c_blocks = cdiv(call.channels, config.block_c)
    dinput = torch.empty_like(input) if needs.input else None
    dguidance = sums = edges = None
    if maps is None:
        dguidance = target = torch.empty_like(guidance) if needs.guidance else None
        if needs_contrast:
            sums = input.new_empty((tiles, input.shape[1]), dtype=torch.float32)
    else:
        shape = (call.groups * c_blocks, images, call.taps - 1, rows, columns)
        edges = input.new_empty(shape, dtype=torch.float32) if needs.guidance or needs_contrast else None
        target = None if edges is None else edges[0]
    source = guidance if maps is None else maps
    Launch(
        kernel=difference_data_gradient_kernel,
        grid=(tiles * c_blocks, call.groups),
        arguments=dict(
            du_ptr=dinput,
            dv_ptr=target,
            contrast_sums_ptr=sums,
            gradient_ptr=grad,
            u_ptr=input,
            v_ptr=source,
            weight_ptr=call.packed_weight(),
            N=images,
            C=call.channels,
            O=call.outputs,
            **call.geometry(),
            **image_strides("du", dinput),
            **image_strides("dv", target),
            **image_strides("g", grad),
            **image_strides("u", input),
            **image_strides("v", source),
            **call.contrast_arguments(),
            **call.constants(grad, source, *(x for x in (dinput, target) if x is not None)),
            MULTIPLIER=call.multiplier if call.is_depthwise else 0,
            NEEDS_U=dinput is not None,
            NEEDS_V=target is not None,
            NEEDS_CONTRAST=sums is not None,
            VECTOR=maps is not None,
            PRECISION=precision_of(call.arithmetic),
            BLOCK_H=config.block_h,
            BLOCK_W=config.block_w,
            BLOCK_C=config.block_c,
            BLOCK_O=config.block_o,
        ),
        config=config,
    )(input.device)
    if edges is not None:
        dguidance, sums = similarity.backward(
            edges[0] if edges.shape[0] == 1 else edges.sum(0),
            guidance,
            call.contrast,
            call.options,
            call.config("similarity_gradient"),
            needs_guidance=needs.guidance,
            needs_contrast=needs_contrast,
        )
    return dinput, dguidance, None if sums is None else _contrast_gradient(sums, call.contrast)


def _contrast_gradient(sums: Tensor, contrast: Contrast) -> Tensor:
    """The sums over tiles, and over channels where all share one contrast."""
    assert isinstance(contrast, Tensor)
    total = sums.sum(0) if contrast.numel() == sums.shape[-1] and contrast.ndim else sums.sum()
    return total.to(contrast.dtype).reshape(contrast.shape)


def _weight_gradients(
    call: _Call, grad: Tensor, maps: Tensor | None, needs: DifferenceNeeds
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of weight and bias: float32 sums over parts of the pixels, then over the parts in fixed order."""
    if not (needs.weight or needs.bias):
        return None, None
    config = call.config("depthwise_weight_gradient" if call.is_depthwise else "difference_weight_gradient")
    weight, source = call.weight, call.guidance if maps is None else maps
    outputs, channels, kernel_h, kernel_w = weight.shape
    weight_sums = bias_sums = None
    if needs.weight:
        weight_sums = weight.new_empty((config.splits, outputs, kernel_h, kernel_w, channels), dtype=torch.float32)
    if needs.bias:
        bias_sums = weight.new_empty((config.splits, outputs), dtype=torch.float32)
    shared = dict(
        dweight_ptr=weight_sums,
        dbias_ptr=bias_sums,
        gradient_ptr=grad,
        u_ptr=call.input,
        v_ptr=source,
        tiles=count_tiles(grad.shape[0], *call.output_size, config),
        O=call.outputs,
        **call.geometry(),
        **image_strides("g", grad),
        **image_strides("u", call.input),
        **image_strides("v", source),
        **call.contrast_arguments(),
        **call.constants(grad, source),
        NEEDS_WEIGHT=needs.weight,
        NEEDS_BIAS=needs.bias,
        BLOCK_H=config.block_h,
        BLOCK_W=config.block_w,
        BLOCK_O=config.block_o,
    )
    if call.is_depthwise:
        launch = Launch(
            kernel=depthwise_weight_gradient_kernel,
            grid=(cdiv(call.outputs, config.block_o), config.splits),
            arguments=dict(
                **shared,
                MULTIPLIER=call.multiplier,
                BLOCK_T=next_power(call.taps),
            ),
            config=config,
        )
    else:
        blocks = cdiv(call.outputs, config.block_o) * cdiv(call.channels, config.block_c)
        launch = Launch(
            kernel=difference_weight_gradient_kernel,
            grid=(blocks * call.groups, call.taps, config.splits),
            arguments=dict(
                **shared,
                C=call.channels,
                VECTOR=maps is not None,
                PRECISION=precision_of(call.arithmetic),
                BLOCK_C=config.block_c,
            ),
            config=config,
        )
    launch(call.input.device)
    dweight = None
    if weight_sums is not None:
        dweight = torch.empty_like(weight).copy_(weight_sums.sum(0).permute(0, 3, 1, 2))
    return dweight, None if bias_sums is None else bias_sums.sum(0).to(weight.dtype)


def _zero_gradients(
    input: Tensor, guidance: Tensor, weight: Tensor, contrast: Contrast, grad: Tensor, needs: DifferenceNeeds
) -> DifferenceGradients:
    """The gradients of an empty batch."""
    return DifferenceGradients(
        input=torch.zeros_like(input) if needs.input else None,
        guidance=torch.zeros_like(guidance) if needs.guidance else None,
        weight=torch.zeros_like(weight) if needs.weight else None,
        bias=grad.new_zeros(grad.shape[1]) if needs.bias else None,
        contrast=torch.zeros_like(contrast) if needs.contrast and isinstance(contrast, Tensor) else None,
    )
