"""Which path a call takes, without running it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._pytree import tree_map

from sdn_triton.backend import Decision, recorded_decisions


@dataclass(frozen=True)
class Explanation:
    """The decisions of one call, one for each operator in the order of execution."""

    decisions: tuple[Decision, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.decisions)) or "no sdn_triton operator was called"


def explain(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Say which path each operator in ``call(*args, **kwargs)`` takes, why, and with which configurations.

    ``call`` is a function of this library, any module that contains its layers, or any function that calls them.
    Nothing is computed: the call runs on stand-ins that have a size, a dtype and a device but no memory, so that no
    running statistics move.

    Raises:
        whatever the call raises for its arguments, :class:`BackendUnavailableError` included.

    Example:
        >>> import torch
        >>> from sdn_triton import SemanticDifferenceConv2d, explain
        >>> print(explain(SemanticDifferenceConv2d(4, 4, padding=1), torch.zeros(1, 4, 8, 8)))
        semantic_difference_conv2d: eager (the tensors are on cpu)
            all taps at once, as for every small map
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def stand_in(value: Any) -> Any:
        return mode.from_tensor(value) if isinstance(value, Tensor) else value

    with recorded_decisions() as decisions, mode:
        if isinstance(call, nn.Module):
            state = {**dict(call.named_parameters()), **dict(call.named_buffers())}
            functional_call(call, tree_map(stand_in, state), tree_map(stand_in, args), tree_map(stand_in, kwargs))
        else:
            call(*tree_map(stand_in, args), **tree_map(stand_in, kwargs))
    return Explanation(tuple(decisions))
