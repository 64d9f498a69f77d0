"""What the differentiable operators have in common: each is differentiable to any order on each path.

The first derivative is the path's own explicit backward. The second goes through the operator's plain form in
differentiable PyTorch operations, so that it is right for every path without kernels of its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch._decomp import register_decomposition
from torch.utils.flop_counter import register_flop_formula

from sdn_triton import dispatch_state
from sdn_triton.backend import is_recording
from sdn_triton.dispatch_state import are_plain, is_plain, is_transformed, only_has_a_shape
from sdn_triton.ops.autocast import autocast_dtype
from sdn_triton.ops.batching import map_backward, map_forward
from sdn_triton.ops.path import NAMESPACE, A, Options, PathOperator, is_empty
from sdn_triton.ops.sharding import register_rules_if_used
from sdn_triton.options import Needs

O = TypeVar("O", bound="Operator[Any, Any]")
Gradients = tuple[Tensor | None, ...]
"""One for each argument, None where it is not asked for."""


class Operator(PathOperator[A, Options]):
    """A differentiable operator.

    Its ``module`` has ``backward(arguments, options, grad, needs)`` too, which returns a gradient for each argument.
    """

    Needs: ClassVar[type[Needs]]
    """Which gradients are asked for, one flag an argument."""

    @abstractmethod
    def plain(self, arguments: A, options: Options) -> Tensor:
        """The operator in differentiable operations of PyTorch."""

    @abstractmethod
    def has_one_group(self, options: Options) -> bool:
        """Whether the outputs of the weight can be computed apart, for sharding."""

    def __call__(self, arguments: A, options: Options, backend: str) -> Tensor:
        """Run the operator on the path that ``backend`` and the arguments lead to; autocast has to be off."""
        if dispatch_state.takes_plain_form():
            return self.plain(arguments, options)
        if torch.compiler.is_compiling():
            return self._traced(arguments, options, backend)
        if is_recording():
            self.note(arguments, options, backend)
        if is_transformed():
            return _Forward.apply(self.name, backend, options, *arguments)
        if needs_gradient(arguments):
            return _RecordedForward.record(self, backend, options, *arguments)
        output: Tensor = self.forward(arguments, options, backend)
        return output

    def _traced(self, arguments: A, options: Options, backend: str) -> Tensor:
        # Dynamo cannot trace a Function with a variable number of arguments where nothing needs a gradient.
        if not needs_gradient(arguments):
            output: Tensor = self.forward(arguments, options, backend)
            return output
        return _Forward.apply(self.name, backend, options, *distinct(arguments))

    def prepare_registered(self) -> None:
        """Tell DTensor how the operators are sharded, if it is in use."""
        if not torch.compiler.is_compiling():
            register_rules_if_used(OPERATORS.values())

    def forward_and_keep(self, arguments: A, options: Options, backend: str) -> tuple[Any, tuple[Tensor, ...]]:
        """Compute the output, and what the path keeps for its backward."""
        if are_plain(arguments) and not only_has_a_shape(arguments.input):
            return self.run_forward_and_keep(arguments, options, backend)
        return self.forward(arguments, options, backend), ()

    def backward(
        self,
        arguments: A,
        options: Options,
        backend: str,
        grad: Tensor,
        needs: tuple[bool, ...],
        kept: tuple[Tensor, ...] = (),
    ) -> Gradients:
        """Compute the gradients that are needed, without their derivatives."""
        if is_plain(grad) and not only_has_a_shape(grad) and are_plain(arguments):
            return self.run_backward(arguments, options, backend, grad, needs, kept)
        registered = getattr(torch.ops.sdn_triton, f"{self.name}_backward")
        gradients = registered(grad, *self.flatten(arguments, options), backend, needs)
        return tuple(g if need else None for g, need in zip(gradients, needs))

    def run_backward(
        self,
        arguments: A,
        options: Options,
        backend: str,
        grad: Tensor,
        needs: Sequence[bool],
        kept: tuple[Tensor, ...] = (),
    ) -> Gradients:
        """Run the backward of the path that the arguments lead to; no path sees an empty batch."""
        if is_empty(arguments):
            return tuple(
                torch.zeros_like(a) if need and isinstance(a, Tensor) else None for a, need in zip(arguments, needs)
            )
        path, _ = self.choose(arguments, options, backend, "backward")
        # What an eager forward kept is of no use to kernels, which may be able to do what the forward's were not.
        of_forward = (kept,) if kept and path != "triton" else ()
        return tuple(self._run(path, "backward", arguments, options, backend, grad, self.Needs(*needs), *of_forward))

    def trained(self, arguments: A) -> tuple[bool, ...]:
        """The gradients that the training of a network asks for: of every tensor."""
        return self.Needs(*(isinstance(argument, Tensor) for argument in arguments))

    def rehearse(self, arguments: A, stand_ins: A, options: Options) -> tuple[str, ...]:
        remarks = super().rehearse(arguments, stand_ins, options)
        return *remarks, *self.rehearse_backward(arguments, stand_ins, options)

    def rehearse_backward(self, arguments: A, stand_ins: A, options: Options) -> tuple[str, ...]:
        """The same for the backward, with all gradients of a training step."""
        obstacle = self.obstacle(arguments, options, "backward")
        if obstacle is not None:
            return (f"the backward runs eagerly: {obstacle}",)
        replacements = self._replacements("backward", arguments, options)
        grad = self.empty_output(stand_ins, options)
        self._launch("backward", replacements, stand_ins, options, grad, self.trained(arguments))
        return ()


OPERATORS: dict[str, Operator[Any, Any]] = {}


def register(operator: O) -> O:
    """Make ``operator`` and its backward known to ``torch.library`` as ``torch.ops.sdn_triton.<name>[_backward]``."""
    OPERATORS[operator.name] = operator
    operator.register()
    backward_name = f"{NAMESPACE}::{operator.name}_backward"
    returns = ", ".join(["Tensor"] * len(operator.Needs._fields))
    torch.library.define(backward_name, f"(Tensor grad, {operator.schema}, str backend, bool[] needs) -> ({returns})")

    @torch.no_grad()
    def backward(grad: Tensor, *call: Any) -> tuple[Tensor, ...]:
        *flat, backend, needs = call
        gradients = operator.run_backward(*operator.unflatten(*flat), backend, grad, needs)
        return tuple(grad.new_empty(0) if g is None else g for g in gradients)

    def fake_backward(grad: Tensor, *call: Any) -> tuple[Tensor, ...]:
        *flat, _, needs = call
        arguments, _ = operator.unflatten(*flat)
        return tuple(torch.empty_like(a) if need else grad.new_empty(0) for a, need in zip(arguments, needs))

    def backward_flops(grad: Tensor, *call: Any, out_val: Any = None, **_: Any) -> int:
        *flat, _, flags = call
        needs = operator.Needs(*flags)
        # One set of products leads back to the data, whichever of them are asked for, and one to the weight.
        needs_data = any(needs._replace(weight=False, bias=False))
        return (needs_data + needs.weight) * 2 * operator.products(*operator.unflatten(*flat))

    def plain(*call: Any) -> Tensor:
        *flat, _ = call
        return operator.plain(*operator.unflatten(*flat))

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
    def forward(name: str, backend: str, options: Any, *arguments: Any) -> Tensor:
        operator = OPERATORS[name]
        output: Tensor = operator.forward(operator.Arguments(*arguments), options, backend)
        return output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name, ctx.backend, ctx.options, *arguments = inputs
        save(ctx, arguments)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        name, backend, options, *arguments = inputs
        call = partial(_Forward.apply, name, backend, options)
        return map_forward(call, info.batch_size, in_dims[3:], arguments)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (grad,) = grads
        _, _, _, *needs = ctx.needs_input_grad
        operator = OPERATORS[ctx.name]
        arguments = operator.Arguments(*restore(ctx))
        return None, None, None, *gradients_of(operator, arguments, ctx.options, ctx.backend, grad, tuple(needs))


class _RecordedForward(_Forward):
    """The same where ``torch.func`` is not at work, for a fraction of the host's time."""

    @classmethod
    def record(cls, operator: Operator[Any, Any], backend: str, options: Any, *arguments: Any) -> Tensor:
        """What ``apply`` comes to after it has looked for ``torch.func``."""
        return super(torch.autograd.Function, cls).apply(operator, backend, options, *arguments)  # type: ignore[misc]

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, operator: Operator[Any, Any], backend: str, options: Any, *arguments: Any
    ) -> Tensor:
        ctx.name, ctx.backend, ctx.options = operator.name, backend, options
        output, kept = operator.forward_and_keep(operator.Arguments(*arguments), options, backend)
        save(ctx, (*arguments, *kept))
        ctx.kept = len(kept)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (grad,) = grads
        saved = restore(ctx)
        operator = OPERATORS[ctx.name]
        arguments, kept = operator.Arguments(*saved[: len(saved) - ctx.kept]), tuple(saved[len(saved) - ctx.kept :])
        needs = ctx.needs_input_grad[3:]
        return None, None, None, *gradients_of(operator, arguments, ctx.options, ctx.backend, grad, needs, kept)

    setup_context = torch.autograd.Function.setup_context


