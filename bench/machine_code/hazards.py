"""Whether machine code for Hopper leaves the registers of its products alone.

``python -m sdn_triton.bench.machine_code.hazards FILE...``.

An ``HGMMA`` goes on after it was issued: until the ``WARPGROUP.DEPBAR`` that covers it, it may still read the registers
of its left operand and write those of its accumulator. Nothing holds back an instruction that uses them; that no such
instruction stands there is up to the compiler, and some releases get it wrong (docs/miscompilations.md).

Products end in the order in which they were issued. Those up to one marked ``gsb0`` form a group, and
``WARPGROUP.DEPBAR.LE gsb0, N`` waits until at most the N latest groups are left. So all that must be known of a product
is how many groups were ended since it was issued, its own included: it has ended once that is more than N. Where
control flow joins, the smaller count holds. Following every way through the code until nothing changes any more
finds all products that can be in flight at an instruction.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdn_triton.streams import guarded

from .control_flow import Code, Instruction, UnreadableCodeError, successors
from .registers import ASYNCHRONOUS_PRODUCT, AsynchronousProduct, asynchronous_product, registers_of
from .sass import read_sass

ARCHITECTURES = (90,)
"""Those whose matrix products go on after they were issued and take operands from registers."""
InFlight = Mapping[int, int]
"""For each product that may be in flight, by its index in the code, the groups that were ended since it was issued."""
ELF = b"\x7fELF"
WAIT = re.compile(r"gsb0, 0x(?P<left>[0-9a-f]+)")


@dataclass(frozen=True)
class Hazard:
    """An instruction that uses registers of a product which may not have ended."""

    instruction: Instruction
    product: Instruction
    use: str
    """What it does to them: "writes the operand", "writes the accumulator" or "reads the accumulator"."""
    registers: tuple[int, ...]

    def __str__(self) -> str:
        names = ", ".join(f"R{number}" for number in self.registers)
        return (
            f"{self.instruction.address:04x} {self.instruction.text}: {self.use} ({names}) of a product in flight, "
            f"{self.product.address:04x} {self.product.text}"
        )


def find_hazards(code: Code) -> list[Hazard]:
    """All uses of registers of unfinished products, in the order of the code.

    Raises:
        UnreadableCodeError: there are such products, and an instruction that is not understood.
    """
    products = {
        index: asynchronous_product(instruction)
        for index, instruction in enumerate(code.instructions)
        if ASYNCHRONOUS_PRODUCT.match(instruction.opcode.split(".")[0])
    }
    if not products:
        return []
    return [
        hazard
        for index, in_flight in sorted(_products_in_flight(code, products).items())
        for hazard in _hazards_at(code, products, index, in_flight)
    ]


def count_hazards(hazards: Sequence[Hazard]) -> int:
    """The number of instructions that have one."""
    return len({hazard.instruction.address for hazard in hazards})


def why_hazardous(code: Code) -> str | None:
    """What is wrong with the code, in a sentence; None if nothing is.

    Raises:
        UnreadableCodeError: see :func:`find_hazards`.
    """
    hazards = find_hazards(code)
    if not hazards:
        return None
    return f"{count_hazards(hazards)} instructions use registers of an unfinished product; {hazards[0]}"


def _products_in_flight(code: Code, products: Mapping[int, AsynchronousProduct]) -> dict[int, InFlight]:
    """The products that may be in flight before each instruction that can be reached."""
    following = successors(code)
    before: dict[int, InFlight] = {0: {}}
    pending = [0]
    while pending:
        index = pending.pop()
        instruction = code.instructions[index]
        after = _after(instruction, index, products, before[index])
        if instruction.guard:
            after = _joined(after, before[index])
        for target in following[index]:
            if target == len(code.instructions):
                raise UnreadableCodeError(f"the code goes on behind its end ({instruction.text})")
            known = before.get(target)
            joined = after if known is None else _joined(known, after)
            if joined != known:
                before[target] = joined
                pending.append(target)
    return before


def _after(
    instruction: Instruction, index: int, products: Mapping[int, AsynchronousProduct], in_flight: InFlight
) -> InFlight:
    """What is in flight after an instruction that is executed."""
    if instruction.never_executed:
        return in_flight
    if index in products:
        ended = 1 if products[index].commits else 0
        return {**{product: count + ended for product, count in in_flight.items()}, index: ended}
    base, *parts = instruction.opcode.split(".")
    if base == "CALL":
        raise UnreadableCodeError(f"a call, whose effects are not followed ({instruction.text})")
    if base == "WARPGROUP":
        wait = WAIT.fullmatch(instruction.operands)
        if parts == ["DEPBAR", "LE"] and wait is not None:
            left = int(wait["left"], 16)
            return {product: count for product, count in in_flight.items() if count <= left}
        if parts != ["ARRIVE"] or instruction.operands:
            raise UnreadableCodeError(f"an unknown instruction of warp groups ({instruction.text})")
    return in_flight


def _joined(one: InFlight, other: InFlight) -> InFlight:
    """What is in flight where two ways meet."""
    if one == other:
        return one
    return {
        product: min(one.get(product, other.get(product, 0)), other.get(product, one.get(product, 0)))
        for product in {**one, **other}
    }


def _hazards_at(
    code: Code, products: Mapping[int, AsynchronousProduct], index: int, in_flight: InFlight
) -> Iterator[Hazard]:
    instruction = code.instructions[index]
    if instruction.never_executed or not in_flight:
        return
    used = registers_of(instruction)
    for earlier in sorted(in_flight):
        product = products[earlier]
        reads, writes = used.reads, used.writes
        if index in products and _follows(code, products, index, earlier):
            reads, writes = products[index].operand, frozenset()
        for use, registers in (
            ("writes the operand", used.writes & product.operand),
            ("writes the accumulator", writes & product.accumulator),
            ("reads the accumulator", reads & product.accumulator),
        ):
            if registers:
                yield Hazard(instruction, code.instructions[earlier], use, tuple(sorted(registers)))


def _follows(code: Code, products: Mapping[int, AsynchronousProduct], index: int, earlier: int) -> bool:
    """Whether two products have one shape and one accumulator: what the earlier leaves there, the later finds."""
    one_shape = code.instructions[index].opcode == code.instructions[earlier].opcode
    return one_shape and products[index].accumulator == products[earlier].accumulator


def main(argv: Sequence[str] | None = None) -> int:
    """Print the hazards of each file; 0 if there are none, 1 if there are, 2 if a file is not understood."""
    # Not above: machine_code takes this file along to revisions that have no such tools.
    from sdn_triton.aot.compile import ToolError, disassembly

    parser = argparse.ArgumentParser(
        prog="python -m sdn_triton.bench.machine_code.hazards", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="a cubin, or what nvdisasm -c prints of one"
    )
    parser.add_argument("--quiet", action="store_true", help="print counts only")
    args = parser.parse_args(argv)
    status = 0
    for path in args.files:
        try:
            content = path.read_bytes()
            text = disassembly(content) if content.startswith(ELF) else content.decode()
            hazards = find_hazards(read_sass(text, warps=4, copy_bytes=0.0))
        except (OSError, UnicodeDecodeError, ToolError, UnreadableCodeError) as error:
            print(f"{path}: cannot be checked: {error}", file=sys.stderr)
            status = 2
            continue
        count = count_hazards(hazards)
        print(f"{path}: {count or 'no'} instruction{'s' * (count != 1)} with a hazard")
        for hazard in () if args.quiet else hazards:
            print(f"  {hazard}")
        status = max(status, int(count > 0))
    return status


if __name__ == "__main__":
    sys.exit(guarded("python -m sdn_triton.bench.machine_code.hazards", main))
