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
from typing import Protocol, TypeVar

import torch
from torch import Tensor

KEPT_BYTES = 36 * 2**20
"""What is kept at most: the buffers of a strip, and the memory of small maps of some shapes."""
LINE = 64
"""Bytes of a cache line, where every buffer begins."""
MOST_LAYOUTS = 64
"""Of a block of memory; each is some hundred views."""


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


class Layout(Protocol):
    """Buffers with the views of them that a computation takes, made once and kept."""

    def forget(self) -> None:
        """Take nothing for granted: others have written to the buffers since."""


L = TypeVar("L", bound=Layout)


class Block:
    """A piece of a CPU's memory, and the layouts of it that were made so far."""

    def __init__(self, nbytes: int) -> None:
        self.storage = torch.UntypedStorage(nbytes, device="cpu")
        self.layouts: dict[Hashable, Layout] = {}
        self.last: Layout | None = None

    @property
    def nbytes(self) -> int:
        return self.storage.nbytes()

    def layout(self, key: Hashable, make: Callable[[], L]) -> L:
        """The layout of this key, which has to ``forget`` where it was not the last one that was asked for."""
        layout = self.layouts.get(key)
        if layout is None:
            if len(self.layouts) >= MOST_LAYOUTS:
                self.layouts.clear()
            layout = self.layouts[key] = make()
        elif layout is not self.last:
            layout.forget()
        self.last = layout
        return layout  # type: ignore[return-value]  # a key stands for one type


@contextmanager
def laid_out(
    make: Callable[..., L], subject: Hashable, like: Tensor, dtype: torch.dtype, *sizes: tuple[int, ...]
) -> Iterator[L]:
    """What ``make(subject, *buffers)`` returns for buffers without values, in memory that nobody else uses meanwhile.

    On a CPU it is kept for calls to come with the same arguments, in which nothing need be left of what it held.
    """
    line, starts, numbers = LINE // dtype.itemsize, [], 0
    for size in sizes:
        starts.append(numbers)
        numbers += -(-math.prod(size) // line) * line

    def cut(memory: Tensor) -> L:
        return make(
            subject,
            *(memory[start : start + math.prod(size)].view(size) for start, size in zip(starts, sizes, strict=True)),
        )

    if like.device.type != "cpu" or type(like) is not Tensor:
        yield cut(like.new_empty(numbers, dtype=dtype))
        return
    block = workspace.take(Block, lambda: Block(0))
    if block.nbytes < numbers * dtype.itemsize:
        block = Block(numbers * dtype.itemsize)

    def make_layout() -> L:
        with torch.inference_mode(False):
            return cut(torch.empty(0, dtype=dtype, device="cpu").set_(block.storage, 0, (numbers,), (1,)))

    yield block.layout((make, subject, dtype, sizes), make_layout)
    workspace.give_back(Block, block)
