"""Whether ``wgmma.fence`` stands wherever registers were touched that a product then uses; found without running.

PTX wants one before the first product, and between any other access to a register of A or D and the product that uses
it. Products that add to the same registers need none between them.
"""

from __future__ import annotations

from collections.abc import Sequence

from .ptx import Instruction, Kernel, Vector
from .translation import Block, numbers, touched

EVERYTHING = -1
"""Sets of registers are the bits of integers here."""


def unfenced(kernel: Kernel, blocks: Sequence[Block]) -> list[tuple[Instruction, str]]:
    """Products with registers that may have been touched since the last fence, and the names of these."""
    if not any(_is_product(i) for i in kernel.instructions):
        return []
    before = [0] * len(blocks)
    before[0] = EVERYTHING
    waiting = [0]
    followers = _followers(kernel, blocks)
    seen: set[int] = set()
    while waiting:
        n = waiting.pop()
        seen.add(n)
        after = before[n]
        for i in blocks[n].instructions:
            after = _after(i, after)
        for other in followers[n]:
            if other not in seen or after & ~before[other]:
                before[other] |= after
                waiting.append(other)
    found = []
    for block, state in zip(blocks, before):
        for i in block.instructions:
            if _is_product(i) and (bad := [n for n in _used(i) if state >> n & 1]):
                found.append((i, ", ".join(kernel.registers[n].name for n in bad)))
            state = _after(i, state)
    return found


def _followers(kernel: Kernel, blocks: Sequence[Block]) -> list[list[int]]:
    """Where each block may lead to."""
    block_at = {block.instructions[0].number: block.number for block in blocks}
    found = []
    for block in blocks:
        last = block.instructions[-1]
        targets = [block.number + 1] if block.number + 1 < len(blocks) else []
        if last.opcode in ("bra", "ret", "exit"):
            targets = targets if last.predicate is not None else []
            if last.opcode == "bra":
                targets = [*targets, block_at[kernel.labels[last.operands[0].name]]]
        found.append(targets)
    return found


def _is_product(i: Instruction) -> bool:
    return i.opcode == "wgmma" and i.modifiers[0] == "mma_async"


def _used(i: Instruction) -> list[int]:
    """The registers of D, and those of A if it is in registers."""
    return [n for operand in i.operands[:2] if isinstance(operand, Vector) for n in numbers(operand)]


def _after(i: Instruction, state: int) -> int:
    if i.opcode == "wgmma":
        return 0 if i.modifiers[0] == "fence" else state
    for n in touched(i).writes:
        state |= 1 << n
    return state
