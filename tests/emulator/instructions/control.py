"""Branches, barriers, fences, and what the threads of a warp do together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ptx import Instruction, Vector
from . import Unsupported, instruction

if TYPE_CHECKING:
    from ..translation import Translator


def _always(i: Instruction) -> bool:
    return True


@instruction("bra", "ret", "exit", destinations=0, ends_block=_always)
def branch(t: Translator, i: Instruction) -> list[str]:
    """The translator knows where it leads to."""
    raise Unsupported(str(i))


def _stops(i: Instruction) -> bool:
    return i.modifiers[0] != "warp"


@instruction("bar", "barrier", destinations=0, ends_block=_stops)
def barrier(t: Translator, i: Instruction) -> list[str]:
    if i.modifiers[0] == "warp":
        return ["m.whole_warps(a)"]
    names = [m for m in i.modifiers if m not in ("cta", "aligned")]
    if names != ["sync"]:
        raise Unsupported(str(i))
    number, *count = (operand.bits for operand in i.operands)
    return [f"m.barriers.arrive(a, {number}, {count[0] if count else 'None'})"]


@instruction("fence", destinations=0)
def fence(t: Translator, i: Instruction) -> list[str]:
    if i.modifiers[0] == "proxy":
        return ["m.shared_memory.proxy_fence(a)"]
    return []


@instruction("membar", "griddepcontrol", "prefetch", "discard", destinations=0)
def hint(t: Translator, i: Instruction) -> list[str]:
    """Nothing to do where memory is in order and programs run one after the other."""
    return []


@instruction("trap", destinations=0)
def trap(t: Translator, i: Instruction) -> list[str]:
    return ["m.trap(a)"]


@instruction("shfl")
def shfl(t: Translator, i: Instruction) -> list[str]:
    target, value, lane, clamp, _ = i.operands
    if isinstance(target, Vector):
        raise Unsupported(str(i))
    kind = i.modifiers[1]
    arguments = ", ".join(t.whole(operand, "b32") for operand in (value, lane, clamp))
    return t.put(target, f"m.warp_functions.shuffle(a, {kind!r}, {arguments})", "b32")


@instruction("vote")
def vote(t: Translator, i: Instruction) -> list[str]:
    kind = i.modifiers[1]
    found = f"m.warp_functions.vote(a, {kind!r}, {t.whole(i.operands[1], 'pred')})"
    return t.put(i.operands[0], found, "b32" if kind == "ballot" else "pred")


@instruction("activemask")
def activemask(t: Translator, i: Instruction) -> list[str]:
    return t.put(i.operands[0], "m.warp_functions.active_mask(a)", "b32")
