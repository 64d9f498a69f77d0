"""The difference convolution that says mean and variance of its output, for the normalisation that follows.

It is called like the difference convolution, but the guidance may have another height and width: it is resized
for the time of the forward and again for that of the backward, and kept as it was in between. The backward is that of
the difference convolution, of a gradient to which what leads back through mean and variance has been added.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sdn_triton.backend import is_recording
from sdn_triton.eager.layouts import compute_dtype
from sdn_triton.ops.difference_conv import DifferenceOperator, difference_conv
from sdn_triton.ops.operator import distinct, gradients_of, needs_gradient, restore, save
from sdn_triton.ops.path import launched_gradient
from sdn_triton.ops.resize import resized, resized_gradient, size_of
from sdn_triton.options import DifferenceArguments, DifferenceGradients, DifferenceOptions

Moments = tuple[Tensor, Tensor, Tensor]


class MomentsOperator(DifferenceOperator):
    """``torch.ops.sdn_triton.semantic_difference_conv2d_moments``."""

    name = "semantic_difference_conv2d_moments"
    module = "moments"
    returns = "(Tensor, Tensor, Tensor)"
    independent_dims = ()

    def empty_output(self, arguments: DifferenceArguments, options: DifferenceOptions) -> Moments:
        response = super().empty_output(arguments, options)
        # There is no mean of nothing.
        mean, variance = (
            response.new_full((response.shape[1],), math.nan, dtype=compute_dtype(response)) for _ in range(2)
        )
        return response, mean, variance

    def __call__(self, arguments: DifferenceArguments, options: DifferenceOptions, backend: str) -> Moments:
        """``y [N, O, Ho, Wo]``, mean and variance ``[O]`` of its channels; all three can be differentiated."""
        if torch.compiler.is_compiling():
            arguments = distinct(arguments)
        elif is_recording():
            self.note(_at_one_size(arguments), options, backend)
        if needs_gradient(arguments):
            recorded: Moments = _WithMoments.apply(backend, options, *arguments)
            return recorded
        output: Moments = self.forward(_at_one_size(arguments), options, backend)
        return output

    def rehearse(
        self, arguments: DifferenceArguments, stand_ins: DifferenceArguments, options: DifferenceOptions
    ) -> tuple[str, ...]:
        remarks = super().rehearse(arguments, stand_ins, options)
        return *difference_conv.rehearse_backward(arguments, stand_ins, options), *remarks


moments = MomentsOperator()
moments.register()


def _at_one_size(arguments: DifferenceArguments) -> DifferenceArguments:
    """The arguments with the guidance in the size of the input."""
    return arguments._replace(guidance=resized(arguments.guidance, size_of(arguments.input)))


class _WithMoments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backend: str, options: DifferenceOptions, *tensors: Any) -> Moments:
        arguments = DifferenceArguments(*tensors)
        response, mean, variance = moments.forward(_at_one_size(arguments), options, backend)
        ctx.backend, ctx.options = backend, options
        ctx.set_materialize_grads(False)
        save(ctx, [*arguments, response, mean])
        return response, mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        *saved, response, mean = restore(ctx)
        arguments = DifferenceArguments(*saved)
        full = _at_one_size(arguments)
        path = "traced"
        if not torch.compiler.is_compiling():
            path, _ = difference_conv.choose(full, ctx.options, ctx.backend, "backward")
        total = response_gradient(grads, response, mean, path)
        _, _, *needs = ctx.needs_input_grad
        gradients = DifferenceGradients(
            *gradients_of(difference_conv, full, ctx.options, ctx.backend, total, tuple(needs))
        )
        if gradients.guidance is not None:
            by_guidance = resized_gradient(gradients.guidance, arguments.guidance, path)
            gradients = gradients._replace(guidance=by_guidance)
        return None, None, *gradients


def response_gradient(grads: Any, response: Tensor, mean: Tensor, path: str) -> Tensor:
    """``G + (dL/dmean + 2 (y - mean) dL/dvariance) / n``."""
    grad, by_mean, by_variance = grads
    if by_mean is None and by_variance is None:
        return torch.zeros_like(response) if grad is None else grad
    grad = torch.zeros_like(response) if grad is None else grad
    by_mean, by_variance = (torch.zeros_like(mean) if g is None else g for g in (by_mean, by_variance))
    launched = launched_gradient(path, "moments", grad, response, mean, by_mean, by_variance)
    if launched is not None:
        return launched
    count = response.numel() // response.shape[1]
    offset, centre, slope = (x.view(-1, 1, 1) for x in (by_mean / count, mean, 2 * by_variance / count))
    total = torch.addcmul(offset + grad, response - centre, slope)
    return total.to(response.dtype)
