"""What the differentiable operators have in common: each is differentiable to any order on each path.

The first derivative is the path's own explicit backward. The second goes through the operator's plain form in
differentiable PyTorch operations, so that it is right for every path without kernels of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._decomp import register_decomposition
from torch.utils.flop_counter import register_flop_formula

from sdn_triton import tracing
from sdn_triton.ops.autocast import autocast_dtype
from sdn_triton.ops.batching import map_backward, map_forward
from sdn_triton.ops.path import NAMESPACE, Arguments, PathOperator
from sdn_triton.ops.sharding import register_rules_if_used
from sdn_triton.tracing import are_plain, is_plain, is_transformed, only_has_a_shape


@dataclass(frozen=True, eq=False)
class Operator(PathOperator):
    """A differentiable operator.

    Its ``module`` has ``backward(grad, *arguments without bias, static, needs)`` too, ``needs`` names the gradients,
    and ``plain(*arguments, static)`` is its differentiable form.

    For sharding: where ``has_one_group(*flat)`` the outputs of the weight can be computed apart.
    """

    needs: Callable[..., tuple[bool, ...]]
    plain: Callable[..., Tensor]
    has_one_group: Callable[..., bool]

    def __call__(self, arguments: Arguments, static: Any, backend: str) -> Tensor:
        """Run the operator on the path that ``backend`` and the arguments lead to; autocast has to be off."""
        if tracing.takes_plain_form():
            return self.plain(*arguments, static)
        if torch.compiler.is_compiling():
            return self._traced(arguments, static, backend)
        self.note(arguments, static, backend)
        if is_transformed():
            return _Forward.apply(self.name, backend, static, *arguments)
        if needs_gradient(arguments):
            return _RecordedForward.record(self, backend, static, *arguments)
        return self.forward(arguments, static, backend)

    def _traced(self, arguments: Arguments, static: Any, backend: str) -> Tensor:
        # Dynamo cannot trace a Function with a variable number of arguments where nothing needs a gradient.
        if not needs_gradient(arguments):
            return self.forward(arguments, static, backend)
        return _Forward.apply(self.name, backend, static, *distinct(arguments))

    def prepare_registered(self) -> None:
        """Tell DTensor how the operators are sharded, if it is in use."""
        if not torch.compiler.is_compiling():
            register_rules_if_used(OPERATORS.values())

    def forward_and_keep(self, arguments: Arguments, static: Any, backend: str) -> tuple[Any, tuple[Tensor, ...]]:
        """Compute the output, and what the path keeps for its backward."""
        if are_plain(arguments) and not only_has_a_shape(arguments[0]):
            return self.run_forward_and_keep(arguments, static, backend)
        return self.forward(arguments, static, backend), ()

    def backward(
        self,
        grad: Tensor,
        arguments: Arguments,
        static: Any,
        backend: str,
        needs: tuple[bool, ...],
        kept: tuple[Tensor, ...] = (),
    ) -> tuple[Tensor | None, ...]:
        """Compute the gradients that are needed, without their derivatives."""
        if is_plain(grad) and not only_has_a_shape(grad) and are_plain(arguments):
            return self.run_backward(grad, arguments, static, backend, needs, kept)
        registered = getattr(torch.ops.sdn_triton, f"{self.name}_backward")
        gradients = registered(grad, *self.flatten(arguments, static), backend, needs)
        return tuple(g if need else None for g, need in zip(gradients, needs))

    def run_backward(
        self,
        grad: Tensor,
        arguments: Arguments,
        static: Any,
        backend: str,
        needs: Sequence[bool],
        kept: tuple[Tensor, ...] = (),
    ) -> tuple[Tensor | None, ...]:
        """Run the backward of the path that the arguments lead to."""
        if grad.numel() == 0:
            return tuple(torch.zeros_like(a) if need else None for a, need in zip(arguments, needs))
        input, other, weight, _, *rest = arguments
        given = (grad, input, other, weight, *rest, static, self.needs(*needs), *((kept,) if kept else ()))
        return tuple(self._run("backward", given, arguments, static, backend))


OPERATORS: dict[str, Operator] = {}


def register(operator: Operator) -> Operator:
    """Make ``operator`` and its backward known to ``torch.library`` as ``torch.ops.sdn_triton.<name>[_backward]``."""
    OPERATORS[operator.name] = operator
    operator.register()
    backward_name = f"{NAMESPACE}::{operator.name}_backward"
    count = len(operator.needs(*[False] * len(operator.needs.__annotations__)))
    torch.library.define(
        backward_name,
        f"(Tensor grad, {operator.schema}, str backend, bool[] needs) -> ({', '.join(['Tensor'] * count)})",
    )

    @torch.no_grad()
    def backward(grad: Tensor, *given: Any) -> tuple[Tensor, ...]:
        *flat, backend, needs = given
        gradients = operator.run_backward(grad, *operator.unflatten(*flat), backend, needs)
        return tuple(grad.new_empty(0) if g is None else g for g in gradients)

    def fake_backward(grad: Tensor, *given: Any) -> tuple[Tensor, ...]:
        *flat, _, needs = given
        arguments, _ = operator.unflatten(*flat)
        return tuple(torch.empty_like(a) if need else grad.new_empty(0) for a, need in zip(arguments, needs))

    def backward_flops(grad: Tensor, *given: Any, out_val: Any = None, **_: Any) -> int:
        *flat, _, needs = given
        arguments, static = operator.unflatten(*flat)
        # One set of products leads back to the data, whichever of them are asked for, and one to the weight.
        sets = any(needs[:2] + needs[4:]) + needs[2]
        return sets * 2 * operator.products(*arguments, static)

    def plain(*given: Any) -> Tensor:
        *flat, _ = given
        arguments, static = operator.unflatten(*flat)
        return operator.plain(*arguments, static)

    # For who takes programs apart that were exported already, as ONNX's exporter does.
    register_decomposition(getattr(torch.ops.sdn_triton, operator.name).default)(plain)
    for key in ("CPU", "CUDA"):
        torch.library.impl(backward_name, key, backward)
    torch.library.register_fake(backward_name, fake_backward)
    registered = getattr(torch.ops.sdn_triton, f"{operator.name}_backward")
    register_flop_formula(registered, get_raw=True)(backward_flops)
    return operator


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(name: str, backend: str, static: Any, *arguments: Any) -> Tensor:
        return OPERATORS[name].forward(arguments, static, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name, ctx.backend, ctx.static, *arguments = inputs
        save(ctx, arguments)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        return map_forward(partial(_Forward.apply, *inputs[:3]), info.batch_size, in_dims[3:], inputs[3:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (grad,) = grads
        needs = ctx.needs_input_grad[3:]
        operator = OPERATORS[ctx.name]
        return None, None, None, *gradients_of(operator, grad, restore(ctx), ctx.static, ctx.backend, needs)


class _RecordedForward(_Forward):
    """The same where ``torch.func`` is not at work, for a fraction of the host's time."""

    @classmethod
    def record(cls, operator: Operator, backend: str, static: Any, *arguments: Any) -> Tensor:
        """What ``apply`` comes to after it has looked for ``torch.func``."""
        return super(torch.autograd.Function, cls).apply(operator, backend, static, *arguments)  # type: ignore[misc]

    @staticmethod
    def forward(ctx: Any, operator: Operator, backend: str, static: Any, *arguments: Any) -> Tensor:  # type: ignore[override]
        ctx.name, ctx.backend, ctx.static = operator.name, backend, static
        output, kept = operator.forward_and_keep(arguments, static, backend)
        save(ctx, (*arguments, *kept))
        ctx.kept = len(kept)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (grad,) = grads
        saved = restore(ctx)
        arguments, kept = saved[: len(saved) - ctx.kept], tuple(saved[len(saved) - ctx.kept :])
        needs, operator = ctx.needs_input_grad[3:], OPERATORS[ctx.name]
        return None, None, None, *gradients_of(operator, grad, arguments, ctx.static, ctx.backend, needs, kept)

    setup_context = torch.autograd.Function.setup_context


