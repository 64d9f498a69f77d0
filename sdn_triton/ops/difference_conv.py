"""The semantic difference convolution as an operator: arguments (input, guidance, weight, bias, contrast)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sdn_triton.eager.composite import difference_conv2d
from sdn_triton.launch.support import why_not_difference
from sdn_triton.ops.operator import Operator, register
from sdn_triton.ops.path import Arguments
from sdn_triton.options import Contrast, DifferenceNeeds, DifferenceOptions


def _output_shape(
    input: Tensor, guidance: Tensor, weight: Tensor, bias: Tensor | None, contrast: Contrast, options: DifferenceOptions
) -> tuple[int, ...]:
    return input.shape[0], weight.shape[0], *options.output_size(input.shape[2], input.shape[3])


def _products(
    input: Tensor, guidance: Tensor, weight: Tensor, bias: Tensor | None, contrast: Contrast, options: DifferenceOptions
) -> int:
    """Those of a convolution without its middle tap: 8/9 of a vanilla 3x3 convolution's."""
    rows, columns = options.output_size(input.shape[2], input.shape[3])
    return input.shape[0] * rows * columns * weight.shape[0] * weight.shape[1] * len(options.taps)


def _flatten(arguments: Arguments, options: DifferenceOptions) -> tuple[Any, ...]:
    *tensors, contrast = arguments
    learned = isinstance(contrast, Tensor)
    return (
        *tensors,
        contrast if learned else None,
        1.0 if learned else float(contrast),
        options.stride,
        options.padding,
        options.dilation,
        options.groups,
        options.border,
        options.diffusivity,
        options.similarity,
    )


def _unflatten(*flat: Any) -> tuple[Arguments, DifferenceOptions]:
    input, guidance, weight, bias, contrast, number, stride, padding, dilation, groups, *names = flat
    kernel_size = weight.shape[2], weight.shape[3]
    options = DifferenceOptions(kernel_size, tuple(stride), tuple(padding), tuple(dilation), groups, *names)
    return (input, guidance, weight, bias, number if contrast is None else contrast), options


difference_conv = register(
    Operator(
        name="semantic_difference_conv2d",
        module="difference_conv",
        needs=DifferenceNeeds,
        plain=difference_conv2d,
        output_shape=_output_shape,
        why_not=why_not_difference,
        products=_products,
        schema=(
            "Tensor input, Tensor guidance, Tensor weight, Tensor? bias, Tensor? contrast_tensor, float contrast, "
            "int[] stride, int[] padding, int[] dilation, int groups, str border, str diffusivity, str similarity"
        ),
        flatten=_flatten,
        unflatten=_unflatten,
        independent_dims=(0,),
        keeps=True,
        has_one_group=lambda *flat: flat[9] == 1,  # see _flatten
    )
)
