"""What each instruction becomes in Python: one entry for an opcode, in the file of its family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..ptx import Instruction

if TYPE_CHECKING:
    from ..translation import Translator

Translate = Callable[["Translator", Instruction], list[str]]


class Unsupported(NotImplementedError):  # noqa: N818
    """An instruction, or a form of one, that no kernel has needed so far."""


def _never(i: Instruction) -> bool:
    return False


@dataclass(frozen=True)
class Entry:
    """An opcode: its statements, and what the blocks have to know of it."""

    translate: Translate
    destinations: Callable[[Instruction], int]
    """How many of the first operands it writes."""
    ends_block: Callable[[Instruction], bool]
    makes_asynchronous: Callable[[Instruction], bool]
    """Whether it leaves registers in flight, which nobody may touch until they are waited for."""

    def translated(self, translator: Translator, i: Instruction) -> list[str]:
        """The statements of one instruction.

        Raises:
            Unsupported: it has a form that is not known here.
        """
        try:
            return self.translate(translator, i)
        except (IndexError, KeyError, ValueError, AttributeError, StopIteration) as error:
            raise Unsupported(f"{i} ({error!r})") from error


INSTRUCTIONS: dict[str, Entry] = {}


def instruction(
    *opcodes: str,
    destinations: int | Callable[[Instruction], int] = 1,
    ends_block: Callable[[Instruction], bool] = _never,
    makes_asynchronous: Callable[[Instruction], bool] = _never,
) -> Callable[[Translate], Translate]:
    """Register a function as what these opcodes become."""

    def registered(translate: Translate) -> Translate:
        count = destinations if callable(destinations) else lambda i: destinations
        for opcode in opcodes:
            INSTRUCTIONS[opcode] = Entry(translate, count, ends_block, makes_asynchronous)
        return translate

    return registered


from . import control, matrix, memory, scalar, tensor_core  # noqa: F401  (they register their instructions)
