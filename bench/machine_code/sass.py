"""NVIDIA's machine code as ``nvdisasm`` prints it, read into instructions with what each of them asks of the device."""

from __future__ import annotations

import re
from dataclasses import replace

from .control_flow import Code, Instruction, UnreadableCodeError
from .schedule import control_of

# Some releases put what an instruction waits for behind its operands: "UMOV UR4, 0x400   &wr=0x3   ?trans1;".
LINE = re.compile(
    r"/\*(?P<address>[0-9a-f]{4,})\*/\s+(?:@(?P<guard>!?U?P\w+)\s+)?(?P<opcode>[A-Z][\w.]*)\s*"
    r"(?P<operands>(?![&?])[^;]*?)\s*(?:\s[&?]\w[^;]*)?;"
)
ADDRESS = re.compile(r"\s*/\*[0-9a-f]{4,}\*/")
LABEL = re.compile(r"^\s*(?P<name>[.$\w]+):\s*$")
TARGET = re.compile(r"`\((?P<name>[.$\w]+)\)")

# What executes an instruction, by the first part of its name. The names of the pipes are those of Nsight Compute's
# documentation ("Kernel Profiling Guide", pipelines): FMA, ALU, XU, LSU, Uniform, Tensor.
FP32 = {"FADD", "FMUL", "FFMA", "FHADD", "FHFMA", "FSWZADD"}  # FMA
PAIR = {"FADD2", "FMUL2", "FFMA2"}  # FMA, two float32 results an instruction
HALF = {"HADD2", "HMUL2", "HFMA2"}  # FMA, two results an instruction
MULTIPLY = {"IMAD", "IDP", "XMAD"}  # FMA, the half of it that multiplies integers
SPECIAL = {"MUFU", "I2F", "F2I", "F2F", "FRND", "POPC", "FLO", "BREV"}  # XU
MEMORY = {"LD", "LDC", "LDG", "LDGSTS", "LDL", "LDS", "LDSM", "LDTM", "ST", "STG", "STL", "STS", "STSM", "STTM", "SHFL"}
MEMORY |= {"ATOM", "ATOMG", "ATOMS", "RED", "REDG", "UTMALDG", "UTMASTG", "UBLKCP", "UBLKRED"}  # LSU and copy engine
TENSOR = re.compile(r"(?:[HIBDQO]|HG|IG|QG|UTC[A-Z]*)MMA$")
OTHER = {"ARRIVES", "BAR", "BMOV", "BPT", "BRA", "BRX", "BREAK", "BSSY", "BSYNC", "CALL", "CCTL", "DEPBAR", "ELECT"}
OTHER |= {"ENDCOLLECTIVE", "ERRBAR", "EXIT", "FENCE", "JMP", "JMX", "KILL", "LDGDEPBAR", "MEMBAR", "NANOSLEEP", "NOP"}
OTHER |= {"PREEXIT", "R2UR", "RET", "S2R", "S2UR", "SETCTAID", "SYNCS", "VOTEU", "WARPGROUP", "WARPSYNC", "YIELD"}

ENDS = {"EXIT", "RET", "KILL"}
INDIRECT = {"BRX", "JMX", "BRXU", "JMXU"}
ELEMENT_BYTES = {"TF32": 4, "F16": 2, "BF16": 2}


