"""The semantic difference convolution as an operator."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sdn_triton.eager.composite import difference_conv2d
from sdn_triton.launch.support import why_not_difference
from sdn_triton.ops.operator import Operator, register
from sdn_triton.ops.path import PathOperator
from sdn_triton.options import DifferenceArguments, DifferenceNeeds, DifferenceOptions


class DifferenceOperator(PathOperator[DifferenceArguments, DifferenceOptions]):
    """What the operators have in common that are called like a difference convolution."""

    Arguments = DifferenceArguments
    schema = (
        "Tensor input, Tensor guidance, Tensor weight, Tensor? bias, Tensor? contrast_tensor, float contrast, "
        "int[] stride, int[] padding, int[] dilation, int groups, str border, str diffusivity, str similarity"
    )

    def output_shape(self, arguments: DifferenceArguments, options: DifferenceOptions) -> tuple[int, ...]:
        images, _, height, width = arguments.input.shape
        return images, arguments.weight.shape[0], *options.output_size(height, width)

    def why_not(self, arguments: DifferenceArguments, options: DifferenceOptions) -> str | None:
        return why_not_difference(arguments, options)

    def products(self, arguments: DifferenceArguments, options: DifferenceOptions) -> int:
        """Those of a convolution without its middle tap: 8/9 of a vanilla 3x3 convolution's."""
        images, outputs, rows, columns = self.output_shape(arguments, options)
        return images * outputs * rows * columns * arguments.weight.shape[1] * len(options.taps)

    def flatten(self, arguments: DifferenceArguments, options: DifferenceOptions) -> tuple[Any, ...]:
        input, guidance, weight, bias, contrast = arguments
        is_tensor = isinstance(contrast, Tensor)
        return (
            input,
            guidance,
            weight,
            bias,
            contrast if is_tensor else None,
            1.0 if is_tensor else float(contrast),
            options.stride,
            options.padding,
            options.dilation,
            options.groups,
            options.border,
            options.diffusivity,
            options.similarity,
        )

    def unflatten(
        self,
        input: Tensor,
        guidance: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        contrast_tensor: Tensor | None,
        contrast: float,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
        border: str,
        diffusivity: str,
        similarity: str,
    ) -> tuple[DifferenceArguments, DifferenceOptions]:
        arguments = DifferenceArguments(
            input, guidance, weight, bias, contrast if contrast_tensor is None else contrast_tensor
        )
        return arguments, DifferenceOptions(
            kernel_size=(weight.shape[2], weight.shape[3]),
            stride=tuple(stride),
            padding=tuple(padding),
            dilation=tuple(dilation),
            groups=groups,
            border=border,
            diffusivity=diffusivity,
            similarity=similarity,
        )


class DifferenceConv(DifferenceOperator, Operator[DifferenceArguments, DifferenceOptions]):
    """``torch.ops.sdn_triton.semantic_difference_conv2d``."""

    name = "semantic_difference_conv2d"
    module = "difference_conv"
    Needs = DifferenceNeeds
    independent_dims = (0,)
    keeps = True

    def plain(self, arguments: DifferenceArguments, options: DifferenceOptions) -> Tensor:
        return difference_conv2d(arguments, options)

    def has_one_group(self, options: DifferenceOptions) -> bool:
        return options.groups == 1


difference_conv = register(DifferenceConv())
