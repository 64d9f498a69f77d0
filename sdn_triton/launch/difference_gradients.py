"""The gradients of weight and bias of the semantic difference convolution on the Triton path."""

from __future__ import annotations

import torch
from torch import Tensor

from sdn_triton.kernels.depthwise import depthwise_weight_gradient_kernel
from sdn_triton.kernels.difference_weight_gradient import difference_weight_gradient_kernel
from sdn_triton.kernels.paired_weight_gradient import paired_weight_gradient_kernel
from sdn_triton.launch import paired_depthwise
from sdn_triton.launch.difference_call import DifferenceCall, lies_in_words
from sdn_triton.launch.image_copy import in_channels_last
from sdn_triton.launch.run import Launch, cdiv, count_tiles, image_strides, needs_64_bits, next_power, precision_of
from sdn_triton.options import DifferenceNeeds
from sdn_triton.tuning.channels_last import gradient_copy_pays
from sdn_triton.tuning.defaults import tap_pairs


def readable_gradient(call: DifferenceCall, grad: Tensor, needs: DifferenceNeeds) -> Tensor:
    """The incoming gradient, or a channels-last copy where one pays for kernels that take channels in pairs."""
    outputs = grad.shape[1]
    if call.is_depthwise:
        return _readable_depthwise_gradient(call, grad, needs)
    if not call.has_pairs or grad.stride(1) == 1 or outputs % call.loaded_at_once:
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


def _readable_depthwise_gradient(call: DifferenceCall, grad: Tensor, needs: DifferenceNeeds) -> Tensor:
    """The same of a depthwise convolution, whose kernels in pairs read the gradient in pairs, too."""
    if lies_in_words(grad) and not needs_64_bits(grad):
        return grad
    needs_contrast = needs.contrast and isinstance(call.contrast, Tensor)
    in_pairs = (needs.weight or needs.bias) and call.config("depthwise_weight_gradient").pairs
    if needs.input or needs.guidance:
        in_pairs |= call.config("depthwise_data_gradient", needs_contrast).pairs
    return in_channels_last(grad, grad.shape[1]) if in_pairs else grad


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
    if call.is_depthwise and config.pairs:
        launch = paired_depthwise.weight_gradient(call, grad, weight_sums, bias_sums, config)
    elif call.is_depthwise:
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
            tuned="depthwise_weight_gradient",
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
            tuned="difference_weight_gradient",
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
            tuned="difference_weight_gradient",
        )
    launch(call.input.device)
    dweight = None
    if weight_sums is not None:
        total = weight_sums.sum(0)[..., : weight.shape[1]]  # without channels that copies have more
        dweight = torch.empty_like(weight).copy_(total.permute(0, 3, 1, 2))
    return dweight, None if bias_sums is None else bias_sums.sum(0).to(weight.dtype)
