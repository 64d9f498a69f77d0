"""The difference convolution that says mean and variance of its output, for the normalisation that follows.

Its arguments are those of the difference convolution, but the guidance may have another height and width: it is resized
for the time of the forward and again for that of the backward, and kept as it was in between. The backward is that of
the difference convolution, of a gradient to which what leads back through mean and variance has been added.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sdn_triton.backend import is_recording
from sdn_triton.eager.layouts import compute_dtype
from sdn_triton.launch.support import why_not_difference
from sdn_triton.ops.difference_conv import difference_conv
from sdn_triton.ops.operator import distinct, gradients_of, needs_gradient, restore, save
from sdn_triton.ops.path import Arguments, PathOperator, path_module
from sdn_triton.ops.resize import resized, resized_gradient, size_of
from sdn_triton.outputs import empty_output
from sdn_triton.tracing import are_plain, in_memory, only_has_a_shape

Moments = tuple[Tensor, Tensor, Tensor]


class _MomentsOperator(PathOperator):
    returns = "(Tensor, Tensor, Tensor)"

    def empty_output(self, arguments: Arguments, static: Any) -> Moments:
        response = empty_output(self.output_shape(*arguments, static), like=arguments[0])
        mean, variance = (response.new_empty(response.shape[1], dtype=compute_dtype(response)) for _ in range(2))
        return response, mean, variance

    def __call__(self, arguments: Arguments, static: Any, backend: str) -> Moments:
        """``y [N, O, Ho, Wo]``, mean and variance ``[O]`` of its channels; all three can be differentiated."""
        if torch.compiler.is_compiling():
            arguments = distinct(arguments)
        elif is_recording():
            self.note(_at_one_size(arguments), static, backend)
        if needs_gradient(arguments):
            found: Moments = _WithMoments.apply(backend, static, *arguments)
        else:
            found = self.forward(_at_one_size(arguments), static, backend)
        return found


moments = _MomentsOperator(
    name="semantic_difference_conv2d_moments",
    module="moments",
    output_shape=difference_conv.output_shape,
    why_not=why_not_difference,
    products=difference_conv.products,
    schema=difference_conv.schema,
    flatten=difference_conv.flatten,
    unflatten=difference_conv.unflatten,
    independent_dims=(),
)
moments.register()


def _at_one_size(arguments: Arguments) -> Arguments:
    """The arguments with the guidance in the size of the input."""
    input, guidance, *others = arguments
    return input, resized(guidance, size_of(input)), *others


class _WithMoments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backend: str, static: Any, *arguments: Any) -> Moments:
        response, mean, variance = moments.forward(_at_one_size(arguments), static, backend)
        ctx.backend, ctx.static = backend, static
        ctx.set_materialize_grads(False)
        save(ctx, [*arguments, response, mean])
        return response, mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        *arguments, response, mean = restore(ctx)
        full = _at_one_size(arguments)
        path = "traced"
        if not torch.compiler.is_compiling():
            path, _ = difference_conv.choose(full, ctx.static, ctx.backend, "backward")
        total = response_gradient(grads, response, mean, path)
        needs = ctx.needs_input_grad[2:]
        by_input, by_guidance, *others = gradients_of(difference_conv, total, full, ctx.static, ctx.backend, needs)
        if by_guidance is not None:
            by_guidance = resized_gradient(by_guidance, arguments[1], path)
        return None, None, by_input, by_guidance, *others


def response_gradient(grads: Any, response: Tensor, mean: Tensor, path: str) -> Tensor:
    """``G + (dL/dmean + 2 (y - mean) dL/dvariance) / n``."""
    grad, by_mean, by_variance = grads
    if by_mean is None and by_variance is None:
        return torch.zeros_like(response) if grad is None else grad
    grad = torch.zeros_like(response) if grad is None else grad
    by_mean, by_variance = (torch.zeros_like(mean) if g is None else g for g in (by_mean, by_variance))
    given = grad, response, mean, by_mean, by_variance
    if path == "triton" and not torch.is_grad_enabled() and are_plain(given) and not only_has_a_shape(response):
        found: Tensor = path_module(path, "moments").gradient(*in_memory(given))
        return found
    count = response.numel() // response.shape[1]
    offset, centre, slope = (x.view(-1, 1, 1) for x in (by_mean / count, mean, 2 * by_variance / count))
    total = torch.addcmul(offset + grad, response - centre, slope)
    return total.to(response.dtype)
