"""Instructions as Python: a basic block becomes a function of the machine ``m`` and its active threads ``a``.

``a`` is a slice or an array of thread numbers, and ``r[number]`` is a register: an array with the bits of every thread.
What an instruction becomes stands in ``instructions/``; this file has what they share, operands above all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from . import arithmetic
from .conversion import convert
from .formats import TYPE_NAMES, TYPES
from .instructions import INSTRUCTIONS, Unsupported
from .ptx import Address, Immediate, Instruction, Kernel, Operand, Register, Special, Symbol, Vector

EXIT = 1 << 30
"""The block after the last."""

Run = Callable[[Any, Any], Any]
"""Takes the machine and the active threads, and returns the block that follows, for all or for each of them."""


class Block:
    """Instructions that are run one after the other."""

    def __init__(self, translator: Translator, number: int, instructions: list[Instruction]) -> None:
        self.translator, self.number, self.instructions = translator, number, instructions
        self.makes_asynchronous = any(INSTRUCTIONS[i.opcode].makes_asynchronous(i) for i in instructions)
        """Whether an instruction in it leaves registers in flight."""

    @cached_property
    def run(self) -> Run:
        """The block as a function."""
        return self.translator.compiled(self.number, self.instructions, is_careful=False)

    @cached_property
    def careful(self) -> Run:
        """The same, asking before every instruction whether it touches registers in flight."""
        return self.translator.compiled(self.number, self.instructions, is_careful=True)


@dataclass(frozen=True)
class Registers:
    """The numbers of those that an instruction reads and writes."""

    reads: frozenset[int]
    writes: frozenset[int]


class Translator:
    """Makes the blocks of a kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.names: dict[str, Any] = {**arithmetic.NAMES, **TYPE_NAMES, "convert": convert, "np": np, "EXIT": EXIT}
        self.block_at: dict[int, int] = {}

    def blocks(self) -> list[Block]:
        """A block begins where a branch leads to, and behind whatever may stop or divide the threads."""
        code = self.kernel.instructions
        starts = {0} | {self._target(i) for i in code if i.opcode == "bra"}
        starts |= {i.number + 1 for i in code if INSTRUCTIONS[_known(i)].ends_block(i)}
        order = sorted(start for start in starts if start < len(code))
        self.block_at = {start: number for number, start in enumerate(order)}
        return [Block(self, n, code[start:end]) for n, (start, end) in enumerate(zip(order, [*order[1:], len(code)]))]

    def compiled(self, number: int, instructions: list[Instruction], is_careful: bool) -> Run:
        """A function that runs these instructions."""
        lines = ["def run(m, a):", "    r = m.registers"]
        for i in instructions:
            lines.append(f"    m.at = {self.constant(i)}")
            checks = [f"m.in_flight.check(a, {self.constant(touched(i))})"] if is_careful else []
            lines += ["    " + statement for statement in self._guarded(i, number + 1, checks)]
        lines.append(f"    return {number + 1}")
        scope = self.names
        exec(compile("\n".join(lines), f"<{self.kernel.name}, block {number}>", "exec"), scope)
        return scope.pop("run")

    def _guarded(self, i: Instruction, following: int, checks: list[str]) -> list[str]:
        """The statements of an instruction for those threads whose predicate holds."""
        if i.opcode in ("bra", "ret", "exit"):
            target = self.block_at[self._target(i)] if i.opcode == "bra" else EXIT
            if i.predicate is None:
                return [f"return {target}"]
            return [f"return m.branch(a, {self.predicate(i)}, {target}, {following})"]
        statements = checks + INSTRUCTIONS[i.opcode].translated(self, i)
        if i.predicate is None or not statements:
            return statements
        chosen = [f"whole, a = a, m.chosen(a, {self.predicate(i)})", "if a is not None:"]
        return [*chosen, *("    " + statement for statement in statements), "a = whole"]

    def _target(self, i: Instruction) -> int:
        return self.kernel.labels[i.operands[0].name]

    # ---- operands
    def constant(self, value: Any) -> str:
        """A name for a value."""
        name = f"k{len(self.names)}"
        self.names[name] = value
        return name

    def predicate(self, i: Instruction) -> str:
        """The guard of an instruction as an expression."""
        found = f"r[{i.predicate.number}][a]"
        return f"~{found}" if i.negated else found

    def value(self, operand: Operand, kind: str) -> str:
        """An expression for an operand read as ``kind``."""
        dtype = np.dtype(TYPES[kind])
        if isinstance(operand, Register):
            found = f"r[{operand.number}][a]"
            if operand.width == 1:
                return found
            if operand.width < dtype.itemsize * 8:
                raise Unsupported(f"{operand} read as {kind}")
            if operand.width > dtype.itemsize * 8:
                found = f"{found}.astype(u{dtype.itemsize * 8})"
            return found if dtype.kind == "u" else f"{found}.view({name_of(dtype)})"
        if isinstance(operand, Immediate):
            if kind == "pred":
                return self.constant(np.bool_(operand.bits != 0))
            bits = operand.bits & ((1 << (8 * dtype.itemsize)) - 1)
            return self.constant(np.array(bits, f"u{dtype.itemsize}").view(dtype)[()])
        if isinstance(operand, Special):
            return f"m.special({operand.name!r})[a]"
        if isinstance(operand, Symbol):
            return f"m.symbol({operand.name!r}, {name_of(dtype)})"
        raise Unsupported(str(operand))

    def whole(self, operand: Operand, kind: str) -> str:
        """Like :meth:`value`, with an element for every active thread even where it is a constant."""
        found = self.value(operand, kind)
        return found if isinstance(operand, Register) else f"m.everywhere(a, {found})"

    def put(self, operand: Operand, expression: str, kind: str) -> list[str]:
        """Statements that set a register to an expression of type ``kind``."""
        if operand == Symbol("_"):
            return []
        if not isinstance(operand, Register):
            raise Unsupported(f"{operand} as a destination")
        if kind in ("f16", "f32", "f64"):
            expression = f"({expression}).view(u{kind[1:]})"
        return [f"r[{operand.number}][a] = {expression}"]

    def address(self, operand: Address) -> str:
        """An expression for the addresses of all active threads."""
        if _is_narrow(operand.base):
            found = f"{self.value(operand.base, 'u32')}.astype(u64)"
        else:
            found = self.whole(operand.base, "u64")
        if operand.offset:
            found = f"({found} + {self.constant(np.uint64(operand.offset & (2**64 - 1)))})"
        return found


