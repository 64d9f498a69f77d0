"""PTX text, as Triton emits it for one kernel, as a list of instructions.

Registers are numbered through. Those that inline assembly declares inside braces get numbers of their own, so that a
name may stand for several registers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

WIDTHS = {"pred": 1, "f16": 16, "f32": 32, "f64": 64, "b128": 128}
WIDTHS |= {f"{kind}{bits}": bits for kind in "bus" for bits in (8, 16, 32, 64)}
"""Bits of a type."""

LONGEST_TEXT = 100
"""Of an instruction where it is quoted: those of matrices name hundreds of registers."""


@dataclass(frozen=True)
class Register:
    """A register; one of a single bit is a predicate."""

    number: int
    width: int
    name: str


@dataclass(frozen=True)
class Immediate:
    """A constant: an integer, or the bits of a floating-point number."""

    bits: int
    is_float: bool = False


@dataclass(frozen=True)
class Special:
    """A read-only register like ``tid.x``, without its percent sign."""

    name: str


@dataclass(frozen=True)
class Symbol:
    """A name: a label, a parameter, a variable in shared memory, or the sink ``_``."""

    name: str


@dataclass(frozen=True)
class Address:
    """``[base + offset]``."""

    base: Register | Symbol | Immediate
    offset: int


@dataclass(frozen=True)
class Vector:
    """``{a, b, c}``, or ``a|b`` where an instruction has two results."""

    parts: tuple[Operand, ...]


Operand: TypeAlias = "Register | Immediate | Special | Symbol | Address | Vector"


@dataclass(eq=False)
class Instruction:
    """``@predicate opcode.modifier.modifier operands;``"""

    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    predicate: Register | None
    negated: bool
    line: int
    text: str
    number: int

    def __str__(self) -> str:
        text = self.text if len(self.text) <= LONGEST_TEXT else f"{self.text[: LONGEST_TEXT - 3]}..."
        return f"line {self.line}: {text}"


@dataclass
class Kernel:
    """An entry: its parameters, registers, instructions and labels, and the variables in shared memory."""

    name: str
    target: str
    threads: int
    parameters: list[tuple[str, str]]
    """Type and name."""
    shared: dict[str, tuple[int, int]]
    """Bytes and alignment; an external variable has no bytes of its own."""
    registers: list[Register] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    """To the number of an instruction."""


def parse(text: str) -> Kernel:
    """Read the one kernel of a module.

    Raises:
        SyntaxError: there is none, or something that this reader does not know.
    """
    head = re.search(r"\.visible\s+\.entry\s+([\w$]+)\s*\((.*?)\)(.*?)\{", text, re.S)
    if head is None:
        raise SyntaxError("no entry")
    name, parameters, directives = head.groups()
    target = re.search(r"\.target\s+(\w+)", text)
    threads = re.search(r"\.reqntid\s+(\d+)", directives)
    kernel = Kernel(
        name,
        target=target.group(1) if target else "",
        threads=int(threads.group(1)) if threads else 0,
        parameters=re.findall(r"\.param\s+\.(\w+)[^,\n]*?([\w$]+)\s*(?:,|$)", parameters.strip(), re.M),
        shared={
            variable: (int(size or 0), int(alignment or 1))
            for alignment, variable, size in re.findall(
                r"\.shared\s+(?:\.align\s+(\d+)\s+)?\.b8\s+(\w+)\[(\d*)\]", text[: head.start()]
            )
        },
    )
    body = _Body(kernel)
    for statement, line in _statements(text[head.end() :], 1 + text.count("\n", 0, head.end())):
        body.add(statement, line)
    return kernel


DIRECTIVE = re.compile(r"\.(loc|file|section|pragma)\b")
LABEL = re.compile(r"([$\w]+):(?!:)\s*")


def _statements(text: str, line: int) -> Iterator[tuple[str, int]]:
    """Statements with the line that each begins in: labels with their colon, lone braces, the rest up to the semicolon.

    Ends with the brace that closes the body.
    """
    depth, parts, first = 1, "", line
    for raw in text.split("\n"):
        code = raw.split("//")[0].strip()
        if DIRECTIVE.match(code):
            code = ""
        while code:
            if not parts:
                first = line
                if label := LABEL.match(code):
                    yield f"{label.group(1)}:", line
                    code = code[label.end() :]
                    continue
                if code[0] in "{}":
                    depth += 1 if code[0] == "{" else -1
                    if depth == 0:
                        return
                    yield code[0], line
                    code = code[1:].strip()
                    continue
            part, semicolon, code = code.partition(";")
            parts += f" {part}"
            code = code.strip()
            if semicolon:
                if parts.strip():
                    yield parts.strip(), first
                parts = ""
        line += 1
    raise SyntaxError("the body does not end")


class _Body:
    """Takes the statements of a kernel one by one."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.scopes: list[dict[str, Register]] = [{}]
        self.labels: list[dict[str, int]] = [kernel.labels]
        self.starts = [0]
        """Of the scopes: the numbers of their first instructions."""

    def add(self, text: str, line: int) -> None:
        if text == "{":
            self.scopes.append({})
            self.labels.append({})
            self.starts.append(len(self.kernel.instructions))
        elif text == "}":
            self.close()
        elif text.endswith(":"):
            self.labels[-1][text[:-1]] = len(self.kernel.instructions)
        elif text.startswith(".reg"):
            _, kind, names = text.split(None, 2)
            for name in names.split(","):
                self.declare(name.strip(), WIDTHS[kind[1:]])
        elif text.startswith("."):
            raise SyntaxError(f"line {line}: {text}")
        else:
            self.kernel.instructions.append(self.instruction(text, line))

    def close(self) -> None:
        """End a scope: nobody else can name its labels, others may bear the same names."""
        self.scopes.pop()
        labels, start = self.labels.pop(), self.starts.pop()
        for i in self.kernel.instructions[start:]:
            if i.opcode == "bra" and i.operands[0].name in labels:
                name = f"{i.operands[0].name}, line {i.line}"
                self.kernel.labels[name] = labels[i.operands[0].name]
                i.operands = (Symbol(name),)

    def declare(self, name: str, width: int) -> None:
        """``name``, or ``name0`` to ``name9`` for ``name<10>``."""
        family = re.fullmatch(r"(.+)<(\d+)>", name)
        for each in [f"{family.group(1)}{i}" for i in range(int(family.group(2)))] if family else [name]:
            register = Register(len(self.kernel.registers), width, each)
            self.scopes[-1][each] = register
            self.kernel.registers.append(register)

    def instruction(self, text: str, line: int) -> Instruction:
        text = " ".join(text.split())
        guard = re.match(r"@(!?)([%\w]+) ", text)
        predicate = self.register(guard.group(2)) if guard else None
        if guard and predicate is None:
            raise SyntaxError(f"line {line}: {text}")
        name, _, operands = (text[guard.end() :] if guard else text).partition(" ")
        opcode, *modifiers = name.split(".")
        return Instruction(
            opcode,
            tuple(modifiers),
            tuple(self.operand(part) for part in split(operands)),
            predicate,
            bool(guard and guard.group(1)),
            line,
            text,
            number=len(self.kernel.instructions),
        )

    def register(self, name: str) -> Register | None:
        return next((scope[name] for scope in reversed(self.scopes) if name in scope), None)

    def operand(self, text: str) -> Operand:
        if text.startswith("{"):
            return Vector(tuple(self.operand(part) for part in split(text[1:-1])))
        if text.startswith("["):
            base, _, offset = (part.strip() for part in text[1:-1].partition("+"))
            found = self.register(base) or number(base) or Symbol(base)
            return Address(found, int(offset or "0", 0))
        if "|" in text:
            return Vector(tuple(self.operand(part.strip()) for part in text.split("|")))
        if text.startswith("%") and self.register(text) is None:
            return Special(text[1:])
        return self.register(text) or number(text) or Symbol(text)


def number(text: str) -> Immediate | None:
    """A literal; None if it is none."""
    if re.fullmatch(r"0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}", text):
        return Immediate(int(text[2:], 16), is_float=True)
    if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)U?", text):
        return Immediate(int(text.rstrip("U"), 0))
    return None


def split(text: str) -> list[str]:
    """Cut at the commas outside of braces and brackets."""
    parts, depth, current = [], 0, ""
    for character in text:
        if character == "," and depth == 0:
            parts.append(current.strip())
            current = ""
            continue
        depth += (character in "{[(") - (character in "}])")
        current += character
    return [*parts, current.strip()] if current.strip() else parts
