"""Loads, stores, atomics and asynchronous copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..formats import TYPES
from ..ptx import Address, Instruction, Operand, Register, Symbol, Vector
from . import Unsupported, instruction

if TYPE_CHECKING:
    from ..translation import Translator


def _space(i: Instruction) -> str:
    return next((name for name in ("param", "shared", "global") if _has(i, name)), "global")


def _has(i: Instruction, modifier: str) -> bool:
    """``shared`` is also written ``shared::cta``."""
    return any(m == modifier or m.startswith(f"{modifier}::") for m in i.modifiers)


def _parts(operand: Operand) -> tuple[Operand, ...]:
    return operand.parts if isinstance(operand, Vector) else (operand,)


def _width(kind: str) -> int:
    return np.dtype(TYPES[kind]).itemsize


@instruction("ld")
def ld(t: Translator, i: Instruction) -> list[str]:
    kind, (target, address, *_) = i.modifiers[-1], i.operands
    if _has(i, "local"):
        raise Unsupported(str(i))
    targets = _parts(target)
    if _space(i) == "param":
        if not isinstance(address.base, Symbol) or len(targets) != 1:
            raise Unsupported(str(i))
        found = f"m.parameter({address.base.name!r}, {address.offset}, {kind!r})"
        return t.put(targets[0], found, "b" + str(8 * _width(kind)))
    lines = [f"x = m.{_space(i)}_memory.load(a, {t.address(address)}, {_width(kind)}, {len(targets)})"]
    for n, part in enumerate(targets):
        lines += t.put(part, _extended(f"x[{n}]", kind, part), "b")
    return lines


def _extended(value: str, kind: str, target: Operand) -> str:
    """A narrow value in a wider register: signed ones keep their sign."""
    if isinstance(target, Register) and target.width > 8 * _width(kind) and kind[0] == "s":
        return f"{value}.view({kind}).astype(s{target.width}).view(u{target.width})"
    return value


@instruction("st", destinations=0)
def st(t: Translator, i: Instruction) -> list[str]:
    kind, (address, source, *_) = i.modifiers[-1], i.operands
    if _has(i, "local") or _has(i, "param"):
        raise Unsupported(str(i))
    values = ", ".join(t.value(part, f"b{8 * _width(kind)}") for part in _parts(source))
    return [f"m.{_space(i)}_memory.store(a, {t.address(address)}, {_width(kind)}, [{values}])"]


@instruction("atom")
def atom(t: Translator, i: Instruction) -> list[str]:
    return _atomic(t, i, i.operands[1], i.operands[2:]) + t.put(i.operands[0], "x", i.modifiers[-1])


@instruction("red", destinations=0)
def red(t: Translator, i: Instruction) -> list[str]:
    return _atomic(t, i, i.operands[0], i.operands[1:])


def _atomic(t: Translator, i: Instruction, address: Address, sources: tuple[Operand, ...]) -> list[str]:
    kind = i.modifiers[-1]
    if "add" not in i.modifiers or len(sources) != 1 or kind not in ("f32", "u32", "s32") or _has(i, "shared"):
        raise Unsupported(str(i))
    return [f"x = m.global_memory.add(a, {t.address(address)}, {t.whole(sources[0], kind)})"]


@instruction("cp", destinations=0)
def cp(t: Translator, i: Instruction) -> list[str]:
    """``cp.async``: the bytes beyond the given number of them, if there is one, are filled with zeros."""
    if i.modifiers[0] != "async":
        raise Unsupported(str(i))
    what = i.modifiers[1]
    if what == "commit_group":
        return ["m.copies.commit(a)"]
    if what == "wait_group":
        return [f"m.copies.wait(a, {i.operands[0].bits})"]
    if what == "wait_all":
        return ["m.copies.commit(a)", "m.copies.wait(a, 0)"]
    if what not in ("ca", "cg"):
        raise Unsupported(str(i))
    target, source, size, *given = i.operands
    there = t.whole(given[0] if given else size, "u32")
    return [f"m.copies.issue(a, {t.address(target)}, {t.address(source)}, {size.bits}, {there})"]
