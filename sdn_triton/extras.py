"""How what is optional gets installed, in one place: README.md, Install, says the same at length."""

from __future__ import annotations


def how_to_install(*extras: str) -> str:
    """The command that brings the packages of some extras; the library itself is on no package index yet."""
    return f"pip install '.[{','.join(extras)}]' in a clone of sdn_triton (README.md, Install)"
