"""The gradients of the semantic difference convolution on the Triton path."""

from __future__ import annotations

import torch
from torch import Tensor

from sdn_triton.kernels.depthwise import depthwise_weight_gradient_kernel
from sdn_triton.kernels.difference_data_gradient import difference_data_gradient_kernel
from sdn_triton.kernels.difference_weight_gradient import difference_weight_gradient_kernel
from sdn_triton.kernels.paired_weight_gradient import paired_weight_gradient_kernel
from sdn_triton.launch import similarity
from sdn_triton.launch.difference_call import DifferenceCall
from sdn_triton.launch.image_copy import in_channels_last
from sdn_triton.launch.paired_gradients import paired_data_gradients
from sdn_triton.launch.run import Launch, cdiv, count_tiles, image_strides, next_power, precision_of
from sdn_triton.options import Contrast, DifferenceNeeds
from sdn_triton.tuning.channels_last import gradient_copy_pays
from sdn_triton.tuning.defaults import tap_pairs


def readable_gradient(call: DifferenceCall, grad: Tensor, needs: DifferenceNeeds) -> Tensor:
    """The incoming gradient, or a channels-last copy where one pays for kernels that take channels in pairs."""
    outputs = grad.shape[1]
    if not call.has_pairs or call.is_depthwise or grad.stride(1) == 1 or outputs % call.loaded_at_once:
        return grad
    is_aligned = grad.stride(3) == 1 and all(stride % call.loaded_at_once == 0 for stride in grad.stride()[:3])
    readers = {}
    if needs.weight:
        readers["difference_weight_gradient"] = call.config("difference_weight_gradient")
    if needs.input or needs.guidance:
        needs_contrast = needs.contrast and isinstance(call.contrast, Tensor)
        readers["tap_products"] = call.config("difference_data_gradient", needs_contrast)
    for kernel, config in readers.items():
        if config.pairs and gradient_copy_pays(kernel, call.work(kernel), is_aligned):
            return in_channels_last(grad, outputs)
    return grad


def data_gradients(
    call: DifferenceCall, grad: Tensor, maps: Tensor | None, needs: DifferenceNeeds
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of input, guidance and contrast, from one launch, or two where the similarity has maps."""
    needs_contrast = needs.contrast and isinstance(call.contrast, Tensor)
    if not (needs.input or needs.guidance or needs_contrast):
        return None, None, None
    config = call.config("depthwise_data_gradient" if call.is_depthwise else "difference_data_gradient", needs_contrast)
    if config.pairs:
        return *paired_data_gradients(call, grad, needs, config), None
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


def weight_gradients(
    call: DifferenceCall, grad: Tensor, maps: Tensor | None, needs: DifferenceNeeds
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of weight and bias: float32 sums over parts of the pixels, then over the parts in fixed order."""
    if not (needs.weight or needs.bias):
        return None, None
    config = call.config("depthwise_weight_gradient" if call.is_depthwise else "difference_weight_gradient")
    weight = call.weight
    if config.pairs:
        call = call.in_pairs
    source = call.guidance if maps is None else maps
    outputs, channels, kernel_h, kernel_w = call.weight.shape
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
                **image_strides("u", call.input),
                **image_strides("v", source),
                MULTIPLIER=call.multiplier,
                BLOCK_T=next_power(call.taps),
            ),
            config=config,
        )
    elif config.pairs:
        blocks = cdiv(call.outputs, config.block_o) * cdiv(call.channels, config.block_c)
        pairs = tap_pairs(config, call.taps)
        launch = Launch(
            kernel=paired_weight_gradient_kernel,
            grid=(blocks * call.groups, call.taps // 2 // pairs + 1, config.splits),
            arguments=dict(
                **shared,
                **call.word_strides(),
                **call.pair_constants(),
                C=call.channels,
                TAP_PAIRS=pairs,
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
                **image_strides("u", call.input),
                **image_strides("v", source),
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
        total = weight_sums.sum(0)[..., : weight.shape[1]]  # without channels that copies have more
        dweight = torch.empty_like(weight).copy_(total.permute(0, 3, 1, 2))
    return dweight, None if bias_sums is None else bias_sums.sum(0).to(weight.dtype)
