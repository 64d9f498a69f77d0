"""The one way to launch a kernel: by a plan, which serves every launch that looks the same.

A training step launches the same kernels with the same sizes, strides and options again and again; only the addresses
change. A plan holds the rest: grid, arguments, configuration and, after the first launch, the compiled kernel, which
is then called without Triton's own look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from threading import RLock
from typing import Any

import torch
from torch import Tensor

from sdn_triton.launch.run import Launch, note_launch
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.pretended import pretended_target

Tensors = Mapping[str, Any]
"""The arguments that change from launch to launch, by name: tensors, None for those that are not there, and the
NamedTuples of ``kernels/arguments.py`` that hold some."""
Rest = tuple[tuple[int, ...], dict[str, Any]]
"""The grid, and the arguments that a plan keeps."""

MOST_PLANS = 4096
ALIGNMENT = 16
"""Bytes; Triton compiles a kernel anew for pointers that are not multiples of it."""


class Plan:
    """A launch but for its tensors."""

    def __init__(self, kernel: Any, rest: Rest, config: KernelConfig, tuned: str | None) -> None:
        self.kernel, self.config, self.tuned = kernel, config, tuned
        self.grid, self.arguments = rest
        self._full_grid = (*self.grid, 1, 1)[:3]
        self._compiled: dict[tuple[Any, ...], Any] = {}
        self._values: list[Any] = []
        self._places: list[int] = []

    def run(self, tensors: Tensors, device: torch.device) -> None:
        """Launch on ``device``, the device of all ``tensors``, or only take note of it."""
        if note_launch(lambda: self.launch(tensors)):
            return
        alignment = _alignment(tensors.values())
        compiled = self._compiled.get(alignment)
        with _on(device):
            if compiled is None:
                self._first(tensors, alignment)
                return
            values = self._values.copy()
            for place, value in zip(self._places, tensors.values()):
                values[place] = value
            compiled[self._full_grid](*values)

    def launch(self, tensors: Tensors) -> Launch:
        """This plan for these tensors, as a value."""
        return Launch(self.kernel, self.grid, {**self.arguments, **tensors}, self.config, self.tuned)

    def _first(self, tensors: Tensors, alignment: tuple[Any, ...]) -> None:
        """Launch by way of Triton's look-up, and keep what it finds.

        One thread at a time: Python 3.11 fails now and then where several threads make syntax trees, as Triton does.
        """
        with _looking_up:
            kernel = self.launch(tensors).start()
        if _is_callable(kernel):
            names = self.kernel.arg_names
            self._values = [self.arguments.get(name) for name in names]
            self._places = [names.index(name) for name in tensors]
            self._compiled[alignment] = kernel


_looking_up = RLock()
_plans: dict[tuple[Any, ...], Plan] = {}


def launch(
    *,
    kernel: Any,
    tensors: Tensors,
    config: KernelConfig,
    rest: Callable[[], Rest],
    facts: Hashable = None,
    tuned: str | None = None,
) -> None:
    """Launch ``kernel`` on the device of ``tensors``, or take note of it inside of ``recorded_launches()``.

    ``rest`` makes the grid and all other arguments, unless the like of these tensors was launched before with equal
    ``config`` and ``facts``: these are everything besides the sizes, strides and dtypes of tensors and the numbers
    beside them in tuples that ``rest`` depends on. ``tuned`` is which of ``KERNELS`` the configuration was chosen for;
    one that is fixed was chosen for none.
    """
    device = next(value.device for value in tensors.values() if isinstance(value, Tensor))
    key = (kernel, config, facts, device, pretended_target(), _looks(tensors.values()))
    plan = _plans.get(key)
    if plan is None:
        if len(_plans) >= MOST_PLANS:
            _plans.clear()
        plan = _plans[key] = Plan(kernel, rest(), config, tuned)
    plan.run(tensors, device)


def _looks(values: Any) -> tuple[Any, ...]:
    """What can be told of arguments but for their addresses."""
    return tuple(
        [
            (value.shape, value.stride(), value.dtype)
            if isinstance(value, Tensor)
            else _looks(value)
            if isinstance(value, tuple)
            else value
            for value in values
        ]
    )


def _alignment(values: Any) -> tuple[Any, ...]:
    """What Triton looks at in the addresses of tensors."""
    return tuple(
        [
            value.data_ptr() % ALIGNMENT
            if isinstance(value, Tensor)
            else _alignment(value)
            if isinstance(value, tuple)
            else None
            for value in values
        ]
    )


def _on(device: torch.device) -> AbstractContextManager[Any]:
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


def _is_callable(kernel: Any) -> bool:
    """Whether ``kernel`` can be called: an interpreter, or a compiler in the background, returns something else.

    On AMD Triton tells kernels apart by what a plan does not know: the size of a tensor's storage.
    """
    return type(kernel).__name__ == "CompiledKernel" and torch.version.hip is None
