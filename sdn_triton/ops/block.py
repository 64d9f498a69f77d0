"""The block in evaluation as an operator without derivatives: where some are asked for, its two parts are called."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sdn_triton.launch.support import why_not_block
from sdn_triton.ops.difference_conv import difference_conv
from sdn_triton.ops.path import PathOperator
from sdn_triton.options import BlockArguments, BlockOptions


class Block(PathOperator[BlockArguments, BlockOptions]):
    """``torch.ops.sdn_triton.semantic_diffusion_block``."""

    name = "semantic_diffusion_block"
    module = "block"
    Arguments = BlockArguments
    schema = (
        "Tensor mean, Tensor variance, Tensor? norm_weight, Tensor? norm_bias, Tensor fusion_weight, "
        f"Tensor? fusion_bias, float eps, {difference_conv.schema}"
    )
    independent_dims = (0,)

    def output_shape(self, arguments: BlockArguments, options: BlockOptions) -> tuple[int, ...]:
        images, _, *size = difference_conv.output_shape(arguments.difference, options.difference)
        return images, arguments.fusion_weight.shape[0], *size

    def why_not(self, arguments: BlockArguments, options: BlockOptions) -> str | None:
        return why_not_block(arguments, options)

    def products(self, arguments: BlockArguments, options: BlockOptions) -> int:
        images, _, rows, columns = self.output_shape(arguments, options)
        first = difference_conv.products(arguments.difference, options.difference)
        return first + images * rows * columns * arguments.fusion_weight.numel()

    def flatten(self, arguments: BlockArguments, options: BlockOptions) -> tuple[Any, ...]:
        return (
            arguments.mean,
            arguments.variance,
            arguments.norm_weight,
            arguments.norm_bias,
            arguments.fusion_weight,
            arguments.fusion_bias,
            options.eps,
            *difference_conv.flatten(arguments.difference, options.difference),
        )

    def unflatten(
        self,
        mean: Tensor,
        variance: Tensor,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
        fusion_weight: Tensor,
        fusion_bias: Tensor | None,
        eps: float,
        *difference: Any,
    ) -> tuple[BlockArguments, BlockOptions]:
        arguments, options = difference_conv.unflatten(*difference)
        block = BlockArguments(*arguments, mean, variance, norm_weight, norm_bias, fusion_weight, fusion_bias)
        return block, BlockOptions(options, eps)


block = Block()
block.register()
