"""How the compiler has scheduled an instruction, from the control bits in the machine code of sm_70 and later.

The hardware checks few dependencies itself: the assembler writes into each instruction for how many clocks the warp
must pause behind it, and uses six counters (*scoreboards*) a warp for results that come after an unknown time. NVIDIA
has not documented the bits; the layout is the one that public disassemblers of Volta and later agree on (Jia et al.,
"Dissecting the NVIDIA Volta GPU Architecture via Microbenchmarking", arXiv 1804.06826, section 2.1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SCOREBOARDS = 6
NONE = 7
"""What the machine code has where an instruction sets no scoreboard."""
CONTROL_SHIFT = 41
"""Where the control bits begin in the upper half of an instruction's 128 bits."""
UPPER_HALF = re.compile(r"^\s*/\* 0x(?P<bits>[0-9a-f]{16}) \*/\s*$")


@dataclass(frozen=True)
class Control:
    """The control bits of one instruction."""

    stall: int
    """Clocks before the warp may issue its next instruction."""
    when_done: int | None = None
    """The scoreboard that is held until the result is there."""
    when_read: int | None = None
    """The scoreboard that is held until the operands have been read."""
    waits: int = 0
    """A bit for each scoreboard that nobody may hold when this instruction is issued."""


def control_of(line: str) -> Control | None:
    """The control bits in a line of ``nvdisasm -hex``; None if it does not hold the upper half of an instruction."""
    match = UPPER_HALF.match(line)
    return None if match is None else decode(int(match["bits"], 16))


def decode(upper_half: int) -> Control:
    """The control bits in the upper 64 bits of an instruction: 4 of stall, 1 of yield, 3 + 3 + 6 of scoreboards."""
    bits = upper_half >> CONTROL_SHIFT
    return Control(
        stall=bits & 15,
        when_done=_scoreboard(bits >> 5 & 7),
        when_read=_scoreboard(bits >> 8 & 7),
        waits=bits >> 11 & (1 << SCOREBOARDS) - 1,
    )


def _scoreboard(number: int) -> int | None:
    return None if number == NONE else number
