"""What every operator has in common: it picks a path, and is differentiable to any order on each.

The first derivative is the path's own explicit backward. The second goes through the operator's plain form in
differentiable PyTorch operations, so that it is right for every path without kernels of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from sdn_triton.backend import Decision, choose, is_recording, note

Arguments = tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator ``y = f(*arguments, static)`` where any argument may be a tensor, a number or None.

    ``module`` is the file in ``eager/`` and in ``launch/`` that runs it: ``forward(*arguments, static)``,
    ``backward(grad, *arguments without bias, static, needs)`` and, in ``launch/``, ``describe_configs`` for the
    configurations it would run with. ``plain`` is its differentiable form, ``output_shape`` its size, and ``why_not``
    says what the Triton kernels cannot do with a call; all three take ``(*arguments, static)``.
    """

    name: str
    module: str
    needs: Callable[..., tuple[bool, ...]]
    plain: Callable[..., Tensor]
    output_shape: Callable[..., tuple[int, ...]]
    why_not: Callable[..., str | None]

    def run(self, path: str) -> ModuleType:
        """The module of a path; that of ``launch/`` imports triton, so only when it is taken."""
        return import_module(f"sdn_triton.{'launch' if path == 'triton' else 'eager'}.{self.module}")

    def __call__(self, arguments: Arguments, static: Any, backend: str) -> Tensor:
        """Run the operator on the path that ``backend`` and the arguments lead to."""
        input: Tensor = arguments[0]
        path, reason = choose(backend, input, self.why_not(*arguments, static) if _may_use_triton(input, backend) else None)
        if is_recording():
            configs = self.run(path).describe_configs(*arguments, static) if path == "triton" else ()
            note(Decision(self.name, path, reason, configs))
        # The paths choose their own precisions; autocast, if on, was applied to the arguments already.
        device = input.device.type
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return _Forward.apply(self, path, static, *arguments)  # type: ignore[no-any-return]
        return _Forward.apply(self, path, static, *arguments)  # type: ignore[no-any-return]


def _may_use_triton(input: Tensor, backend: str) -> bool:
    return backend == "triton" or (backend == "auto" and input.device.type == "cuda")


def memory_format(tensor: Tensor) -> torch.memory_format:
    """The memory format that an output made from ``tensor`` gets: channels_last only where ``tensor`` is nothing else."""
    if tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(operator: Operator, path: str, static: Any, *arguments: Any) -> Tensor:
        input: Tensor = arguments[0]
        if isinstance(input, FakeTensor) or input.is_meta:
            shape = operator.output_shape(*arguments, static)
            return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=memory_format(input))
        return operator.run(path).forward(*arguments, static)

    @staticmethod
    def setup_context(ctx: Any, inputs: Arguments, output: Tensor) -> None:
        ctx.operator, ctx.path, ctx.static, *arguments = inputs
        _save(ctx, arguments)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        (grad,) = grads
        needs = ctx.needs_input_grad[3:]
        return None, None, None, *_Backward.apply(ctx.operator, ctx.path, ctx.static, needs, grad, *_saved(ctx))


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(operator: Operator, path: str, static: Any, needs: tuple[bool, ...], grad: Tensor, *arguments: Any) -> Any:
        input: Tensor = arguments[0]
        if isinstance(input, FakeTensor) or input.is_meta:
            return tuple(torch.empty_like(a) if n else None for a, n in zip(arguments, needs))
        input, other, weight, _, *rest = arguments
        return tuple(operator.run(path).backward(grad, input, other, weight, *rest, static, operator.needs(*needs)))

    @staticmethod
    def setup_context(ctx: Any, inputs: Arguments, output: Any) -> None:
        ctx.operator, ctx.path, ctx.static, ctx.needs, *arguments = inputs
        ctx.set_materialize_grads(False)
        _save(ctx, arguments)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        wanted = ctx.needs_input_grad[4:]
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            grad, *arguments = variables = [_variable(a) for a in _saved(ctx)]
            first = [a for a, needed in zip(arguments, ctx.needs) if needed]
            output = ctx.operator.plain(*arguments, ctx.static)
            gradients = torch.autograd.grad(output, first, grad, create_graph=True, materialize_grads=True)
            given = iter(gradients)
            pairs = [(next(given), g) for g, needed in zip(grads, ctx.needs) if needed]
            pairs = [(gradient, g) for gradient, g in pairs if g is not None and gradient.requires_grad]
            second = [v for v, want in zip(variables, wanted) if want]
            found = iter(
                torch.autograd.grad(
                    [gradient for gradient, _ in pairs],
                    second,
                    [g for _, g in pairs],
                    create_graph=create_graph,
                    allow_unused=True,
                )
                if pairs and second
                else [None] * len(second)
            )
        return None, None, None, None, *(next(found) if want else None for want in wanted)


def _save(ctx: Any, arguments: list[Any]) -> None:
    tensors = [a if isinstance(a, Tensor) else None for a in arguments]
    ctx.save_for_backward(*tensors)
    ctx.others = [None if isinstance(a, Tensor) else a for a in arguments]


def _saved(ctx: Any) -> list[Any]:
    return [other if tensor is None else tensor for tensor, other in zip(ctx.saved_tensors, ctx.others)]


def _variable(argument: Any) -> Any:
    """A graph node of its own for each argument, so that one tensor in two roles gets two gradients."""
    if not isinstance(argument, Tensor):
        return argument
    return argument.view_as(argument) if argument.requires_grad else argument.detach().requires_grad_()
