"""AMD's assembly as Triton's compiler writes it, read into instructions with what each of them asks of the device."""

from __future__ import annotations

import re
from dataclasses import replace

from .control_flow import Code, Instruction, UnreadableCodeError

LINE = re.compile(r"^\s+(?P<opcode>(?:[sv]_|ds_|global_|buffer_|flat_|scratch_)\w+)\s*(?P<operands>[^;]*)")
LABEL = re.compile(r"^(?P<name>[.$\w]+):")
PRODUCT = re.compile(r"v_mfma_f32_(\d+)x(\d+)x(\d+)(?:_(\d+)b)?_?")
SPECIAL = re.compile(r"v_(?:rsq|rcp|exp|log|sqrt|sin|cos)_")
ARITHMETIC = re.compile(
    r"v_(?:pk_)?(?:add|sub|subrev|mul|fma|fmac|mac|mad|max|min|med3|dot2c?)_(?:mix_)?f(?:16|32)|v_fma_mix"
)
WIDTHS = {"dwordx4": 128, "dwordx3": 96, "dwordx2": 64, "dword": 32, "b128": 128, "b96": 96, "b64": 64, "b32": 32}


def read_amdgcn(text: str, waves: int) -> Code:
    """The instructions of a kernel whose blocks have ``waves`` waves of 64 threads."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := LABEL.match(line):
            if label["name"].startswith(".Lfunc_end"):
                break
            labels[label["name"]] = len(instructions)
            continue
        if found := LINE.match(line):
            instructions.append(_instruction(found["opcode"], found["operands"].strip(), waves))
    if not instructions:
        raise UnreadableCodeError("the assembly holds no instructions")
    return Code(instructions, {name: index for name, index in labels.items() if index < len(instructions)})


def _instruction(opcode: str, operands: str, waves: int) -> Instruction:
    if opcode.startswith(("s_setpc", "s_swappc", "s_cbranch_g", "s_cbranch_i")):
        raise UnreadableCodeError(f"an indirect jump ({opcode})")
    if opcode.startswith(("s_cbranch", "s_branch")):
        return Instruction(opcode, operands, "other", (operands,), falls_through=opcode != "s_branch")
    if opcode == "s_endpgm":
        return Instruction(opcode, operands, "other", falls_through=False)
    instruction = Instruction(opcode, operands, _kind(opcode))
    if instruction.kind == "tensor":
        shape = PRODUCT.match(opcode)
        if shape is None:
            raise UnreadableCodeError(f"an unknown matrix instruction ({opcode})")
        m, n, k, blocks = (int(number or 1) for number in shape.groups())
        return replace(instruction, flop=2.0 * m * n * k * blocks * waves)
    if instruction.kind == "memory":
        return _with_bytes(instruction, 64 * waves)
    return instruction


def _kind(opcode: str) -> str:
    if opcode.startswith(("v_mfma", "v_smfma")):
        return "tensor"
    if opcode.startswith("s_"):  # the scalar unit, of all waves together never the bound
        return "other"
    if not opcode.startswith("v_"):
        return "memory"
    if SPECIAL.match(opcode):
        return "special"
    return "fp" if ARITHMETIC.match(opcode) else "integer"


def _with_bytes(instruction: Instruction, threads: int) -> Instruction:
    """The bytes that a load or store moves in all threads of a block."""
    opcode = instruction.opcode
    width = _width(opcode)
    moved = threads * width / 8
    if opcode.startswith("ds_"):
        return replace(instruction, scratchpad_bytes=moved * (2 if re.match(r"ds_\w+2(?:st64)?_", opcode) else 1))
    if "_load_" in opcode and not opcode.startswith("scratch_"):
        to_shared = " lds" in f" {instruction.operands}"
        return replace(instruction, global_bits=width, l1_bytes=moved, scratchpad_bytes=moved if to_shared else 0.0)
    return instruction


def _width(opcode: str) -> int:
    """Bits a thread of a load or store."""
    for part in reversed(opcode.split("_")):
        if part in WIDTHS:
            return WIDTHS[part]
        if part in ("ushort", "sshort", "short", "u16", "i16", "b16"):
            return 16
        if part in ("ubyte", "sbyte", "byte", "u8", "i8", "b8"):
            return 8
    return 32
