"""The feature fusion as an operator; its options are the name of the activation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sdn_triton.eager.composite import feature_fusion
from sdn_triton.launch.support import why_not_fusion
from sdn_triton.ops.operator import Operator, register
from sdn_triton.options import FusionArguments, FusionNeeds


class Fusion(Operator[FusionArguments, str]):
    """``torch.ops.sdn_triton.feature_fusion``."""

    name = "feature_fusion"
    module = "fusion"
    Arguments = FusionArguments
    Needs = FusionNeeds
    schema = "Tensor input, Tensor response, Tensor weight, Tensor? bias, Tensor? scale, Tensor? shift, str activation"
    independent_dims = (0, 2, 3)

    def output_shape(self, arguments: FusionArguments, activation: str) -> tuple[int, ...]:
        images, _, rows, columns = arguments.input.shape
        return images, arguments.weight.shape[0], rows, columns

    def why_not(self, arguments: FusionArguments, activation: str) -> str | None:
        return why_not_fusion(arguments)

    def products(self, arguments: FusionArguments, activation: str) -> int:
        images, _, rows, columns = arguments.input.shape
        return images * rows * columns * arguments.weight.numel()

    def plain(self, arguments: FusionArguments, activation: str) -> Tensor:
        return feature_fusion(arguments, activation)

    def has_one_group(self, activation: str) -> bool:
        return True

    def flatten(self, arguments: FusionArguments, activation: str) -> tuple[Any, ...]:
        return *arguments, activation

    def unflatten(self, *flat: Any) -> tuple[FusionArguments, str]:
        *arguments, activation = flat
        return FusionArguments(*arguments), activation


fusion = register(Fusion())
