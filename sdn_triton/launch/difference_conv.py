"""The semantic difference convolution on the Triton path."""

from __future__ import annotations

import torch
from torch import Tensor

from sdn_triton.kernels.depthwise import depthwise_forward_kernel
from sdn_triton.kernels.difference_forward import difference_forward_kernel
from sdn_triton.kernels.paired_forward import paired_forward_kernel
from sdn_triton.launch import paired_depthwise
from sdn_triton.launch.data_gradients import data_gradients
from sdn_triton.launch.difference_call import DifferenceCall
from sdn_triton.launch.difference_gradients import readable_gradient, weight_gradients
from sdn_triton.launch.image_layout import strides_of
from sdn_triton.launch.paired_weight import in_pairs
from sdn_triton.launch.plan import Rest
from sdn_triton.launch.run import as_factor, cdiv, contrast_of, count_tiles, precision_of
from sdn_triton.options import DifferenceArguments, DifferenceGradients, DifferenceNeeds, DifferenceOptions
from sdn_triton.tuning.configs import Configs, KernelConfig


def forward(arguments: DifferenceArguments, options: DifferenceOptions, configs: Configs | None = None) -> Tensor:
    """``y[n,o,p] = b[o] + sum_{c, tap} K[o,c,tap] s(n,c,p,q) (u[n,c,q] - u[n,c,p])``.

    ``configs`` overrides the default configuration of a kernel by its name.
    """
    call = DifferenceCall.of(arguments, options, configs)
    output = call.empty_output()
    launch_forward(call, output)
    return output


def launch_forward(call: DifferenceCall, output: Tensor, moments: Tensor | None = None) -> None:
    """Fill ``output``, and ``moments`` ``[tiles, 2, O]``, if there, with mean and squared deviations of every tile."""
    maps = call.similarity_maps()
    if call.layout.is_depthwise:
        _depthwise_forward(call, output, moments)
    else:
        _dense_forward(call, output, maps, moments)


def backward(
    arguments: DifferenceArguments,
    options: DifferenceOptions,
    grad: Tensor,
    needs: DifferenceNeeds,
    configs: Configs | None = None,
) -> DifferenceGradients:
    """The gradients that ``needs`` asks for, each of its argument's shape, dtype and strides; see the kernels."""
    call = DifferenceCall.of(arguments, options, configs)
    is_constant = options.diffusivity == "constant"
    computed = needs._replace(guidance=False, contrast=False) if is_constant else needs
    grad = readable_gradient(call, grad.to(arguments.input.dtype), computed)
    maps = call.similarity_maps()
    dinput, dguidance, dcontrast = data_gradients(call, grad, maps, computed)
    if is_constant:
        dguidance = torch.zeros_like(arguments.guidance) if needs.guidance else None
        contrast = arguments.contrast
        dcontrast = torch.zeros_like(contrast) if needs.contrast and isinstance(contrast, Tensor) else None
    dweight, dbias = weight_gradients(call, grad, maps, needs)
    return DifferenceGradients(dinput, dguidance, dweight, dbias, dcontrast)


def _dense_forward(call: DifferenceCall, output: Tensor, maps: Tensor | None, moments: Tensor | None) -> None:
    layout = call.layout
    config = call.config("difference_forward")
    if config.pairs:
        _paired_forward(call.in_pairs, output, moments, config)
        return
    guidance = call.guidance if maps is None else maps
    tensors = dict(
        y_ptr=output,
        moments_ptr=moments,
        u_ptr=call.input,
        v_ptr=guidance,
        weight_ptr=call.packed_weight(),
        bias_ptr=None if call.bias is None else call.bias.contiguous(),
        contrast=contrast_of(call.contrast),
    )

    def rest() -> Rest:
        return _forward_grid(call, output, config), dict(
            C=layout.channels,
            O=layout.outputs,
            **layout.geometry(),
            y_strides=strides_of(output),
            u_strides=strides_of(call.input),
            v_strides=strides_of(guidance),
            **layout.constants(output, guidance),
            VECTOR=maps is not None,
            PRECISION=precision_of(layout.arithmetic),
            BLOCK_H=config.block_h,
            BLOCK_W=config.block_w,
            BLOCK_C=config.block_c,
            BLOCK_O=config.block_o,
        )

    call.launch(kernel=difference_forward_kernel, tensors=tensors, config=config, rest=rest, tuned="difference_forward")


def _paired_forward(call: DifferenceCall, output: Tensor, moments: Tensor | None, config: KernelConfig) -> None:
    layout = call.layout
    tensors = dict(
        y_ptr=output,
        moments_ptr=moments,
        u_ptr=call.input,
        v_ptr=call.guidance,
        weight_ptr=in_pairs(as_factor(call.weight, layout.arithmetic), layout.groups, config.block_o),
        bias_ptr=None if call.bias is None else call.bias.contiguous(),
        contrast=contrast_of(call.contrast),
    )

    def rest() -> Rest:
        constants = layout.constants(output)
        del constants["INT64"]  # see DifferenceLayout.can_pair
        words = layout.word_strides
        return _forward_grid(call, output, config), dict(
            C=layout.channels,
            O=layout.outputs,
            **layout.geometry(),
            y_strides=strides_of(output),
            stride_un=words.n,
            stride_uh=words.h,
            stride_uw=words.w,
            **constants,
            **call.pair_constants(),
            BLOCK_H=config.block_h,
            BLOCK_W=config.block_w,
            BLOCK_O=config.block_o,
        )

    call.launch(kernel=paired_forward_kernel, tensors=tensors, config=config, rest=rest, tuned="difference_forward")


def _depthwise_forward(call: DifferenceCall, output: Tensor, moments: Tensor | None) -> None:
    layout = call.layout
    config = call.config("depthwise_forward")
    if config.pairs:
        paired_depthwise.forward(call.in_pairs, output, moments, config)
        return
    tensors = dict(
        y_ptr=output,
        moments_ptr=moments,
        u_ptr=call.input,
        v_ptr=call.guidance,
        weight_ptr=call.packed_weight(),
        bias_ptr=None if call.bias is None else call.bias.contiguous(),
        contrast=contrast_of(call.contrast),
    )

    def rest() -> Rest:
        return _forward_grid(call, output, config)[:1], dict(
            O=layout.outputs,
            **layout.geometry(),
            y_strides=strides_of(output),
            u_strides=strides_of(call.input),
            v_strides=strides_of(call.guidance),
            **layout.constants(output),
            MULTIPLIER=layout.multiplier,
            BLOCK_H=config.block_h,
            BLOCK_W=config.block_w,
            BLOCK_O=config.block_o,
        )

    call.launch(kernel=depthwise_forward_kernel, tensors=tensors, config=config, rest=rest, tuned="depthwise_forward")


def _forward_grid(call: DifferenceCall, output: Tensor, config: KernelConfig) -> tuple[int, int]:
    layout = call.layout
    tiles = count_tiles(output.shape[0], *layout.output_size, config)
    return tiles * cdiv(layout.outputs, config.block_o), layout.groups
