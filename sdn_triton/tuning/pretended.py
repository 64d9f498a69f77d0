"""A device that is not there: something else runs its compiled kernels on CPU tensors, as an emulator does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sdn_triton.tuning.configs import Target

_target: ContextVar[Target | None] = ContextVar("sdn_triton_pretended_target", default=None)


@contextmanager
def pretended(target: Target) -> Iterator[None]:
    """Take CPU tensors for those of this device, with ``backend="auto"`` too.

    Triton must interpret, or have a driver that runs what it compiles for the device.

    Meta tensors, too, whose launches can be recorded or compiled, and not run.

    Example:
        >>> with pretended(Target("cuda", 90, 132)):
        ...     print(pretended_target())
        sm_90
    """
    token = _target.set(target)
    try:
        yield
    finally:
        _target.reset(token)


def pretended_target() -> Target | None:
    """The device that CPU and meta tensors are taken to be on; None outside of :func:`pretended`."""
    return _target.get()