def gradients_of(
    operator: Operator,
    grad: Tensor,
    arguments: Arguments,
    static: Any,
    backend: str,
    needs: tuple[bool, ...],
    kept: tuple[Tensor, ...] = (),
) -> tuple[Tensor | None, ...]:
    """The gradients that are needed inside a backward, with their own derivatives where somebody may ask for these."""
    # Compiled graphs have no second derivative, and mostly nobody asks for one.
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() or is_transformed()):
        return operator.backward(grad, arguments, static, backend, needs, kept)
    found: tuple[Tensor | None, ...] = _Backward.apply(operator.name, backend, static, needs, grad, *arguments)
    return found


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(name: str, backend: str, static: Any, needs: tuple[bool, ...], grad: Tensor, *arguments: Any) -> Any:
        return OPERATORS[name].backward(grad, arguments, static, backend, needs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.name, ctx.backend, ctx.static, ctx.needs, *arguments = inputs
        ctx.set_materialize_grads(False)
        save(ctx, arguments)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
        return map_backward(partial(_Backward.apply, *inputs[:4]), info.batch_size, in_dims[4:], inputs[4:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        if autocast_dtype(ctx.saved_tensors[0]) is not None:  # the plain form chooses its own precisions, too
            with torch.autocast(ctx.saved_tensors[0].device.type, enabled=False):
                return _Backward._second_derivatives(ctx, grads)
        return _Backward._second_derivatives(ctx, grads)

    @staticmethod
    def _second_derivatives(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Any, ...]:
        saved = restore(ctx)
        places = [i for i, a in enumerate(saved) if isinstance(a, Tensor)]

        def first_derivatives(*tensors: Tensor) -> tuple[Tensor, ...]:
            grad, *arguments = _replaced(saved, places, tensors)
            needed = [i for i, need in enumerate(ctx.needs) if need]

            def output(*first: Tensor) -> Tensor:
                return OPERATORS[ctx.name].plain(*_replaced(arguments, needed, first), ctx.static)

            _, pull = torch.func.vjp(output, *(arguments[i] for i in needed))  # type: ignore[misc]
            return pull(grad)

        gradients, pull = torch.func.vjp(first_derivatives, *(saved[i] for i in places))  # type: ignore[misc]
        given = [g for g, need in zip(grads, ctx.needs) if need]
        second = pull(tuple(torch.zeros_like(x) if g is None else g for x, g in zip(gradients, given)))
        found = dict(zip(places, second))
        wanted = ctx.needs_input_grad[4:]
        return None, None, None, None, *(found[i] if want else None for i, want in enumerate(wanted))


def distinct(arguments: Arguments) -> Arguments:
    """The arguments without one tensor in two roles, which Dynamo cannot trace."""
    if arguments[1] is arguments[0]:
        return arguments[0], arguments[1].view_as(arguments[1]), *arguments[2:]
    return arguments


def needs_gradient(arguments: Arguments) -> bool:
    """Whether autograd records what is done with the arguments."""
    if torch.is_grad_enabled():
        for argument in arguments:
            if isinstance(argument, Tensor) and argument.requires_grad:
                return True
    return False


def save(ctx: Any, arguments: Arguments) -> None:
    """Keep arguments for the backward, tensors and others in their order."""
    tensors, others = [], []
    for argument in arguments:
        is_tensor = isinstance(argument, Tensor)
        tensors.append(argument if is_tensor else None)
        others.append(None if is_tensor else argument)
    ctx.save_for_backward(*tensors)
    ctx.others = others


def restore(ctx: Any) -> list[Any]:
    """What was saved."""
    return [other if tensor is None else tensor for tensor, other in zip(ctx.saved_tensors, ctx.others)]


def _replaced(values: list[Any], places: list[int], new: Sequence[Tensor]) -> list[Any]:
    """``values`` with the ``new`` ones in their places."""
    by_place = dict(zip(places, new))
    return [by_place.get(place, value) for place, value in enumerate(values)]
