"""The trips through a hot loop as the simulation plays them: each instruction with what it asks of the multiprocessor.

The way through the loop is that of ``control_flow``: the inside of the image, not its border. Two things can differ
from trip to trip: a jump over loads, and loads under a predicate, whose values are used only where they are new. Both
are how kernels keep the centres of a block of channels in registers, so they are executed once in so many trips
(``period``) as a block of channels takes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from ..control_flow import Code, Instruction, UnreadableCodeError
from .first_touch import share

INSTRUCTION_BYTES = 16
PREDICATE = re.compile(r"U?P\d")
REGISTER = re.compile(r"(?<!U)R\d+")


class Unit(Enum):
    """What executes an instruction, or what it waits for."""

    NONE = auto()
    PIPE = auto()
    SPECIAL = auto()
    LOAD = auto()
    STORE = auto()
    SHARED = auto()
    COPY = auto()
    CLOSE_COPIES = auto()
    AWAIT_COPIES = auto()
    PRODUCT = auto()
    AWAIT_PRODUCTS = auto()
    BARRIER = auto()
    FENCE = auto()
    JUMP = auto()


UNITS = {
    "LDG": Unit.LOAD,
    "STG": Unit.STORE,
    "LDGSTS": Unit.COPY,
    "LDGDEPBAR": Unit.CLOSE_COPIES,
    "DEPBAR": Unit.AWAIT_COPIES,
    "HGMMA": Unit.PRODUCT,
    "MEMBAR": Unit.FENCE,
    "FENCE": Unit.FENCE,
    "BRA": Unit.JUMP,
    "BAR": Unit.BARRIER,
} | dict.fromkeys(("LDS", "STS", "LDSM", "STSM", "LDL", "STL", "SHFL"), Unit.SHARED)
UNKNOWN = {"SYNCS", "UTMALDG", "UTMASTG", "UBLKCP", "ATOM", "ATOMG", "RED", "REDG", "CALL", "HMMA", "IGMMA", "QGMMA"}
"""Instructions whose time the simulation does not know."""
PIPES = ("fp", "half", "pair", "multiply", "integer")


@dataclass(frozen=True)
class Step:
    """One instruction of a warp on its way through the loop."""

    instruction: Instruction
    unit: Unit
    executed: bool = True
    """Whether its guard is true; if not it takes its turn and does nothing. Of a jump: whether it is taken."""
    bytes: float = 0.0
    """What one warp moves; of a product, what it reads from shared memory for a whole warp group."""
    flop: float = 0.0
    """Operations of a product, for a whole warp group."""
    closes: bool = False
    """Whether a product ends a group of products that can be waited for."""
    left: int = 0
    """How many groups a wait leaves unfinished."""
    missing: tuple[float, ...] = ()
    """Of a load: the bytes that the first-level cache does not have, for each warp of the block."""
    is_streamed: bool = False
    """Whether nobody reads the bytes of a load a second time, so that they miss whatever the cache does."""
    stall: int = 1
    waits: int = 0
    when_done: int | None = None
    when_read: int | None = None


@dataclass(frozen=True)
class Tiles:
    """How a trip reads its tiles through the first-level cache.

    ``touches`` are those of :func:`first_touch.first_touches`. ``steps`` is how many taps a trip goes through, and
    ``period`` how many trips belong to one set of pixels and channels. Empty ``touches``: nothing is read twice.
    """

    touches: Sequence[Sequence[bool]] = ()
    steps: int = 1
    period: int = 1


def trips_of(way: Sequence[Instruction], code: Code, warps: int, tiles: Tiles) -> list[tuple[Step, ...]]:
    """The trips of one period, in order; ``way`` is what every trip executes.

    Raises:
        UnreadableCodeError: the simulation does not know an instruction, or the control bits are not there.
    """
    rare = _selected_from(way) if tiles.period > 1 else set()
    trips = []
    for number in range(tiles.period):
        if number == 0 and tiles.period > 1:
            here, loaded = _with_skipped(way, rare, code)
            steps = _with_guards([_step(instruction, warps) for instruction in here], idle=set())
        else:
            loaded = set()
            steps = _with_guards([_step(instruction, warps) for instruction in way], idle=rare)
        trips.append(tuple(_with_misses(steps, loaded, warps, number, tiles)))
    return trips


def _step(instruction: Instruction, warps: int) -> Step:
    """An instruction with what one warp asks for."""
    base, operands = instruction.opcode.split(".")[0], instruction.operands
    if base in UNKNOWN or (base.startswith("UTC") and base.endswith("MMA")):
        raise UnreadableCodeError(f"the simulation does not know {base}")
    if instruction.control is None:
        raise UnreadableCodeError("the disassembly does not show how the compiler scheduled it")
    unit = UNITS.get(base, Unit.NONE)
    if unit is Unit.NONE and instruction.kind == "special":
        unit = Unit.SPECIAL
    elif unit is Unit.NONE and instruction.kind in PIPES:
        unit = Unit.PIPE
    elif base == "WARPGROUP" and "DEPBAR" in instruction.opcode:
        unit = Unit.AWAIT_PRODUCTS
    control = instruction.control
    step = Step(
        instruction,
        unit,
        stall=control.stall,
        waits=control.waits,
        when_done=control.when_done,
        when_read=control.when_read,
    )
    match unit:
        case Unit.LOAD | Unit.COPY | Unit.STORE | Unit.SHARED:
            return replace(step, bytes=_bytes(instruction, warps))
        case Unit.PRODUCT:
            groups = warps // 4
            return replace(
                step,
                flop=instruction.flop / groups,
                bytes=instruction.scratchpad_bytes / groups,
                closes="gsb0" in operands,
            )
        case Unit.AWAIT_PRODUCTS | Unit.AWAIT_COPIES:
            return replace(step, left=int(operands.split(",")[1], 0))
    return step


def _bytes(instruction: Instruction, warps: int) -> float:
    """What one warp loads, copies or stores."""
    moved = instruction.scratchpad_bytes or instruction.l1_bytes or instruction.l2_bytes
    if moved:
        return moved / warps
    width = next((int(part) for part in instruction.opcode.split(".") if part in ("64", "128")), 32)
    return 32 * width / 8


# Which instructions are executed.


def _selected_from(way: Sequence[Instruction]) -> set[int]:
    """The guarded loads whose values are only selected from, as those of centres that mostly stay what they were."""
    selected_from = set()
    for number, load in enumerate(way):
        if load.opcode.startswith("LDG") and load.guard:
            register = _operands(load)[0]
            reader = next((i for i in (*way[number + 1 :], *way[:number]) if _reads(i, register)), None)
            if reader is not None and reader.opcode.split(".")[0] == "SEL":
                selected_from.add(number)
    return selected_from


def _reads(instruction: Instruction, register: str) -> bool:
    stores = instruction.opcode.startswith("ST")
    sources = _operands(instruction)[0 if stores else 1 :]
    return any(register in REGISTER.findall(source) for source in sources)


def _with_skipped(way: Sequence[Instruction], rare: set[int], code: Code) -> tuple[list[Instruction], set[int]]:
    """The way with the loads that it jumps over, where nothing is loaded in their place; and where rare loads stand."""
    at = {instruction.address: number for number, instruction in enumerate(code.instructions)}
    executed: list[Instruction] = []
    loaded: set[int] = set()
    replaced: set[str] = set()
    for number, (here, following) in enumerate(zip(way, [*way[1:], None], strict=True)):
        if number in rare:
            loaded.add(len(executed))
        executed.append(here)
        replaced -= set(_predicates_written(here))
        if here.opcode.startswith("LDG"):
            replaced.add(here.guard.lstrip("!"))
        if following is None or not here.guard or not here.opcode.startswith("BRA"):
            continue
        skipped = code.instructions[at[here.address] + 1 : at[following.address]]
        if here.guard.lstrip("!") in replaced or any(instruction.targets for instruction in skipped):
            continue
        loads = {len(executed) + n for n, instruction in enumerate(skipped) if instruction.opcode.startswith("LDG")}
        if loads:
            loaded |= loads
            executed += skipped
    return executed, loaded


def _with_guards(steps: list[Step], idle: set[int]) -> list[Step]:
    """Find out which guards are true.

    Jumps tell, by the way that the trip takes. Of other guards those of loads are true, and all that contradicts them
    is not executed; the loads that are ``idle`` in this trip are not either.
    """
    values: dict[tuple[str, int], bool] = {}
    versions: dict[str, int] = {}
    keys: list[tuple[str, int] | None] = []
    for number, step in enumerate(steps):
        here = step.instruction
        name = here.guard.lstrip("!")
        key = (name, versions.get(name, 0)) if name and name not in ("PT", "UPT") else None
        keys.append(key)
        wanted = not here.guard.startswith("!")
        if key is not None and step.unit is Unit.JUMP:
            values[key] = wanted == _is_taken(steps, number)
        elif key is not None and step.unit is Unit.LOAD and number not in idle:
            values.setdefault(key, wanted)
        for predicate in _predicates_written(here):
            versions[predicate] = versions.get(predicate, 0) + 1
    guarded = []
    for number, (step, key) in enumerate(zip(steps, keys, strict=True)):
        guard = step.instruction.guard
        true = guard not in ("!PT", "!UPT") and number not in idle
        if key is not None and key in values:
            true = true and values[key] != guard.startswith("!")
        if step.unit is Unit.JUMP:
            true = _is_taken(steps, number)
        guarded.append(replace(step, executed=true))
    return guarded


def _is_taken(steps: Sequence[Step], number: int) -> bool:
    """Whether the instruction behind a jump is not the next one in memory; behind the last comes the next trip."""
    if number + 1 == len(steps):
        return True
    here, following = steps[number].instruction, steps[number + 1].instruction
    return following.address != here.address + INSTRUCTION_BYTES


def _predicates_written(instruction: Instruction) -> list[str]:
    """The predicates among the destinations, which come first: ``ISETP P0, PT, ...``, ``IADD3 R1, P0, ...``."""
    if instruction.targets:
        return []
    return [operand for operand in _operands(instruction)[:2] if PREDICATE.fullmatch(operand)]


def _operands(instruction: Instruction) -> list[str]:
    return [operand.strip() for operand in instruction.operands.split(",")]


# What the first-level cache does not have.


def _with_misses(steps: list[Step], centres: set[int], warps: int, trip: int, tiles: Tiles) -> list[Step]:
    """The loads with what they miss: all of it where nothing is read twice, else the first touches of their tap."""
    streamed = _stored_as_they_are(steps)
    loads = [n for n, step in enumerate(steps) if step.unit is Unit.LOAD and step.executed]
    cached = [n for n in loads if tiles.touches and n not in streamed]
    at = _placed([n for n in cached if n in centres], range(1))
    at |= _placed([n for n in cached if n not in centres], _positions(trip, tiles))
    with_misses = list(steps)
    for number in loads:
        size = steps[number].bytes
        if number not in at:
            with_misses[number] = replace(steps[number], missing=(size,) * warps, is_streamed=True)
            continue
        position, begin, end = at[number]
        touches = tiles.touches[position]
        with_misses[number] = replace(
            steps[number],
            missing=tuple(size * share(touches, (w + begin) / warps, (w + end) / warps) for w in range(warps)),
        )
    return with_misses


def _positions(trip: int, tiles: Tiles) -> range:
    """The taps of a trip, as positions in ``touches``; where a trip has all of them, the centre too."""
    if tiles.period == 1:
        return range(min(tiles.steps + 1, len(tiles.touches)))
    return range(1 + trip * tiles.steps, 1 + (trip + 1) * tiles.steps)


def _placed(loads: Sequence[int], positions: range) -> dict[int, tuple[int, float, float]]:
    """For each load the tap that it belongs to, and the part of a warp's pixels, input before guidance."""
    places = {}
    each = len(loads) / len(positions) if loads else 0.0
    for order, number in enumerate(loads):
        position = positions[min(int(order / each), len(positions) - 1)]
        of_tensor = max(each / 2, 1.0)
        begin = order % each % of_tensor / of_tensor
        places[number] = position, begin, min(begin + 1 / of_tensor, 1.0)
    return places


def _stored_as_they_are(steps: Sequence[Step]) -> set[int]:
    """The loads whose values go to shared memory unchanged: weights, and all operands of a plain product."""
    stored: set[int] = set()
    holds: dict[str, int] = {}
    for number, step in enumerate(steps):
        operands = _operands(step.instruction)
        if step.unit is Unit.LOAD:
            holds[operands[0]] = number
        elif step.instruction.opcode.startswith("STS"):
            if operands[-1] in holds:
                stored.add(holds[operands[-1]])
        elif operands[0] in holds:
            del holds[operands[0]]
    return stored