def read_sass(text: str, warps: int, copy_bytes: float | None = None, products_in_fp32: bool = False) -> Code:
    """The instructions of a kernel whose blocks have ``warps`` warps.

    ``copy_bytes`` is what one bulk copy by the copy engine brings. With ``products_in_fp32`` matrix products are made
    of float32 multiply-adds instead of tensor instructions.
    """
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    joins: dict[str, str] = {}
    constants: dict[str, int] = {}
    for line in text.splitlines():
        if label := LABEL.match(line):
            labels[label["name"]] = len(instructions)
            continue
        match = LINE.search(line)
        if match is None:
            if instructions and (control := control_of(line)) is not None:
                instructions[-1] = replace(instructions[-1], control=control)
            if ADDRESS.match(line):
                raise UnreadableCodeError(f"a line of another form ({' '.join(line.split())})")
            continue
        opcode, operands = match["opcode"], match["operands"]
        base = opcode.split(".")[0]
        _note_constant(base, operands, constants)
        address, guard = int(match["address"], 16), match["guard"] or ""
        instruction = Instruction(opcode, operands, _kind(base), address=address, guard=guard)
        instruction = _with_target(instruction, base, match["guard"], joins)
        if TENSOR.match(base):
            instruction = _with_product(instruction, base, warps, constants)
        elif products_in_fp32 and base in ("FFMA", "FFMA2"):
            instruction = replace(instruction, flop=32 * warps * (4.0 if base == "FFMA2" else 2.0))
        elif instruction.kind == "memory":
            instruction = _with_bytes(instruction, base, 32 * warps, copy_bytes)
        instructions.append(instruction)
    if not instructions:
        raise UnreadableCodeError("the disassembly holds no instructions")
    return Code(instructions, {name: index for name, index in labels.items() if index < len(instructions)})


def bulk_copy_bytes(ptx: str) -> float | None:
    """The mean size of a bulk copy, from the sizes that its barriers wait for; None if there are no such copies."""
    copies = len(re.findall(r"cp\.async\.bulk\.tensor\.\dd\.shared", ptx))
    sizes = [int(size) for size in re.findall(r"mbarrier\.arrive\.expect_tx\S*\s+[^;]*?,\s*(\d+);", ptx)]
    return sum(sizes) / copies if copies and sizes else None


def _kind(base: str) -> str:
    if TENSOR.match(base):
        return "tensor"
    for kind, names in (
        ("fp", FP32),
        ("pair", PAIR),
        ("half", HALF),
        ("multiply", MULTIPLY),
        ("special", SPECIAL),
        ("memory", MEMORY),
        ("other", OTHER),
    ):
        if base in names:
            return kind
    # Instructions on uniform registers have a pipe of their own, which is no bound; they take an issue slot.
    return "other" if base.startswith("U") or base == "LDCU" else "integer"


def _note_constant(base: str, operands: str, constants: dict[str, int]) -> None:
    """Remember ``UMOV UR29, 0x8200490``; anything else written to the register makes it unknown."""
    register, _, value = (part.strip() for part in operands.partition(","))
    constants.pop(register, None)
    if base == "UMOV" and value.startswith("0x"):
        constants[register] = int(value, 16)


def _with_target(instruction: Instruction, base: str, guard: str | None, joins: dict[str, str]) -> Instruction:
    """Where a jump goes, and whether it may fall through to the next instruction."""
    if base in INDIRECT:
        raise UnreadableCodeError(f"an indirect jump ({instruction.opcode})")
    names = tuple(match["name"] for match in TARGET.finditer(instruction.operands))
    if base in ENDS:
        return replace(instruction, falls_through=guard is not None)
    if base == "BSSY":
        joins[instruction.operands.split(",")[0].strip()] = names[0]
    elif base == "BSYNC":
        barrier = instruction.operands.strip()
        if barrier not in joins:
            raise UnreadableCodeError(f"it is not known where {instruction.text} leads")
        return replace(instruction, targets=(joins[barrier],), falls_through=guard is not None)
    elif base in ("BRA", "JMP"):
        always = guard is None and re.fullmatch(TARGET, instruction.operands) is not None
        return replace(instruction, targets=names, falls_through=not always)
    elif base == "CALL":
        return replace(instruction, targets=names)
    return instruction


