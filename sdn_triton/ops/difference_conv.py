"""The semantic difference convolution as an operator: arguments (input, guidance, weight, bias, contrast)."""

from __future__ import annotations

from torch import Tensor

from sdn_triton.eager.composite import difference_conv2d
from sdn_triton.launch.support import why_not_difference
from sdn_triton.ops.operator import Operator
from sdn_triton.options import Contrast, DifferenceNeeds, DifferenceOptions


def _output_shape(
    input: Tensor, guidance: Tensor, weight: Tensor, bias: Tensor | None, contrast: Contrast, options: DifferenceOptions
) -> tuple[int, ...]:
    return input.shape[0], weight.shape[0], *options.output_size(input.shape[2], input.shape[3])


difference_conv = Operator(
    name="semantic_difference_conv2d",
    module="difference_conv",
    needs=DifferenceNeeds,
    plain=difference_conv2d,
    output_shape=_output_shape,
    why_not=why_not_difference,
)
