"""The block in evaluation as an operator without derivatives: where some are asked for, its two parts are called.

Its arguments are (input, guidance, weight, bias, contrast, mean, variance, norm_weight, norm_bias, fusion_weight,
fusion_bias).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sdn_triton.launch.support import why_not_block
from sdn_triton.ops.difference_conv import difference_conv
from sdn_triton.ops.path import Arguments, PathOperator
from sdn_triton.options import BlockOptions


def _output_shape(input: Tensor, guidance: Tensor, weight: Tensor, *others: Any) -> tuple[int, ...]:
    *_, fusion_weight, _, options = others
    return input.shape[0], fusion_weight.shape[0], *options.difference.output_size(input.shape[2], input.shape[3])


def _products(*given: Any) -> int:
    *arguments, options = given
    images, _, rows, columns = _output_shape(*given)
    fusion_weight: Tensor = arguments[9]
    return (
        difference_conv.products(*arguments[:5], options.difference) + images * rows * columns * fusion_weight.numel()
    )


def _flatten(arguments: Arguments, options: BlockOptions) -> tuple[Any, ...]:
    return (*arguments[5:], options.eps, *difference_conv.flatten(arguments[:5], options.difference))


def _unflatten(*flat: Any) -> tuple[Arguments, BlockOptions]:
    norm_and_fusion, eps = flat[:6], flat[6]
    arguments, options = difference_conv.unflatten(*flat[7:])
    return (*arguments, *norm_and_fusion), BlockOptions(options, eps)


block = PathOperator(
    name="semantic_diffusion_block",
    module="block",
    output_shape=_output_shape,
    why_not=why_not_block,
    products=_products,
    schema=(
        "Tensor mean, Tensor variance, Tensor? norm_weight, Tensor? norm_bias, Tensor fusion_weight, "
        f"Tensor? fusion_bias, float eps, {difference_conv.schema}"
    ),
    flatten=_flatten,
    unflatten=_unflatten,
    independent_dims=(0,),
)
block.register()
