"""Launch code run on tensors without memory, for :func:`sdn_triton.explain`: what it launches is recorded.

The stand-ins are meta tensors of the same sizes, strides and dtypes, taken to be on the same device, so that whatever
the launch code decides, it decides as for the tensors themselves. No kernel runs, and nothing is allocated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from sdn_triton.dispatch_state import has_own_memory, is_lazy
from sdn_triton.launch.image_layout import starts_at_word
from sdn_triton.launch.run import Launch, recorded_launches, target_of


@contextmanager
def rehearsal(arguments: Sequence[Any]) -> Iterator[tuple[list[Any], list[Launch]]]:
    """Stand-ins for the arguments of a call, and the launches that are made with them inside."""
    # What modes and torch.func do to a call is no part of it.
    launches = recorded_launches(target_of(arguments[0].device))
    with _disable_current_modes(), torch._C._DisableFuncTorch(), torch.no_grad(), launches as recorded:
        # One tensor in two roles has one stand-in.
        stand_ins = {id(x): stand_in(x, "meta") for x in arguments if isinstance(x, Tensor)}
        yield [stand_ins.get(id(x), x) for x in arguments], recorded


def stand_in(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor with nothing in it that lies in memory as ``tensor`` does, at a whole word only if that does."""
    offset = 0 if lies_at_word(tensor) else 1
    steps = [(size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride())]
    length = offset + (sum(steps) + 1 if tensor.numel() else 0)
    memory = torch.empty(length, dtype=tensor.dtype, device=device)
    like = memory.as_strided(tensor.shape, tensor.stride(), offset)
    if is_lazy(tensor):
        like = like.clone()  # as dispatch_state.in_memory does
    like.requires_grad = tensor.requires_grad  # requires_grad_() is refused inside torch.func
    return like


def lies_at_word(tensor: Tensor) -> bool:
    """Whether ``tensor`` starts at a whole word; so it is taken to do where it has no memory of its own to ask."""
    return tensor.layout != torch.strided or not has_own_memory(tensor) or starts_at_word(tensor)
