"""Which registers an instruction of NVIDIA's machine code reads and writes, for the instructions of Hopper's kernels.

An instruction that is not in these tables is refused: to take it for one that writes nothing would be a guess.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .control_flow import Instruction, UnreadableCodeError

REGISTER = re.compile(r"(?<![\w.])R(\d+)(?!\w)")
PREDICATE = re.compile(r"!?U?P(?:\d|T)$")
# Every comma that separates operands, and none inside of brackets.
COMMA = re.compile(r",(?![^\[]*\])")

# Without a general register for a result: stores, jumps, barriers, comparisons. Nor has any instruction on uniform
# registers, whose names begin with U.
WITHOUT_RESULT = {"BAR", "BRA", "BREAK", "BSSY", "BSYNC", "CCTL", "DEPBAR", "ERRBAR", "EXIT", "FCHK", "FENCE", "FSETP"}
WITHOUT_RESULT |= {"HSETP2", "ISETP", "JMP", "KILL", "LDGDEPBAR", "LDGSTS", "MEMBAR", "NANOSLEEP", "NOP", "PLOP3"}
WITHOUT_RESULT |= {"R2P", "R2UR", "REDUX", "S2UR", "SYNCS", "VOTEU", "WARPGROUP", "WARPSYNC", "YIELD"}
# With one result of 32 bits, and sources of as many.
SINGLE = {"B2R", "BMSK", "BREV", "F2FP", "FADD", "FFMA", "FLO", "FMNMX", "FMUL", "FSEL", "FSET", "HADD2", "HFMA2"}
SINGLE |= {"HMNMX2", "HMUL2", "HSET2", "I2FP", "IABS", "IADD3", "IMNMX", "LEA", "LOP3", "MOV", "MOVM", "MUFU", "P2R"}
SINGLE |= {"POPC", "PRMT", "S2R", "SEL", "SGXT", "SHF", "SHFL", "VABSDIFF", "VIADD", "VIADDMNMX", "VIMNMX", "VOTE"}
# Whose width the name tells.
LOADS = {"LD", "LDC", "LDG", "LDL", "LDS"}
STORES = {"RED", "REDG", "ST", "STG", "STL", "STS"}
ATOMICS = {"ATOM", "ATOMG", "ATOMS"}
DOUBLES = {"DADD", "DFMA", "DMNMX", "DMUL"}
CONVERSIONS = {"F2F", "F2I", "FRND", "I2F"}
ASYNCHRONOUS_PRODUCT = re.compile(r"[HIQB]GMMA$")
PRODUCT_SHAPE = re.compile(r"[HIQB]GMMA\.64x(?P<columns>\d+)x\d+\.(?P<sums>F32|F16|S32)(?:\.\w+)*")
PRODUCT_OPERANDS = re.compile(
    r"(?P<result>R\d+), (?:(?P<left>R\d+)(?:\.reuse)?, )?gdesc\[UR\d+\](?:\.tnsp[AB])*, "
    r"(?P<added>R\d+|RZ)(?P<rest>(?:, !?UP(?:T|\d))?(?:, gsb0)?)"
)
OPERAND_REGISTERS = 4
"""Registers a thread that hold a left operand: 64 rows of 32 bytes, in 128 threads."""


@dataclass(frozen=True)
class Registers:
    """The general registers that an instruction reads and writes, by number. Register 255, always zero, is none."""

    reads: frozenset[int]
    writes: frozenset[int]


@dataclass(frozen=True)
class AsynchronousProduct:
    """A matrix product of a warp group that goes on after its instruction was issued, and the registers it uses."""

    operand: frozenset[int]
    """Those of the left operand; none where it is in shared memory."""
    accumulator: frozenset[int]
    adds: bool
    """Whether it adds to what the accumulator holds, and does not begin anew."""
    commits: bool
    """Whether it ends a group that ``WARPGROUP.DEPBAR`` can wait for."""


def registers_of(instruction: Instruction) -> Registers:
    """What the instruction reads and writes.

    Raises:
        UnreadableCodeError: it is none of those that are known here.
    """
    base, *parts = instruction.opcode.split(".")
    if ASYNCHRONOUS_PRODUCT.match(base):
        product = asynchronous_product(instruction)
        return Registers(product.operand | (product.accumulator if product.adds else frozenset()), product.accumulator)
    operands = [operand for operand in _operands(instruction) if not PREDICATE.match(operand)]
    result, sources = _widths(instruction, base, parts)
    writes: frozenset[int] = frozenset()
    if result and (operands or base != "VOTE"):  # a vote may have a predicate for its only result
        if not operands or not re.fullmatch(r"R(?:\d+|Z)", operands[0]):
            raise UnreadableCodeError(f"no register for the result of {instruction.text}")
        writes = _tuple_at(operands.pop(0), result)
    reads: set[int] = set()
    for position, operand in enumerate(operands):
        width = sources.get(position, sources.get(position - len(operands), 1))
        for register in REGISTER.finditer(operand):
            if "[" in operand:  # an address
                width = 2 if operand[register.end() :].startswith(".64") else 1
            reads |= _tuple_at(register[0], width)
    return Registers(frozenset(reads), writes)


def asynchronous_product(instruction: Instruction) -> AsynchronousProduct:
    """Read ``HGMMA.64x128x16.F32.BF16 R88, R152, gdesc[UR20], R88, gsb0``: result, operands, what is added to.

    Operands in shared memory are described in uniform registers; one description stands for both.

    Raises:
        UnreadableCodeError: the instruction has another form.
    """
    shape = PRODUCT_SHAPE.fullmatch(instruction.opcode)
    form = PRODUCT_OPERANDS.fullmatch(instruction.operands)
    if shape is None or form is None or form["added"] not in (form["result"], "RZ"):
        raise UnreadableCodeError(f"an unknown form of matrix product ({instruction.text})")
    # 64 rows of sums in 128 threads; half as many registers where two sums of 16 bits share one.
    accumulator = _tuple_at(form["result"], int(shape["columns"]) // (4 if shape["sums"] == "F16" else 2))
    return AsynchronousProduct(
        operand=_tuple_at(form["left"], OPERAND_REGISTERS) if form["left"] else frozenset(),
        accumulator=accumulator,
        adds=form["added"] != "RZ",
        commits=form["rest"].endswith("gsb0"),
    )


def _operands(instruction: Instruction) -> list[str]:
    return [part.strip() for part in COMMA.split(instruction.operands) if part.strip()]


def _tuple_at(register: str, count: int) -> frozenset[int]:
    """``count`` registers from one named R8 or RZ on."""
    if register == "RZ":
        return frozenset()
    first = int(register[1:])
    return frozenset(range(first, first + count))


def _widths(instruction: Instruction, base: str, parts: list[str]) -> tuple[int, dict[int, int]]:
    """How many registers the result takes, and those sources that take more than one, by position or from the end."""
    halves = {part: int(part) // 32 for part in parts if part in ("64", "128")}
    words = next(iter(halves.values()), 1)
    matrices = int(parts[-1]) if parts and parts[-1].isdigit() else 1
    if base.startswith("U") or base in WITHOUT_RESULT:
        return 0, {}
    if base in SINGLE:
        return 1, {}
    if base in LOADS:
        return words, {}
    if base in STORES:
        return 0, {-1: words}
    if base in ATOMICS:
        return words, {1: words, 2: words}
    if base == "IMAD":
        return (2 if "WIDE" in parts else 1), ({2: 2} if {"WIDE", "HI"} & set(parts) else {})
    if base == "CS2R":
        return (1 if "32" in parts else 2), {}
    if base in DOUBLES:
        return 2, dict.fromkeys(range(3), 2)
    if base == "DSETP":
        return 0, dict.fromkeys(range(2), 2)
    if base in CONVERSIONS:
        return _widths_of_conversion(base, parts)
    if base == "LDSM":
        return matrices, {}
    if base == "STSM":
        return 0, {-1: matrices}
    if base == "HMMA" and parts[0] in ("1688", "16816"):
        sums = 2 if parts[1] == "F16" else 4
        return sums, {0: 4 if parts[0] == "16816" else 2, 1: 2 if parts[0] == "16816" else 1, 2: sums}
    raise UnreadableCodeError(f"it is not known which registers {instruction.text} reads and writes")


def _widths_of_conversion(base: str, parts: list[str]) -> tuple[int, dict[int, int]]:
    whole = 2 if {"S64", "U64"} & set(parts) else 1
    real = 2 if "F64" in parts else 1
    if base == "F2F":  # F2F.F32.F64: result, source
        types = [part for part in parts if re.fullmatch(r"B?F\d+", part)]
        result, source = (2 if kind == "F64" else 1 for kind in types)
    else:
        result, source = {"F2I": (whole, real), "I2F": (real, whole), "FRND": (real, real)}[base]
    return result, {0: source}