def gradients_of(
    operator: Operator[A, Options],
    arguments: A,
    options: Options,
    backend: str,
    grad: Tensor,
    needs: tuple[bool, ...],
    kept: tuple[Tensor, ...] = (),
) -> Gradients:
    """The gradients that are needed inside a backward, with their own derivatives where somebody may ask for these."""
    # Compiled graphs have no second derivative, and mostly nobody asks for one.
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() or is_transformed()):
        return operator.backward(arguments, options, backend, grad, needs, kept)
    gradients: Gradients = _Backward.apply(operator.name, backend, options, needs, grad, *arguments)
    return gradients


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(name: str, backend: str, options: Any, needs: tuple[bool, ...], grad: Tensor, *arguments: Any) -> Any:
        operator = OPERATORS[name]
        return operator.backward(operator.Arguments(*arguments), options, backend, grad, needs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.name, ctx.backend, ctx.options, ctx.needs, *arguments = inputs
        ctx.set_materialize_grads(False)
        save(ctx, arguments)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
        name, backend, options, needs, *tensors = inputs
        call = partial(_Backward.apply, name, backend, options, needs)
        return map_backward(call, info.batch_size, in_dims[4:], tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        if autocast_dtype(ctx.saved_tensors[0]) is not None:  # the plain form chooses its own precisions, too
            with torch.autocast(ctx.saved_tensors[0].device.type, enabled=False):
                return _Backward._second_derivatives(ctx, grads)
        return _Backward._second_derivatives(ctx, grads)

    @staticmethod
    def _second_derivatives(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Any, ...]:
        operator = OPERATORS[ctx.name]
        saved = restore(ctx)
        places = [i for i, a in enumerate(saved) if isinstance(a, Tensor)]

        def first_derivatives(*tensors: Tensor) -> tuple[Tensor, ...]:
            grad, *arguments = _replaced(saved, places, tensors)
            needed = [i for i, need in enumerate(ctx.needs) if need]

            def output(*first: Tensor) -> Tensor:
                return operator.plain(operator.Arguments(*_replaced(arguments, needed, first)), ctx.options)

            _, pull = torch.func.vjp(output, *(arguments[i] for i in needed))  # type: ignore[misc]
            return pull(grad)

        gradients, pull = torch.func.vjp(first_derivatives, *(saved[i] for i in places))  # type: ignore[misc]
        incoming = [g for g, need in zip(grads, ctx.needs) if need]
        second = pull(tuple(torch.zeros_like(x) if g is None else g for x, g in zip(gradients, incoming)))
        by_place = dict(zip(places, second))
        _, _, _, _, *needs = ctx.needs_input_grad
        return None, None, None, None, *(by_place[i] if need else None for i, need in enumerate(needs))


def distinct(arguments: A) -> A:
    """The arguments without one tensor in two roles, which Dynamo cannot trace."""
    input, other, *rest = arguments
    if other is input:
        return type(arguments)(input, other.view_as(other), *rest)
    return arguments


def needs_gradient(arguments: Sequence[Any]) -> bool:
    """Whether autograd records what is done with the arguments."""
    if torch.is_grad_enabled():
        for argument in arguments:
            if isinstance(argument, Tensor) and argument.requires_grad:
                return True
    return False


def save(ctx: Any, arguments: Sequence[Any]) -> None:
    """Keep arguments for the backward, tensors and numbers in their order."""
    numbers = ctx.numbers = [None if isinstance(argument, Tensor) else argument for argument in arguments]
    ctx.save_for_backward(*[argument if number is None else None for argument, number in zip(arguments, numbers)])


def restore(ctx: Any) -> list[Any]:
    """What was saved."""
    return [number if tensor is None else tensor for tensor, number in zip(ctx.saved_tensors, ctx.numbers)]


def _replaced(values: list[Any], places: list[int], new: Sequence[Tensor]) -> list[Any]:
    """``values`` with the ``new`` ones in their places."""
    by_place = dict(zip(places, new))
    return [by_place.get(place, value) for place, value in enumerate(values)]
