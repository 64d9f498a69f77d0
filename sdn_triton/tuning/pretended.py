"""A device that is not there: something else runs its compiled kernels on CPU tensors, as an emulator does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sdn_triton.tuning.configs import Target

_target: Target | None = None


@contextmanager
def pretended(target: Target) -> Iterator[None]:
    """Take CPU tensors for those of this device, with ``backend="auto"`` too, in the whole process.

    Triton must interpret, or have a driver that runs what it compiles for the device. Meta tensors are taken for such,
    too: their launches can be recorded or compiled, and not run.

    Example:
        >>> with pretended(Target("cuda", 90, 132)):
        ...     print(pretended_target())
        sm_90
    """
    global _target
    before, _target = _target, target
    try:
        yield
    finally:
        _target = before


def pretended_target() -> Target | None:
    """The device that CPU and meta tensors are taken to be on; None outside of :func:`pretended`."""
    return _target
