"""Instructions that compute on registers, thread by thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..arithmetic import COMPARISONS
from ..formats import TYPES
from ..ptx import Immediate, Instruction, Register, Vector
from . import Unsupported, instruction

if TYPE_CHECKING:
    from ..translation import Translator

ROUNDINGS = ("rz", "rm", "rp", "sat", "cc", "relu")
"""Modifiers of arithmetic that are not known here."""


def simple(t: Translator, i: Instruction, template: str) -> list[str]:
    """One result of operands that all have the type of the instruction."""
    kind = i.modifiers[-1]
    values = [t.value(operand, kind) for operand in i.operands[1:]]
    if "ftz" in i.modifiers:
        values = [f"ftz({value})" for value in values]
        template = f"ftz({template})"
    return t.put(i.operands[0], template.format(*values), kind)


def arithmetic(t: Translator, i: Instruction, template: str) -> list[str]:
    """Like :func:`simple`; half types and pairs of them are computed by functions of ``arithmetic.PACKED``."""
    kind = i.modifiers[-1]
    if any(modifier in ROUNDINGS for modifier in i.modifiers):
        raise Unsupported(str(i))
    if kind in ("s16x2", "u16x2"):
        words = (f"np.ascontiguousarray({t.whole(operand, 'b32')}).view(u16)" for operand in i.operands[1:])
        return t.put(i.operands[0], f"({template.format(*words)}).view(u32)", "b32")
    if kind == "f32x2":
        pairs = (f"np.ascontiguousarray({t.whole(operand, 'b64')}).view(f32)" for operand in i.operands[1:])
        return t.put(i.operands[0], f"({template.format(*pairs)}).view(u64)", "b64")
    if i.modifiers[-2:] in (("f32", "bf16"), ("f32", "f16")):
        *narrow, last = i.operands[1:]
        values = [f"from_{kind}({t.value(operand, 'b16')})" for operand in narrow]
        return t.put(i.operands[0], template.format(*values, t.value(last, "f32")), "f32")
    if kind.startswith(("bf16", "f16")):
        raw = "b32" if kind.endswith("x2") else "b16"
        values = ", ".join(t.value(operand, raw) for operand in i.operands[1:])
        return t.put(i.operands[0], f"{i.opcode}_{kind}({values})", raw)
    return simple(t, i, template)


TEMPLATES = {"add": "{0} + {1}", "sub": "{0} - {1}", "neg": "-{0}", "abs": "np.abs({0})"}
BITWISE = {"and": "{0} & {1}", "or": "{0} | {1}", "xor": "{0} ^ {1}", "not": "~{0}"}


@instruction(*TEMPLATES)
def sums(t: Translator, i: Instruction) -> list[str]:
    return arithmetic(t, i, TEMPLATES[i.opcode])


@instruction(*BITWISE)
def bitwise(t: Translator, i: Instruction) -> list[str]:
    return simple(t, i, BITWISE[i.opcode])


@instruction("mul")
def mul(t: Translator, i: Instruction) -> list[str]:
    if "wide" in i.modifiers:
        product, kind = _wide_product(t, i)
        return t.put(i.operands[0], product, kind)
    return simple(t, i, "mulhi({0}, {1})") if "hi" in i.modifiers else arithmetic(t, i, "{0} * {1}")


@instruction("mad")
def mad(t: Translator, i: Instruction) -> list[str]:
    if "wide" in i.modifiers:
        product, kind = _wide_product(t, i)
        return t.put(i.operands[0], f"{product} + {t.value(i.operands[3], kind)}", kind)
    if i.modifiers[-1][0] == "f":
        return fma(t, i)
    if "lo" not in i.modifiers:
        raise Unsupported(str(i))
    return simple(t, i, "{0} * {1} + {2}")


def _wide_product(t: Translator, i: Instruction) -> tuple[str, str]:
    """The product of the first two sources, and the type that has room for it."""
    kind = i.modifiers[-1]
    wide = kind[0] + str(2 * int(kind[1:]))
    x, y = (t.value(operand, kind) for operand in i.operands[1:3])
    return f"wide_product({x}, {y}, {wide})", wide


@instruction("fma")
def fma(t: Translator, i: Instruction) -> list[str]:
    if i.modifiers[-1] == "f64":
        raise Unsupported(str(i))
    return arithmetic(t, i, "fma({0}, {1}, {2})")


@instruction("div")
def div(t: Translator, i: Instruction) -> list[str]:
    if i.modifiers[-1][0] != "f":
        return simple(t, i, "div({0}, {1})")
    how = "approximate" if "approx" in i.modifiers or "full" in i.modifiers else "round"
    return simple(t, i, f"m.{how}('div', {{0}}, {{1}})")


@instruction("rem")
def rem(t: Translator, i: Instruction) -> list[str]:
    return simple(t, i, "rem({0}, {1})")


@instruction("min", "max")
def extremum(t: Translator, i: Instruction) -> list[str]:
    """Of two numbers one of which is NaN the other one, unless told otherwise."""
    ignores_nan = i.modifiers[-1][0] == "f" and "NaN" not in i.modifiers
    name = {"min": "fmin" if ignores_nan else "minimum", "max": "fmax" if ignores_nan else "maximum"}[i.opcode]
    return arithmetic(t, i, f"np.{name}({{0}}, {{1}})")


@instruction("rsqrt", "rcp", "sqrt", "ex2", "lg2", "sin", "cos", "tanh")
def approximation(t: Translator, i: Instruction) -> list[str]:
    if i.modifiers[-1] != "f32":
        raise Unsupported(str(i))
    how = "approximate" if "approx" in i.modifiers else "round"
    return simple(t, i, f"m.{how}({i.opcode!r}, {{0}})")


@instruction("lop3")
def lop3(t: Translator, i: Instruction) -> list[str]:
    values = ", ".join(t.whole(operand, "b32") for operand in i.operands[1:4])
    return t.put(i.operands[0], f"lop3({values}, {i.operands[4].bits})", "b32")


@instruction("popc")
def popc(t: Translator, i: Instruction) -> list[str]:
    return t.put(i.operands[0], f"popc({t.whole(i.operands[1], i.modifiers[-1])})", "b32")


@instruction("shl", "shr")
def shift(t: Translator, i: Instruction) -> list[str]:
    kind, (x, n) = i.modifiers[-1], i.operands[1:]
    if isinstance(n, Immediate) and 0 <= n.bits < int(kind[1:]):
        symbol = {"shl": "<<", "shr": ">>"}[i.opcode]
        return t.put(i.operands[0], f"{t.value(x, kind)} {symbol} {t.constant(TYPES[kind](n.bits))}", kind)
    return t.put(i.operands[0], f"{i.opcode}({t.whole(x, kind)}, {t.value(n, 'u32')})", kind)


@instruction("bfe")
def bfe(t: Translator, i: Instruction) -> list[str]:
    kind = i.modifiers[-1]
    start, length = (t.value(operand, "u32") for operand in i.operands[2:])
    return t.put(i.operands[0], f"bfe({t.whole(i.operands[1], kind)}, {start}, {length})", kind)


@instruction("bfi")
def bfi(t: Translator, i: Instruction) -> list[str]:
    values = ", ".join(t.value(operand, "u32") for operand in i.operands[1:])
    return t.put(i.operands[0], f"bfi({values})", "b32")


@instruction("prmt")
def prmt(t: Translator, i: Instruction) -> list[str]:
    if len(i.modifiers) != 1:
        raise Unsupported(str(i))
    values = ", ".join(t.value(operand, "b32") for operand in i.operands[1:])
    return t.put(i.operands[0], f"prmt({values})", "b32")


@instruction("selp")
def selp(t: Translator, i: Instruction) -> list[str]:
    kind = "b" + str(8 * np.dtype(TYPES[i.modifiers[-1]]).itemsize)
    x, y = (t.value(operand, kind) for operand in i.operands[1:3])
    return t.put(i.operands[0], f"np.where({t.value(i.operands[3], 'pred')}, {x}, {y})", kind)


@instruction("setp")
def setp(t: Translator, i: Instruction) -> list[str]:
    """``setp.le.f32 p, a, b`` and, of the lower and the upper halves, ``setp.le.f16x2 p|q, a, b``"""
    how, kind = i.modifiers[0], i.modifiers[-1]
    target, x, y, *combined = i.operands
    if kind in ("f16x2", "bf16x2"):
        if combined or not isinstance(target, Vector):
            raise Unsupported(str(i))
        x, y = (t.value(operand, "b32") for operand in (x, y))
        halves = [[f"from_{kind[:-2]}({half}({word}))" for word in (x, y)] for half in ("lower", "upper")]
        puts = [t.put(part, _compared(how, *half, True), "pred") for part, half in zip(target.parts, halves)]
        return [line for put in puts for line in put]
    x, y = (t.value(operand, "b16" if kind == "bf16" else kind) for operand in (x, y))
    if kind == "bf16":
        x, y = f"from_bf16({x})", f"from_bf16({y})"
    found = _compared(how, x, y, "f" in kind)
    if combined:
        combine = next(symbol for name, symbol in (("and", "&"), ("or", "|"), ("xor", "^")) if name in i.modifiers)
        found += f" {combine} {t.value(combined[0], 'pred')}"
    return t.put(target, found, "pred")


def _compared(how: str, x: str, y: str, is_float: bool) -> str:
    if how in ("num", "nan"):
        return f"{'~' if how == 'num' else ''}(np.isnan({x}) | np.isnan({y}))"
    if how not in COMPARISONS:
        return f"unordered_or({x} {COMPARISONS[how[:-1]]} {y}, {x}, {y})"
    found = f"({x} {COMPARISONS[how]} {y})"
    return f"ordered_and({found}, {x}, {y})" if how == "ne" and is_float else found


@instruction("mov")
def mov(t: Translator, i: Instruction) -> list[str]:
    kind = i.modifiers[-1]
    target, source = i.operands
    if kind == "pred":
        return t.put(target, t.value(source, kind), kind)
    bits = int(kind[1:])
    if isinstance(source, Vector):
        return _packed(t, target, source, bits)
    if isinstance(target, Vector):
        return _unpacked(t, target, source, bits)
    return t.put(target, t.value(source, f"b{bits}"), f"b{bits}")


def _packed(t: Translator, target: Register, source: Vector, bits: int) -> list[str]:
    part = bits // len(source.parts)
    terms = [
        f"({t.value(operand, f'b{part}')}.astype(u{bits}) << {t.constant(TYPES[f'u{bits}'](part * n))})"
        for n, operand in enumerate(source.parts)
    ]
    return t.put(target, " | ".join(terms), f"b{bits}")


def _unpacked(t: Translator, target: Vector, source: Register, bits: int) -> list[str]:
    part = bits // len(target.parts)
    lines = [f"x = {t.value(source, f'b{bits}')}.copy()"]  # a part may be written over the whole
    for n, operand in enumerate(target.parts):
        lines += t.put(operand, f"(x >> {t.constant(TYPES[f'u{bits}'](part * n))}).astype(u{part})", f"b{part}")
    return lines


@instruction("cvt")
def cvt(t: Translator, i: Instruction) -> list[str]:
    *how, target, source = i.modifiers
    raw = {"bf16": "b16", "f16": "b16", "tf32": "b32"}
    if target in ("bf16x2", "f16x2"):
        halves = [
            f"convert({t.whole(operand, source)}, {target[:-2]!r}, {source!r}, {tuple(how)})"
            for operand in reversed(i.operands[1:])
        ]
        return t.put(i.operands[0], f"joined({', '.join(halves)})", "b32")
    value = t.whole(i.operands[1], raw.get(source, source))
    return t.put(i.operands[0], f"convert({value}, {target!r}, {source!r}, {tuple(how)})", raw.get(target, target))


@instruction("cvta")
def cvta(t: Translator, i: Instruction) -> list[str]:
    """Addresses are the same in all spaces here."""
    return t.put(i.operands[0], t.value(i.operands[1], "u64"), "u64")