def _is_narrow(operand: Operand) -> bool:
    return isinstance(operand, Register) and operand.width == 32


def _known(i: Instruction) -> str:
    if i.opcode not in INSTRUCTIONS:
        raise Unsupported(f"no {i.opcode}: {i}")
    return i.opcode


def touched(i: Instruction) -> Registers:
    """The registers that an instruction reads and writes when it is executed.

    An asynchronous one takes its time with its first operand, which others of its kind may add to meanwhile.
    """
    if INSTRUCTIONS[i.opcode].makes_asynchronous(i):
        return Registers(frozenset(_registers(i.operands[1:])), frozenset())
    writes = INSTRUCTIONS[i.opcode].destinations(i)
    targets, sources = i.operands[:writes], i.operands[writes:]
    reads = [*_registers(sources), *(a for t in targets if isinstance(t, Address) for a in _registers([t]))]
    if i.predicate is not None:
        reads.append(i.predicate.number)
    written = _registers(t for t in targets if not isinstance(t, Address))
    return Registers(frozenset(reads), frozenset(written))


def _registers(operands: Sequence[Operand]) -> list[int]:
    found = []
    for operand in operands:
        if isinstance(operand, Register):
            found.append(operand.number)
        elif isinstance(operand, Vector):
            found += _registers(operand.parts)
        elif isinstance(operand, Address):
            found += _registers([operand.base])
    return found


def numbers(operand: Operand) -> list[int]:
    """The register numbers of a vector, or of a single register."""
    return _registers([operand])


def name_of(dtype: np.dtype) -> str:
    """What generated code calls a type."""
    return "np.bool_" if dtype.kind == "b" else {"u": "u", "i": "s", "f": "f"}[dtype.kind] + str(8 * dtype.itemsize)
