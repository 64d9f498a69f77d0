"""What nobody wrote shows: memory that PyTorch hands out is filled with a NaN that no arithmetic makes."""

from __future__ import annotations

import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest import mock

import torch
from torch import Tensor

PATTERNS = {
    torch.float32: (torch.int32, 0x7FE5A5A5),
    torch.float16: (torch.int16, 0x7FA5),
    torch.bfloat16: (torch.int16, 0x7FE5),
}
"""Quiet NaNs with bits of their own, as integers."""
LARGEST = 2**24
"""Elements; what is larger is memory of which a test uses a few places."""
ALLOCATING = ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty"))


@dataclass
class Poison:
    """Tensors that were handed out, and where."""

    tensors: list[tuple[weakref.ref[Tensor], str]] = field(default_factory=list)

    def fill(self, tensor: Tensor) -> Tensor:
        """Poison a fresh tensor."""
        if tensor.dtype in PATTERNS and tensor.device.type == "cpu" and tensor.numel() <= LARGEST:
            kind, bits = PATTERNS[tensor.dtype]
            tensor.view(kind).fill_(bits)
            caller = traceback.extract_stack(limit=3)[0]
            self.tensors.append((weakref.ref(tensor), f"{caller.filename.rpartition('/')[2]}:{caller.lineno}"))
        return tensor

    def left_over(self) -> Iterator[str]:
        """What is still there of it in tensors that are still in use."""
        for reference, where in self.tensors:
            tensor = reference()
            if tensor is None:
                continue
            kind, bits = PATTERNS[tensor.dtype]
            count = int((tensor.detach().view(kind) == bits).sum())
            if count:
                yield f"{count} of the {tensor.numel()} elements of {tuple(tensor.shape)}, made at {where}"


@contextmanager
def poisoned() -> Iterator[Poison]:
    """Poison what is allocated inside."""
    poison = Poison()

    def filling(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args, **kwargs: poison.fill(function(*args, **kwargs))

    patches = [mock.patch.object(owner, name, filling(getattr(owner, name))) for owner, name in ALLOCATING]
    for patch in patches:
        patch.start()
    try:
        yield poison
    finally:
        for patch in reversed(patches):
            patch.stop()
