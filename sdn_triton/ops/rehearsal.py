"""Launch code run on tensors without memory, for :func:`sdn_triton.explain`: what it launches is recorded.

The stand-ins are fake tensors of the same device, sizes, strides and dtypes, so that whatever the launch code decides,
it decides as for the tensors themselves. No kernel runs, and nothing is allocated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensorMode

from sdn_triton.dispatch_state import has_own_memory, in_memory
from sdn_triton.launch.run import Launch, recorded_launches, starts_at_word


@contextmanager
def rehearsal(arguments: Sequence[Any]) -> Iterator[tuple[list[Any], list[Launch]]]:
    """Stand-ins for the arguments of a call, and the launches that are made with them inside."""
    mode = detect_fake_mode([*arguments]) or FakeTensorMode(allow_non_fake_inputs=True)
    # What torch.func does to a call is no part of it.
    with torch._C._DisableFuncTorch(), torch.no_grad(), mode, recorded_launches() as launches:
        # One tensor in two roles has one stand-in.
        present = {id(x): x for x in arguments if isinstance(x, Tensor)}
        stand_ins = {key: stand_in(x) for key, x in zip(present, in_memory([*present.values()]))}
        yield [stand_ins.get(id(x), x) for x in arguments], launches


def stand_in(tensor: Tensor) -> Tensor:
    """A tensor of the active fake mode that lies in memory as ``tensor`` does, at a whole word only if that does."""
    offset = 0 if lies_at_word(tensor) else 1
    steps = [(size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride())]
    length = offset + (sum(steps) + 1 if tensor.numel() else 0)
    memory = torch.empty(length, dtype=tensor.dtype, device=tensor.device)
    like = memory.as_strided(tensor.shape, tensor.stride(), offset)
    like.requires_grad = tensor.requires_grad  # requires_grad_() is refused inside torch.func
    return like


def lies_at_word(tensor: Tensor) -> bool:
    """Whether ``tensor`` starts at a whole word; so it is taken to do where it has no memory of its own to ask."""
    return tensor.layout != torch.strided or not has_own_memory(tensor) or starts_at_word(tensor)
