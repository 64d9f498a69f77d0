"""Which path runs, and why: the Triton kernels or eager PyTorch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from torch import Tensor

from sdn_triton.tuning.pretended import pretended_target

INTERPRETED = "TRITON_INTERPRET"


class BackendUnavailableError(RuntimeError):
    """``backend="triton"`` was forced where the kernels cannot run."""


@dataclass(frozen=True)
class Decision:
    """The path one operator call takes.

    ``configs`` holds a line per kernel of the Triton path, with where its configuration comes from, or a line that says
    in which way the eager path computes; ``tune`` is the command that would measure better ones for this shape.
    ``module`` is the dotted path of the module that makes the call, where it is known.
    """

    operator: str
    path: str
    reason: str
    configs: tuple[str, ...] = field(default=())
    tune: str | None = None
    module: str = ""

    @property
    def summary(self) -> str:
        """What was decided, and why."""
        return f"{self.operator}: {self.path} ({self.reason})"

    @property
    def details(self) -> tuple[str, ...]:
        """How it will be done, a line each."""
        return (*self.configs, *(() if self.tune is None else (f"to tune this shape: {self.tune}",)))

    def __str__(self) -> str:
        return "\n    ".join((self.summary, *self.details))


@dataclass(frozen=True)
class _Record:
    decisions: list[Decision]
    module: Callable[[], str]


_record: ContextVar[_Record | None] = ContextVar("sdn_triton_decisions", default=None)


def _unknown() -> str:
    return ""


@contextmanager
def recorded_decisions(module: Callable[[], str] = _unknown) -> Iterator[list[Decision]]:
    """Collect the decisions of the calls made inside; ``module`` says which module is at work."""
    decisions: list[Decision] = []
    token = _record.set(_Record(decisions, module))
    try:
        yield decisions
    finally:
        _record.reset(token)


def is_recording() -> bool:
    """Whether :func:`recorded_decisions` is active, so that configurations are worth looking up."""
    return _record.get() is not None


def note(decision: Decision) -> None:
    """Hand a decision to whoever records."""
    record = _record.get()
    if record is not None:
        record.decisions.append(replace(decision, module=record.module()))


def is_interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on CPU tensors."""
    return os.environ.get(INTERPRETED, "0").lower() in ("1", "true", "on")


def is_on_gpu(input: Tensor) -> bool:
    """Whether ``input`` is on a GPU, or taken to be on one that is not there."""
    return input.is_cuda or (pretended_target() is not None and input.device.type in ("cpu", "meta"))


def why_no_device(input: Tensor) -> str | None:
    """Why the kernels cannot run on the device of ``input``; None if they can."""
    if is_on_gpu(input) or (input.device.type == "cpu" and is_interpreted()):
        return None
    if input.device.type == "cpu":
        return f"the tensors are on the CPU, where Triton kernels run only under {INTERPRETED}=1"
    return f"the tensors are on {input.device}, and the Triton kernels run on CUDA devices"


def prefers_triton(backend: str, input: Tensor) -> bool:
    """Whether the Triton path is what ``backend`` asks for, be it possible or not."""
    return backend == "triton" or (backend == "auto" and is_on_gpu(input))


def choose(backend: str, input: Tensor, why_not: Callable[..., str | None], *call: Any) -> tuple[str, str]:
    """The path of a call on tensors like ``input``, and the reason.

    ``why_not(*call)`` says what the kernels cannot do with it; it is asked only where the Triton path is preferred.
    ``"auto"`` takes that path on CUDA where it can, and warns once per reason where it cannot.

    Raises:
        BackendUnavailableError: ``backend="triton"``, and the kernels cannot run the call.
    """
    if backend == "eager":
        return "eager", "backend='eager'"
    if not prefers_triton(backend, input):
        # A constant where it can be: to write out a device takes the host a microsecond.
        return "eager", "the tensors are on cpu" if input.is_cpu else f"the tensors are on {input.device}"
    obstacle = why_no_device(input) or why_not(*call)
    if obstacle is None:
        return "triton", "backend='triton'" if backend == "triton" else "CUDA tensors that the kernels can read"
    if backend == "triton":
        raise BackendUnavailableError(f"backend='triton' cannot run: {obstacle}")
    _warn_once(obstacle)
    return "eager", obstacle


@cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"sdn_triton runs eagerly on this GPU: {reason}", RuntimeWarning, stacklevel=2)
