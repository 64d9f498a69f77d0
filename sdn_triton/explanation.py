"""Which path a call takes, without running it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._pytree import tree_map

from sdn_triton.backend import Decision, recorded_decisions
from sdn_triton.ops.rehearsal import lies_at_word, stand_in


@dataclass(frozen=True)
class Explanation:
    """The decisions of one call, one for each operator in the order of execution.

    As text, what holds for several modules is said once, with their dotted paths.
    """

    decisions: tuple[Decision, ...]

    def __str__(self) -> str:
        if not self.decisions:
            return "no sdn_triton operator was called"
        groups: dict[str, dict[tuple[str, ...], list[str]]] = {}
        for decision in self.decisions:
            modules = groups.setdefault(decision.summary, {}).setdefault(decision.details, [])
            if decision.module not in modules:
                modules.append(decision.module)
        lines = []
        for summary, ways in groups.items():
            lines.append(summary)
            for details, modules in ways.items():
                named = [f"in {', '.join(filter(None, modules))}"] if any(modules) else []
                indent = "    " * (1 + len(named))
                lines += [f"    {line}" for line in named] + [f"{indent}{line}" for line in details]
        return "\n".join(lines)


def explain(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Say which path each operator in ``call(*args, **kwargs)`` takes, why, and with which configurations.

    ``call`` is a function of this library, any module that contains its layers, or any function that calls them. Of a
    module, the parts that call the operators are named as in ``named_modules()``.
    Nothing is computed: the call runs on stand-ins that have a size, a dtype and a device but no memory, so that no
    running statistics move. What was given to ``torch.compile`` is explained as it is written.

    Raises:
        Exception: whatever the call raises for its arguments, :class:`sdn_triton.BackendUnavailableError` included.

    Example:
        >>> import torch
        >>> from sdn_triton import SemanticDifferenceConv2d, explain
        >>> print(explain(SemanticDifferenceConv2d(4, 4, padding=1), torch.zeros(1, 4, 8, 8)))
        semantic_difference_conv2d: eager (the tensors are on cpu)
            all taps at once, as for every small map
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    foreign: dict[int, Tensor] = {}

    def without_memory(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        fake = mode.from_tensor(value)
        if lies_at_word(fake) == lies_at_word(value):
            return fake
        with mode:  # a fake tensor does not know where memory of another library starts
            return foreign.setdefault(id(value), stand_in(value, value.device))

    names = {id(module): name for name, module in call.named_modules()} if isinstance(call, nn.Module) else {}
    with _uncompiled(), recorded_decisions(lambda: _at_work(names)) as decisions, mode:
        if isinstance(call, nn.Module):
            state = {**dict(call.named_parameters()), **dict(call.named_buffers())}
            functional_call(call, *tree_map(without_memory, (state, args, kwargs)))
        else:
            call(*tree_map(without_memory, args), **tree_map(without_memory, kwargs))
    return Explanation(tuple(decisions))


def _uncompiled() -> AbstractContextManager[Any]:
    """Inside, what was given to ``torch.compile`` runs as it is written, as compiled code says nothing of decisions."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _at_work(names: Mapping[int, str]) -> str:
    """The name of the innermost module with one whose method is running.

    Hooks would tell, too, but a block with hooks on its parts is run in another way.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        name = names.get(id(frame.f_locals.get("self")))
        if name is not None:
            return name
        frame = frame.f_back
    return ""
