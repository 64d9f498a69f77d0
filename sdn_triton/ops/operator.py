"""What every operator has in common: it picks a path, and is differentiable to any order on each.

The first derivative is the path's own explicit backward. The second goes through the operator's plain form in
differentiable PyTorch operations, so that it is right for every path without kernels of its own.

In eager mode a call goes straight to the path. Where PyTorch traces or intercepts calls (torch.compile, torch.export,
fake tensors, dispatch modes) it goes through an operator registered with ``torch.library``, which does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from sdn_triton import tracing
from sdn_triton.backend import Decision, choose, is_recording, note
from sdn_triton.ops.autocast import autocast_dtype
from sdn_triton.ops.batching import image_by_image, map_backward, map_forward
from sdn_triton.ops.sharding import register_rules_if_used
from sdn_triton.outputs import empty_output
from sdn_triton.tracing import are_plain, is_plain, is_transformed
from sdn_triton.tuning import fallback
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.shapes import note_call, tune_command

Arguments = Sequence[Any]
NAMESPACE = "sdn_triton"


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator ``y = f(*arguments, static)`` where any argument may be a tensor, a number or None.

    ``module`` is the file in ``eager/`` and in ``launch/`` that runs it: ``forward(*arguments, static)``,
    ``backward(grad, *arguments without bias, static, needs)`` and, in ``launch/``, ``describe_configs`` for the
    configurations it would run with. ``plain`` is its differentiable form, ``output_shape`` its size, and ``why_not``
    says what the Triton kernels cannot do with a call; all three take ``(*arguments, static)``.

    ``products`` counts the multiplications of a call's forward, for FLOP formulas.

    ``schema`` is the registered operator's arguments; ``flatten(arguments, static)`` makes them of a call, and
    ``unflatten(*flat)`` takes them apart again.

    For sharding: along each of ``independent_dims`` the images can be cut and computed apart, and where
    ``has_one_group(*flat)`` so can the outputs of the weight.
    """

    name: str
    module: str
    needs: Callable[..., tuple[bool, ...]]
    plain: Callable[..., Tensor]
    output_shape: Callable[..., tuple[int, ...]]
    why_not: Callable[..., str | None]
    products: Callable[..., int]
    schema: str
    flatten: Callable[[Arguments, Any], tuple[Any, ...]]
    unflatten: Callable[..., tuple[Arguments, Any]]
    independent_dims: tuple[int, ...]
    has_one_group: Callable[..., bool]

    def __call__(self, arguments: Arguments, static: Any, backend: str) -> Tensor:
        """Run the operator on the path that ``backend`` and the arguments lead to; autocast has to be off."""
        if tracing.decomposing:
            return self.plain(*arguments, static)
        if torch.compiler.is_compiling():
            return self._traced(arguments, static, backend)
        if is_recording():
            note(self._decision(arguments, static, backend))
        if is_transformed():
            return _Forward.apply(self.name, backend, static, *arguments)
        if _needs_gradient(arguments):
            return _RecordedForward.record(self, backend, static, *arguments)
        return self.forward(arguments, static, backend)

    def _traced(self, arguments: Arguments, static: Any, backend: str) -> Tensor:
        # Dynamo cannot trace a Function with a variable number of arguments where nothing needs a gradient, nor one
        # tensor in two roles.
        if not _needs_gradient(arguments):
            return self.forward(arguments, static, backend)
        if arguments[1] is arguments[0]:
            arguments = (arguments[0], arguments[1].view_as(arguments[1]), *arguments[2:])
        return _Forward.apply(self.name, backend, static, *arguments)

    def forward(self, arguments: Arguments, static: Any, backend: str) -> Tensor:
        """Compute the output, without its derivatives."""
        if are_plain(arguments):
            if arguments[0].is_meta:
                return self.empty_output(arguments, static)
            return self.run_forward(arguments, static, backend)
        if not torch.compiler.is_compiling():
            register_rules_if_used(OPERATORS.values())
        registered = getattr(torch.ops.sdn_triton, self.name)
        return registered(*self.flatten(arguments, static), backend)

    def backward(
        self, grad: Tensor, arguments: Arguments, static: Any, backend: str, needs: tuple[bool, ...]
    ) -> tuple[Tensor | None, ...]:
        """Compute the gradients that are needed, without their derivatives."""
        if is_plain(grad) and not grad.is_meta and are_plain(arguments):
            return self.run_backward(grad, arguments, static, backend, needs)
        registered = getattr(torch.ops.sdn_triton, f"{self.name}_backward")
        gradients = registered(grad, *self.flatten(arguments, static), backend, needs)
        return tuple(g if need else None for g, need in zip(gradients, needs))

    def empty_output(self, arguments: Arguments, static: Any) -> Tensor:
        """A tensor like the output, with nothing in it."""
        return empty_output(self.output_shape(*arguments, static), like=arguments[0])

    def run_forward(self, arguments: Arguments, static: Any, backend: str) -> Tensor:
        """Run the forward of the path that the arguments lead to.

        Under deterministic algorithms the bits of an image's output do not depend on the images beside it, either.
        """
        note_call(self.name, arguments, static)
        return self._run("forward", (*arguments, static), arguments, static, backend)

    def run_backward(
        self, grad: Tensor, arguments: Arguments, static: Any, backend: str, needs: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        """Run the backward of the path that the arguments lead to."""
        if grad.numel() == 0:
            return tuple(torch.zeros_like(a) if need else None for a, need in zip(arguments, needs))
        input, other, weight, _, *rest = arguments
        given = (grad, input, other, weight, *rest, static, self.needs(*needs))
        return tuple(self._run("backward", given, arguments, static, backend))

    def _run(self, step: str, given: Arguments, arguments: Arguments, static: Any, backend: str) -> Any:
        """Take a step, forward or backward, all of it again where a configuration of one of its kernels fails.

        A path writes to tensors of its own only, so that what the kernels before the failing one did is dropped.
        """
        path, _ = self._choose(arguments, static, backend, step)
        function = getattr(_module(path, self.module), step)
        if path != "triton":
            if step == "forward" and torch.are_deterministic_algorithms_enabled() and len(arguments[0]) > 1:
                return image_by_image(function, given, self.empty_output(arguments, static))
            return function(*given)
        try:
            return function(*given, self._replacements(arguments, static, step))
        except fallback.LaunchFailedError as failure:
            fallback.step_down(fallback.call_key(self.name, step, arguments, static), failure)
        return self._run(step, given, arguments, static, backend)

    def _choose(self, arguments: Arguments, static: Any, backend: str, step: str = "forward") -> tuple[str, str]:
        input: Tensor = arguments[0]
        if backend == "eager" or (backend == "auto" and input.device.type != "cuda"):
            return choose(backend, input, None)
        why_not = self.why_not(*arguments, static)
        if why_not is None and fallback.anything_failed():
            why_not = fallback.why_exhausted(fallback.call_key(self.name, step, arguments, static))
        return choose(backend, input, why_not)

    def _replacements(self, arguments: Arguments, static: Any, *steps: str) -> dict[str, KernelConfig] | None:
        """The configurations that stand in for those that failed in this call before."""
        if not fallback.anything_failed():
            return None
        keys = (fallback.call_key(self.name, step, arguments, static) for step in steps)
        return {kernel: config for key in keys for kernel, config in fallback.replacements(key).items()}

    def _decision(self, arguments: Arguments, static: Any, backend: str) -> Decision:
        path, reason = self._choose(arguments, static, backend)
        if path != "triton":
            return Decision(self.name, path, reason)
        replacements = self._replacements(arguments, static, "forward", "backward")
        configs = _module(path, self.module).describe_configs(*arguments, static, replacements)
        return Decision(self.name, path, reason, configs, tune_command(self.name, arguments, static))


@cache
def _module(path: str, name: str) -> ModuleType:
    """That of launch/ imports triton, so only when it is taken."""
    return import_module(f"sdn_triton.{'launch' if path == 'triton' else 'eager'}.{name}")


OPERATORS: dict[str, Operator] = {}


def register(operator: Operator) -> Operator:
    """Make ``operator`` and its backward known to ``torch.library`` as ``torch.ops.sdn_triton.<name>[_backward]``."""
    OPERATORS[operator.name] = operator
    name, backward_name = f"{NAMESPACE}::{operator.name}", f"{NAMESPACE}::{operator.name}_backward"
    count = len(operator.needs(*[False] * len(operator.needs.__annotations__)))
    torch.library.define(name, f"({operator.schema}, str backend) -> Tensor")
    torch.library.define(
        backward_name,
        f"(Tensor grad, {operator.schema}, str backend, bool[] needs) -> ({', '.join(['Tensor'] * count)})",
    )

    # PyTorch records what a registered kernel does, unless told not to.
    @torch.no_grad()
    def forward(*given: Any) -> Tensor:
        *flat, backend = given
        return operator.run_forward(*operator.unflatten(*flat), backend)

    @torch.no_grad()
    def backward(grad: Tensor, *given: Any) -> tuple[Tensor, ...]:
        *flat, backend, needs = given
        gradients = operator.run_backward(grad, *operator.unflatten(*flat), backend, needs)
        return tuple(grad.new_empty(0) if g is None else g for g in gradients)

    def fake_forward(*given: Any) -> Tensor:
        *flat, _ = given
        return operator.empty_output(*operator.unflatten(*flat))

    def fake_backward(grad: Tensor, *given: Any) -> tuple[Tensor, ...]:
        *flat, _, needs = given
        arguments, _ = operator.unflatten(*flat)
        return tuple(torch.empty_like(a) if need else grad.new_empty(0) for a, need in zip(arguments, needs))

    for key in ("CPU", "CUDA"):
        torch.library.impl(name, key, forward)
        torch.library.impl(backward_name, key, backward)
    torch.library.register_fake(name, fake_forward)
    torch.library.register_fake(backward_name, fake_backward)

    # A multiplication and an addition are two operations, as everywhere in PyTorch's counter; what is done to every
    # element, like the similarity, is not counted there for any operator.
    def forward_flops(*given: Any, out_val: Any = None, **_: Any) -> int:
        *flat, _ = given
        arguments, static = operator.unflatten(*flat)
        return 2 * operator.products(*arguments, static)

    def backward_flops(grad: Tensor, *given: Any, out_val: Any = None, **_: Any) -> int:
        *flat, _, needs = given
        arguments, static = operator.unflatten(*flat)
        # One set of products leads back to the data, whichever of them are asked for, and one to the weight.
        sets = any(needs[:2] + needs[4:]) + needs[2]
        return sets * 2 * operator.products(*arguments, static)

    registered = (
        getattr(torch.ops.sdn_triton, operator.name),
        getattr(torch.ops.sdn_triton, f"{operator.name}_backward"),
    )
    register_flop_formula(registered[0], get_raw=True)(forward_flops)
    register_flop_formula(registered[1], get_raw=True)(backward_flops)
    return operator


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(name: str, backend: str, static: Any, *arguments: Any) -> Tensor:
        return OPERATORS[name].forward(arguments, static, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name, ctx.backend, ctx.static, *arguments = inputs
        _save(ctx, arguments)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        return map_forward(partial(_Forward.apply, *inputs[:3]), info.batch_size, in_dims[3:], inputs[3:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (grad,) = grads
        needs = ctx.needs_input_grad[3:]
        # Compiled graphs have no second derivative, and mostly nobody asks for one.
        if torch.compiler.is_compiling() or not (torch.is_grad_enabled() or is_transformed()):
            operator = OPERATORS[ctx.name]
            return None, None, None, *operator.backward(grad, _saved(ctx), ctx.static, ctx.backend, needs)
        return None, None, None, *_Backward.apply(ctx.name, ctx.backend, ctx.static, needs, grad, *_saved(ctx))


class _RecordedForward(_Forward):
    """The same where ``torch.func`` is not at work, for a fraction of the host's time."""

    @classmethod
    def record(cls, operator: Operator, backend: str, static: Any, *arguments: Any) -> Tensor:
        """What ``apply`` comes to after it has looked for ``torch.func``."""
        return super(torch.autograd.Function, cls).apply(operator, backend, static, *arguments)  # type: ignore[misc]

    @staticmethod
    def forward(ctx: Any, operator: Operator, backend: str, static: Any, *arguments: Any) -> Tensor:  # type: ignore[override]
        ctx.name, ctx.backend, ctx.static = operator.name, backend, static
        _save(ctx, arguments)
        return operator.forward(arguments, static, backend)

    setup_context = torch.autograd.Function.setup_context


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(name: str, backend: str, static: Any, needs: tuple[bool, ...], grad: Tensor, *arguments: Any) -> Any:
        return OPERATORS[name].backward(grad, arguments, static, backend, needs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.name, ctx.backend, ctx.static, ctx.needs, *arguments = inputs
        ctx.set_materialize_grads(False)
        _save(ctx, arguments)

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
        saved = _saved(ctx)
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


def _needs_gradient(arguments: Arguments) -> bool:
    if torch.is_grad_enabled():
        for argument in arguments:
            if isinstance(argument, Tensor) and argument.requires_grad:
                return True
    return False


def _save(ctx: Any, arguments: Arguments) -> None:
    tensors, others = [], []
    for argument in arguments:
        is_tensor = isinstance(argument, Tensor)
        tensors.append(argument if is_tensor else None)
        others.append(None if is_tensor else argument)
    ctx.save_for_backward(*tensors)
    ctx.others = others


def _saved(ctx: Any) -> list[Any]:
    return [other if tensor is None else tensor for tensor, other in zip(ctx.saved_tensors, ctx.others)]


def _replaced(values: list[Any], places: list[int], new: Sequence[Tensor]) -> list[Any]:
    """``values`` with the ``new`` ones in their places."""
    by_place = dict(zip(places, new))
    return [by_place.get(place, value) for place, value in enumerate(values)]
