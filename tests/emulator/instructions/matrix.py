"""Matrix instructions: ``ldmatrix``, ``stmatrix``, ``mma.sync`` and ``wgmma``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ptx import Instruction, Register, Vector
from . import Unsupported, instruction

if TYPE_CHECKING:
    from ..translation import Translator


def _numbers(operand: Vector) -> list[int]:
    return [part.number for part in operand.parts]


def _is_transposed(i: Instruction) -> bool:
    if "m8n8" not in i.modifiers or "b16" not in i.modifiers:
        raise Unsupported(str(i))
    return "trans" in i.modifiers


@instruction("ldmatrix")
def ldmatrix(t: Translator, i: Instruction) -> list[str]:
    target, address = i.operands
    return [f"m.fragments.load(a, {t.address(address)}, {_numbers(target)}, {_is_transposed(i)})"]


@instruction("stmatrix", destinations=0)
def stmatrix(t: Translator, i: Instruction) -> list[str]:
    address, source = i.operands
    return [f"m.fragments.store(a, {t.address(address)}, {_numbers(source)}, {_is_transposed(i)})"]


@instruction("mma")
def mma(t: Translator, i: Instruction) -> list[str]:
    """``mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 D, A, B, C``"""
    _, _, shape, rows, columns, d, a, b, c = i.modifiers
    if (rows, columns, d, c) != ("row", "col", "f32", "f32") or a != b:
        raise Unsupported(str(i))
    if (shape, a) not in (("m16n8k16", "f16"), ("m16n8k16", "bf16"), ("m16n8k8", "tf32")):
        raise Unsupported(str(i))
    target, left, right, sums = (_numbers(operand) for operand in i.operands)
    return [f"m.fragments.multiply(a, {target}, {left}, {right}, {sums}, {a!r})"]


def _is_product(i: Instruction) -> bool:
    return i.modifiers[0] == "mma_async"


@instruction("wgmma", makes_asynchronous=_is_product, destinations=0)
def wgmma(t: Translator, i: Instruction) -> list[str]:
    """Products of a warp group, and what orders them."""
    what = i.modifiers[0]
    if what == "fence":
        return ["m.products.fence(a)"]
    if what == "commit_group":
        return ["m.products.commit(a)"]
    if what == "wait_group":
        return [f"m.products.wait(a, {i.operands[0].bits})"]
    if not _is_product(i):
        raise Unsupported(str(i))
    return _product(t, i)


def _product(t: Translator, i: Instruction) -> list[str]:
    """``wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 D, A, B, scale-d, signs, transpositions``"""
    _, _, _, shape, d, a, b = i.modifiers
    target, left, right, scale, *rest = i.operands
    signs, transposed = [operand.bits for operand in rest[:2]], [operand.bits for operand in rest[2:]]
    if d != "f32" or a != b or a not in ("f16", "bf16", "tf32") or signs != [1, 1]:
        raise Unsupported(str(i))
    if isinstance(left, Register):
        source, across = f"descriptor={left.number}", bool(transposed and transposed[0])
    else:
        source, across = f"registers={_numbers(left)}", False
    arguments = [
        f"target={_numbers(target)}",
        source,
        f"right={right.number}",
        f"adds={t.whole(scale, 'pred')}",
        f"columns={shape.split('n')[1].split('k')[0]}",
        f"kind={a!r}",
        f"transposed={(across, bool(transposed and transposed[-1]))}",
    ]
    return [f"m.products.issue(a, {', '.join(arguments)})"]
