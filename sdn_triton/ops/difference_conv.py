"""The semantic difference convolution as an operator."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sdn_triton.eager.composite import difference_conv2d
from sdn_triton.launch.run import arithmetic_of, target_of
from sdn_triton.launch.support import why_not_difference
from sdn_triton.ops.operator import Operator, register
from sdn_triton.ops.path import PathOperator
from sdn_triton.options import DifferenceArguments, DifferenceNeeds, DifferenceOptions
from sdn_triton.tuning.other_way import COMPILED_AHEAD, compiled_is_ahead
from sdn_triton.tuning.shapes import is_channels_last


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

    def rehearse(
        self, arguments: DifferenceArguments, stand_ins: DifferenceArguments, options: DifferenceOptions
    ) -> tuple[str, ...]:
        """Says, too, where a model has another way ahead, to which no path of this library leads."""
        remarks = super().rehearse(arguments, stand_ins, options)
        return (*remarks, COMPILED_AHEAD) if self._compiled_is_ahead(arguments, options) else remarks

    def _compiled_is_ahead(self, arguments: DifferenceArguments, options: DifferenceOptions) -> bool:
        """Of the layers that the model knows: 3x3 at stride 1, in one group, with a similarity for each channel."""
        input, (outputs, channels, *_) = arguments.input, arguments.weight.shape
        has_maps = options.similarity == "vector" and options.diffusivity != "constant"
        is_known = len(options.taps) == 8 and options.stride == (1, 1) and options.groups == 1 and not has_maps
        arithmetic, target = arithmetic_of(input.dtype), target_of(input.device)
        return is_known and compiled_is_ahead(arithmetic, is_channels_last(input), channels, outputs, target)

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

    def trained(self, arguments: DifferenceArguments) -> DifferenceNeeds:
        """Of every tensor, but of a contrast only where it is learned."""
        contrast = arguments.contrast
        is_learned = isinstance(contrast, Tensor) and contrast.requires_grad
        return DifferenceNeeds(True, True, True, arguments.bias is not None, is_learned)


difference_conv = register(DifferenceConv())
