"""The gradients of weight and bias of the semantic difference convolution on the Triton path."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdn_triton.kernels.depthwise import depthwise_weight_gradient_kernel
from sdn_triton.kernels.difference_weight_gradient import difference_weight_gradient_kernel
from sdn_triton.kernels.paired_weight_gradient import paired_weight_gradient_kernel
from sdn_triton.launch import paired_depthwise
from sdn_triton.launch.difference_call import DifferenceCall
from sdn_triton.launch.image_copy import in_channels_last
from sdn_triton.launch.image_layout import lies_in_words, needs_64_bits, starts_at_word, strides_of
from sdn_triton.launch.plan import Rest, Tensors
from sdn_triton.launch.run import cdiv, contrast_of, count_tiles, next_power, precision_of
from sdn_triton.options import DifferenceNeeds
from sdn_triton.tuning.channels_last import gradient_copy_pays
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.defaults import tap_pairs


def readable_gradient(call: DifferenceCall, grad: Tensor, needs: DifferenceNeeds) -> Tensor:
    """The incoming gradient, or a channels-last copy where one pays for packed kernels."""
    layout = call.layout
    outputs = grad.shape[1]
    if layout.is_depthwise:
        return _readable_depthwise_gradient(call, grad, needs)
    if not layout.has_pairs or grad.stride(1) == 1 or outputs % layout.loaded_at_once:
        return grad
    is_aligned = grad.stride(3) == 1 and all(stride % layout.loaded_at_once == 0 for stride in grad.stride()[:3])
    readers = {}
    if needs.weight:
        readers["difference_weight_gradient"] = call.config("difference_weight_gradient")
    if needs.input or needs.guidance:
        needs_contrast = needs.contrast and isinstance(call.contrast, Tensor)
        readers["tap_products"] = call.config("difference_data_gradient", needs_contrast)
    for kernel, config in readers.items():
        if config.pairs and gradient_copy_pays(kernel, layout.work(kernel, False), is_aligned):
            return in_channels_last(grad, outputs)
    return grad


def _readable_depthwise_gradient(call: DifferenceCall, grad: Tensor, needs: DifferenceNeeds) -> Tensor:
    """The same of a depthwise convolution, whose packed kernels read the gradient packed, too."""
    if lies_in_words(grad, grad.itemsize) and starts_at_word(grad) and not needs_64_bits(grad):
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
    config = call.config("depthwise_weight_gradient" if call.layout.is_depthwise else "difference_weight_gradient")
    weight = call.weight
    if config.pairs:
        call = call.in_pairs
    outputs, channels, kernel_h, kernel_w = call.weight.shape
    weight_sums = bias_sums = None
    if needs.weight:
        weight_sums = weight.new_empty((config.splits, outputs, kernel_h, kernel_w, channels), dtype=torch.float32)
    if needs.bias:
        bias_sums = weight.new_empty((config.splits, outputs), dtype=torch.float32)
    sums = WeightSums(weight_sums, bias_sums)
    if call.layout.is_depthwise and config.pairs:
        paired_depthwise.fill_weight_gradients(call, grad, *sums, config)
    elif call.layout.is_depthwise:
        _fill_depthwise(call, grad, sums, config)
    elif config.pairs:
        _fill_in_pairs(call, grad, sums, config)
    else:
        _fill(call, grad, maps, sums, config)
    dweight = None
    if weight_sums is not None:
        total = weight_sums.sum(0)[..., : weight.shape[1]]  # without channels that copies have more
        dweight = torch.empty_like(weight).copy_(total.permute(0, 3, 1, 2))
    return dweight, None if bias_sums is None else bias_sums.sum(0).to(weight.dtype)


class WeightSums(NamedTuple):
    """What a kernel fills for the gradients of weight and bias, if they are wanted, a part of the pixels in each."""

    weight: Tensor | None
    bias: Tensor | None


def _tensors(call: DifferenceCall, grad: Tensor, source: Tensor, sums: WeightSums) -> Tensors:
    return dict(
        dweight_ptr=sums.weight,
        dbias_ptr=sums.bias,
        gradient_ptr=grad,
        u_ptr=call.input,
        v_ptr=source,
        contrast=contrast_of(call.contrast),
    )


def _arguments(call: DifferenceCall, grad: Tensor, source: Tensor, config: KernelConfig) -> dict[str, Any]:
    """What all these kernels are told alike."""
    layout = call.layout
    return dict(
        tiles=count_tiles(grad.shape[0], *layout.output_size, config),
        O=layout.outputs,
        **layout.geometry(),
        g_strides=strides_of(grad),
        **layout.constants(grad, source),
        BLOCK_H=config.block_h,
        BLOCK_W=config.block_w,
        BLOCK_O=config.block_o,
    )


def _fill_depthwise(call: DifferenceCall, grad: Tensor, sums: WeightSums, config: KernelConfig) -> None:
    layout = call.layout

    def rest() -> Rest:
        return (cdiv(layout.outputs, config.block_o), config.splits), dict(
            **_arguments(call, grad, call.guidance, config),
            u_strides=strides_of(call.input),
            v_strides=strides_of(call.guidance),
            MULTIPLIER=layout.multiplier,
            BLOCK_T=next_power(layout.taps),
        )

    call.launch(
        kernel=depthwise_weight_gradient_kernel,
        tensors=_tensors(call, grad, call.guidance, sums),
        config=config,
        rest=rest,
        tuned="depthwise_weight_gradient",
    )


def _fill_in_pairs(call: DifferenceCall, grad: Tensor, sums: WeightSums, config: KernelConfig) -> None:
    layout = call.layout

    def rest() -> Rest:
        pairs = tap_pairs(config, layout.taps)
        return (_blocks(call, config), layout.taps // 2 // pairs + 1, config.splits), dict(
            **_arguments(call, grad, call.guidance, config),
            u_strides=layout.word_strides,
            **call.pair_constants(),
            C=layout.channels,
            TAP_PAIRS=pairs,
        )

    call.launch(
        kernel=paired_weight_gradient_kernel,
        tensors=_tensors(call, grad, call.guidance, sums),
        config=config,
        rest=rest,
        tuned="difference_weight_gradient",
    )


def _fill(call: DifferenceCall, grad: Tensor, maps: Tensor | None, sums: WeightSums, config: KernelConfig) -> None:
    layout = call.layout
    source = call.guidance if maps is None else maps

    def rest() -> Rest:
        return (_blocks(call, config), layout.taps, config.splits), dict(
            **_arguments(call, grad, source, config),
            u_strides=strides_of(call.input),
            v_strides=strides_of(source),
            C=layout.channels,
            VECTOR=maps is not None,
            PRECISION=precision_of(layout.arithmetic),
            BLOCK_C=config.block_c,
        )

    call.launch(
        kernel=difference_weight_gradient_kernel,
        tensors=_tensors(call, grad, source, sums),
        config=config,
        rest=rest,
        tuned="difference_weight_gradient",
    )


def _blocks(call: DifferenceCall, config: KernelConfig) -> int:
    """Of outputs by channels, of all groups."""
    layout = call.layout
    return cdiv(layout.outputs, config.block_o) * cdiv(layout.channels, config.block_c) * layout.groups
