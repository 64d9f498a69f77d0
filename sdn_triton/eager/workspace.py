"""Memory for the intermediate values of a call on a CPU, kept for calls to come.

A call needs some megabytes for a moment. Fresh from the system, touching them takes longer than computing with them,
and C's allocator gives so much memory back after every call. Therefore a process keeps some of it, as the libraries for
matrix products do: at most :data:`KEPT_BYTES`, whatever the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

KEPT_BYTES = 36 * 2**20
"""What is kept at most: the buffers of a strip, and the memory of small maps of some shapes."""
LINE = 64
"""Bytes of a cache line, where every buffer begins."""


class Sized(Protocol):
    """Memory."""

    @property
    def nbytes(self) -> int: ...


M = TypeVar("M", bound=Sized)


class Workspace:
    """Memory by what it is for. Whoever takes some has it alone until it is given back."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: dict[Hashable, Sized] = {}

    def take(self, purpose: Hashable, make: Callable[[], M]) -> M:
        """The memory that was given back last for this purpose, or what ``make`` returns."""
        with self._lock:
            kept = self._kept.pop(purpose, None)
        return make() if kept is None else kept  # type: ignore[return-value]  # a purpose stands for one type

    def give_back(self, purpose: Hashable, memory: Sized) -> None:
        """Keep memory for the next call, and less of what was not used for long."""
        with self._lock:
            self._kept[purpose] = memory
            while sum(kept.nbytes for kept in self._kept.values()) > KEPT_BYTES:
                del self._kept[next(iter(self._kept))]

    def release(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._kept.clear()


workspace = Workspace()
"""That of the process."""


class Block(NamedTuple):
    """A piece of a CPU's memory."""

    storage: torch.UntypedStorage

    @property
    def nbytes(self) -> int:
        return self.storage.nbytes()


@contextmanager
def buffers(like: Tensor, dtype: torch.dtype, *sizes: tuple[int, ...]) -> Iterator[list[Tensor]]:
    """Tensors without values, in one block of memory that nobody else uses meanwhile; they are not for keeping."""
    line, starts, numbers = LINE // dtype.itemsize, [], 0
    for size in sizes:
        starts.append(numbers)
        numbers += -(-math.prod(size) // line) * line
    block = None
    if like.device.type == "cpu" and type(like) is Tensor:
        block = workspace.take(buffers, lambda: Block(torch.UntypedStorage(0)))
        if block.nbytes < numbers * dtype.itemsize:
            block = Block(torch.UntypedStorage(numbers * dtype.itemsize, device="cpu"))
        memory = torch.empty(0, dtype=dtype, device="cpu").set_(block.storage, 0, (numbers,), (1,))
    else:
        memory = like.new_empty(numbers, dtype=dtype)
    yield [memory[start : start + math.prod(size)].view(size) for start, size in zip(starts, sizes, strict=True)]
    if block is not None:
        workspace.give_back(buffers, block)
