"""The feature fusion as an operator: arguments (input, response, weight, bias, scale, shift)."""

from __future__ import annotations

from torch import Tensor

from sdn_triton.eager.composite import feature_fusion
from sdn_triton.launch.support import why_not_fusion
from sdn_triton.ops.operator import Operator, register
from sdn_triton.options import FusionNeeds


def _output_shape(input: Tensor, response: Tensor, weight: Tensor, *others: object) -> tuple[int, ...]:
    return input.shape[0], weight.shape[0], *input.shape[2:]


def _products(input: Tensor, response: Tensor, weight: Tensor, *others: object) -> int:
    return input.shape[0] * input.shape[2] * input.shape[3] * weight.numel()


fusion = register(
    Operator(
        name="feature_fusion",
        module="fusion",
        needs=FusionNeeds,
        plain=feature_fusion,
        output_shape=_output_shape,
        why_not=why_not_fusion,
        products=_products,
        schema=(
            "Tensor input, Tensor response, Tensor weight, Tensor? bias, Tensor? scale, Tensor? shift, str activation"
        ),
        flatten=lambda arguments, activation: (*arguments, activation),
        unflatten=lambda *flat: (flat[:-1], flat[-1]),
        independent_dims=(0, 2, 3),
        has_one_group=lambda *flat: True,
    )
)
