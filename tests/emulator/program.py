"""A kernel made ready to run."""

from __future__ import annotations

import re

from .ptx import Instruction, Kernel
from .shared_memory import BASE
from .translation import Translator
from .wgmma_fences import unfenced

BITS = re.compile(r"[busf](\d+)")


class Program:
    """A kernel, translated once for all its launches."""

    def __init__(self, kernel: Kernel, dynamic_shared_bytes: int) -> None:
        self.kernel = kernel
        self.symbols: dict[str, int] = {}
        """Addresses of the variables in shared memory."""
        at = BASE
        for name, (size, alignment) in sorted(kernel.shared.items(), key=lambda item: item[1][0] == 0):
            at = -(-at // max(alignment, 16)) * max(alignment, 16)
            self.symbols[name] = at
            at += size or dynamic_shared_bytes
        self.shared_bytes = at - BASE
        self.granule = min([16, *map(_shared_width, kernel.instructions)])
        """The fewest bytes of shared memory that an instruction loads or stores."""
        self.blocks = Translator(kernel).blocks()
        self.unfenced = unfenced(kernel, self.blocks)


def _shared_width(i: Instruction) -> int:
    if i.opcode in ("ld", "st", "atom") and any(m.startswith("shared") for m in i.modifiers):
        return int(BITS.fullmatch(i.modifiers[-1]).group(1)) // 8
    if i.opcode == "mbarrier":
        return 8
    if i.opcode == "tcgen05" and i.modifiers[0] == "alloc":
        return 4
    if i.opcode == "cp" and len(i.operands) > 2:
        return i.operands[2].bits
    return 16
