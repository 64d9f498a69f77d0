"""Launches that repeat: what one of them took some time to find out serves all that look the same.

A training step launches the same kernels with the same sizes, strides and options again and again; only the addresses
change. A plan holds the rest: grid, arguments, configuration and, after the first launch, the compiled kernel, which
is then called without Triton's own look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sdn_triton.launch.run import Launch, note_launch
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.pretended import pretended_target

Tensors = Mapping[str, Tensor | None]

MOST_PLANS = 4096
ALIGNMENT = 16
"""Bytes; Triton compiles a kernel anew for pointers that are not multiples of it."""
OLDEST_CALLABLE = (3, 3)
"""Since this version of Triton a compiled kernel is called with all arguments, constants included."""


class Plan:
    """A launch but for its tensors."""

    def __init__(
        self,
        kernel: Any,
        grid: tuple[int, ...],
        arguments: Mapping[str, Any],
        config: KernelConfig,
        tuned: str | None = None,
    ) -> None:
        self.kernel, self.grid, self.config, self.tuned = kernel, grid, config, tuned
        self.arguments = {name: value for name, value in arguments.items() if not isinstance(value, Tensor)}
        self._full_grid = (*grid, 1, 1)[:3]
        self._compiled: dict[tuple[int | None, ...], Any] = {}
        self._values: list[Any] = []
        self._places: list[int] = []

    def run(self, tensors: Tensors, device: torch.device) -> None:
        """Launch on ``device``, the device of all ``tensors``, or only take note of it."""
        if note_launch(lambda: self.launch(tensors)):
            return
        alignment = tuple([None if t is None else t.data_ptr() % ALIGNMENT for t in tensors.values()])
        compiled = self._compiled.get(alignment)
        with _on(device):
            if compiled is None:
                self._first(tensors, alignment)
                return
            values = self._values.copy()
            for place, tensor in zip(self._places, tensors.values()):
                values[place] = tensor
            compiled[self._full_grid](*values)

    def launch(self, tensors: Tensors) -> Launch:
        """This plan for these tensors, as a value."""
        return Launch(self.kernel, self.grid, {**self.arguments, **tensors}, self.config, self.tuned)

    def _first(self, tensors: Tensors, alignment: tuple[int | None, ...]) -> None:
        """Launch by way of Triton's look-up, and keep what it finds."""
        launch = self.launch(tensors)
        kernel = launch.start()
        if _is_callable(kernel):
            names = self.kernel.arg_names
            self._values = [launch.arguments[name] if name not in tensors else None for name in names]
            self._places = [names.index(name) for name in tensors]
            self._compiled[alignment] = kernel


_plans: dict[tuple[Any, ...], Plan] = {}


def launch(
    kernel: Any, tensors: Tensors, static: tuple[Any, ...], device: torch.device, make: Callable[[], Plan]
) -> None:
    """Launch ``kernel`` by the plan that ``make`` returns, or returned for the like of these tensors.

    ``static`` is everything besides the sizes, strides and dtypes of ``tensors`` that the plan depends on; it includes
    the configuration.
    """
    metas = tuple([None if t is None else (t.shape, t.stride(), t.dtype) for t in tensors.values()])
    key = (kernel, static, device, pretended_target(), metas)
    plan = _plans.get(key)
    if plan is None:
        if len(_plans) >= MOST_PLANS:
            _plans.clear()
        plan = _plans[key] = make()
    plan.run(tensors, device)


def _on(device: torch.device) -> AbstractContextManager[Any]:
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


@cache
def _calls_compiled_kernels() -> bool:
    """Whether Triton tells kernels apart by nothing but what a plan knows, and calls them as this file does."""
    import triton

    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    # On AMD the size of a tensor's storage counts too.
    return version >= OLDEST_CALLABLE and not torch.version.hip


def _is_callable(kernel: Any) -> bool:
    """Whether ``kernel`` is a compiled one, and not what an interpreter or a compiler in the background returns."""
    return type(kernel).__name__ == "CompiledKernel" and _calls_compiled_kernels()