def _with_product(instruction: Instruction, base: str, warps: int, constants: dict[str, int]) -> Instruction:
    """The operations of one matrix instruction in all warps that take part, and its operands in shared memory."""
    parts = instruction.opcode.split(".")
    if base.startswith("UTC"):
        return _with_block_product(instruction, constants)
    size = ELEMENT_BYTES.get(parts[-1], ELEMENT_BYTES.get(parts[-2], 2))
    if base.startswith("HG"):  # one warp group of four warps: HGMMA.64x128x16.F32.BF16
        shape = re.fullmatch(r"(\d+)x(\d+)x(\d+)", parts[1])
        if shape is None:
            raise UnreadableCodeError(f"an unknown form of matrix product ({instruction.text})")
        m, n, k = (int(number) for number in shape.groups())
        groups = warps / 4
        # The first source is a register tile or, like the second always, a tile in shared memory.
        first_in_registers = instruction.operands.split(",")[1].strip().startswith("R")
        read = n * k * size + (0 if first_in_registers else m * k * size)
        return replace(instruction, flop=2.0 * m * n * k * groups, scratchpad_bytes=groups * read)
    shape = re.fullmatch(r"(16|8)(8)(\d+)", parts[1])  # one warp: HMMA.16816.F32.BF16
    if shape is None:
        raise UnreadableCodeError(f"an unknown tensor instruction ({instruction.opcode})")
    m, n, k = (int(number) for number in shape.groups())
    return replace(instruction, flop=2.0 * m * n * k * warps)


def _with_block_product(instruction: Instruction, constants: dict[str, int]) -> Instruction:
    """``UTCHMMA``, issued once a block: its shape is in a descriptor (PTX, tcgen05 instruction descriptor)."""
    register = re.search(r"idesc\[(UR\d+)\]", instruction.operands)
    if register is None or register[1] not in constants:
        raise UnreadableCodeError(f"the shape of a tensor instruction is not a constant ({instruction.opcode})")
    descriptor = constants[register[1]]
    m, n = (descriptor >> 24 & 0x1F) * 16, (descriptor >> 17 & 0x3F) * 8
    size = 4 if descriptor >> 7 & 0x7 == 2 else 2  # the type of the first source: 2 is TF32
    k = 32 // size
    first_in_tensor_memory = instruction.operands.startswith("tmem")
    read = n * k * size + (0 if first_in_tensor_memory else m * k * size)
    return replace(instruction, flop=2.0 * m * n * k, scratchpad_bytes=float(read))


def _with_bytes(instruction: Instruction, base: str, threads: int, copy_bytes: float | None) -> Instruction:
    """The bytes that a load or store moves in all threads of a block."""
    parts = instruction.opcode.split(".")
    width = _width(parts)
    if base == "LDG":
        return replace(instruction, global_bits=width, l1_bytes=threads * width / 8)
    if base == "LDGSTS":
        moved = threads * width / 8
        past = "BYPASS" in parts
        return replace(
            instruction,
            global_bits=width,
            l1_bytes=0.0 if past else moved,
            l2_bytes=moved if past else 0.0,
            scratchpad_bytes=moved,
        )
    if base == "UTMALDG":
        if copy_bytes is None:
            raise UnreadableCodeError("the size of a bulk copy is not a constant")
        return replace(instruction, l2_bytes=copy_bytes, scratchpad_bytes=copy_bytes)
    if base in ("LDSM", "STSM"):  # matrices of 8 x 8 half words, four bytes a thread each
        matrices = int(parts[-1]) if parts[-1].isdigit() else 1
        return replace(instruction, scratchpad_bytes=threads * 4.0 * matrices)
    if base in ("LDS", "STS", "ATOMS"):
        return replace(instruction, scratchpad_bytes=threads * width / 8)
    return instruction


def _width(parts: list[str]) -> int:
    """Bits a thread of a load or store; 32 where the name says nothing."""
    for part in parts[1:]:
        if part in ("64", "128", "256"):
            return int(part)
        if part in ("U8", "S8", "U16", "S16"):
            return int(part[1:])
    return 32
