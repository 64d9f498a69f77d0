"""Blackwell: ``tcgen05``, ``mbarrier`` and ``elect``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ptx import Address, Immediate, Instruction, Symbol, Vector
from ..tensor_fragments import LAYOUTS
from . import Unsupported, instruction

if TYPE_CHECKING:
    from ..translation import Translator


@instruction("elect", destinations=1)
def elect(t: Translator, i: Instruction) -> list[str]:
    """``elect.sync lane|is-leader, members``"""
    target, members = i.operands
    if not isinstance(target, Vector) or not isinstance(members, Immediate) or members.bits != -1:
        raise Unsupported(str(i))
    lane, is_leader = target.parts
    return [
        "leader = m.warp_functions.leader(a)",
        *t.put(lane, "leader", "b32"),
        *t.put(is_leader, "m.special('laneid')[a] == leader", "pred"),
    ]


@instruction("mbarrier", destinations=lambda i: 1 if i.modifiers[0] in ("try_wait", "test_wait") else 0)
def mbarrier(t: Translator, i: Instruction) -> list[str]:
    what, addresses = i.modifiers[0], [operand for operand in i.operands if isinstance(operand, Address)]
    address = t.address(addresses[0])
    if what == "init":
        return [f"m.mbarriers.init(a, {address}, {t.value(i.operands[1], 'u32')})"]
    if what == "inval":
        return [f"m.mbarriers.invalidate(a, {address})"]
    if what == "arrive" and i.modifiers[-1] == "b64" and len(i.operands) == 2:
        state, _ = i.operands
        if state != Symbol("_"):
            raise Unsupported(str(i))
        return [f"m.mbarriers.arrive(a, {address})"]
    if what in ("try_wait", "test_wait") and i.modifiers[1] == "parity" and len(i.operands) == 3:
        target, _, parity = i.operands
        return t.put(target, f"m.mbarriers.test(a, {address}, {t.value(parity, 'u32')})", "pred")
    raise Unsupported(str(i))


@instruction("tcgen05", destinations=lambda i: int(i.modifiers[0] == "ld"))
def tcgen05(t: Translator, i: Instruction) -> list[str]:
    what = i.modifiers[0]
    if what not in FORMS or "cta_group::2" in i.modifiers:
        raise Unsupported(str(i))
    return FORMS[what](t, i)


def _alloc(t: Translator, i: Instruction) -> list[str]:
    """``tcgen05.alloc [where its address goes], columns``"""
    address, columns = i.operands
    return [f"m.tensor_core.allocate(a, {t.address(address)}, {t.value(columns, 'u32')})"]


def _dealloc(t: Translator, i: Instruction) -> list[str]:
    address, columns = (t.value(operand, "u32") for operand in i.operands)
    return [f"m.tensor_core.deallocate(a, {address}, {columns})"]


def _relinquish(t: Translator, i: Instruction) -> list[str]:
    return ["m.tensor_core.relinquish(a)"]


def _product(t: Translator, i: Instruction) -> list[str]:
    """``tcgen05.mma.cta_group::1.kind::f16 [D], A, B-descriptor, instruction-descriptor, add-D``"""
    target, left, right, shape, adds = i.operands
    kind = next(m.removeprefix("kind::") for m in i.modifiers if m.startswith("kind::"))
    if kind not in ("f16", "tf32") or len(i.modifiers) != 3:
        raise Unsupported(str(i))
    is_shared = not isinstance(left, Address)
    arguments = [
        f"target={t.address(target)}",
        f"left={t.value(left, 'u64') if is_shared else t.address(left)}",
        f"is_left_shared={is_shared}",
        f"right={t.value(right, 'u64')}",
        f"shape={t.value(shape, 'u32')}",
        f"adds={t.value(adds, 'pred')}",
        f"kind={kind!r}",
    ]
    return [f"m.tensor_core.issue(a, {', '.join(arguments)})"]


def _commit(t: Translator, i: Instruction) -> list[str]:
    """``tcgen05.commit [mbarrier]``"""
    if "mbarrier::arrive::one" not in i.modifiers or len(i.operands) != 1:
        raise Unsupported(str(i))
    return [f"m.tensor_core.commit(a, {t.address(i.operands[0])})"]


def _load(t: Translator, i: Instruction) -> list[str]:
    """``tcgen05.ld {registers}, [address], split``"""
    target, address, *split = i.operands
    return [f"m.tensor_core.load({_access(t, i, target, address, split)})"]


def _store(t: Translator, i: Instruction) -> list[str]:
    """``tcgen05.st [address], split, {registers}``"""
    address, *split, source = i.operands
    return [f"m.tensor_core.store({_access(t, i, source, address, split)})"]


def _access(t: Translator, i: Instruction, registers: Vector, address: Address, split: list[Immediate]) -> str:
    layout = i.modifiers[3]
    if layout not in LAYOUTS or len(i.modifiers) != 6 or len(split) != (layout == "16x32bx2"):
        raise Unsupported(str(i))
    numbers = [part.number for part in registers.parts]
    return f"a, {t.address(address)}, {numbers}, {layout!r}, {split[0].bits if split else 0}"


FORMS = {
    "alloc": _alloc,
    "dealloc": _dealloc,
    "relinquish_alloc_permit": _relinquish,
    "mma": _product,
    "commit": _commit,
    "ld": _load,
    "st": _store,
    "wait::ld": lambda t, i: ["m.tensor_core.wait_loads(a)"],
    "wait::st": lambda t, i: ["m.tensor_core.wait_stores(a)"],
    "fence::before_thread_sync": lambda t, i: [],
    "fence::after_thread_sync": lambda t, i: [],
}
"""By the first modifier."""
