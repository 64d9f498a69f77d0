"""Where loops must not be pipelined: versions of Triton that leave out what it takes (docs/miscompilations.md)."""

from __future__ import annotations

from functools import cache

from sdn_triton.tuning.configs import Target

FENCED = (3, 7)
"""The first Triton that orders asynchronous copies before products that read from shared memory."""
ASYNCHRONOUS = (90, 100, 103)
"""Architectures whose matrix units read shared memory past the order of other accesses, but for a fence."""


def why_not_pipelined(arithmetic: str, target: Target) -> str | None:
    """Why loops with matrix products must have one stage on ``target``; None where they need not.

    Example:
        >>> why_not_pipelined("bf16", Target("cuda", 80, 108)) is None
        True
    """
    version = triton_version()
    if version is None or version >= FENCED or arithmetic == "ieee" or target.architecture not in ASYNCHRONOUS:
        return None
    installed, first = (".".join(map(str, numbers)) for numbers in (version, FENCED))
    return f"triton {installed} leaves out the fence between copies and products of pipelined loops ({first} has it)"


@cache
def triton_version() -> tuple[int, int] | None:
    """Major and minor version of Triton; None where there is none."""
    try:
        from triton import __version__
    except ImportError:
        return None
    major, minor, *_ = __version__.split(".")
    return int(major), int(minor)
