"""The control flow of machine code: basic blocks, loops inside loops, and the path that a trip through them takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import networkx  # torch brings it

from .schedule import Control


class UnreadableCodeError(Exception):
    """Machine code in which the wanted quantity cannot be found; the message says why."""


@dataclass(frozen=True)
class Instruction:
    """One instruction and where control goes after it.

    ``kind`` says what executes it: "fp", "pair" (two float32 results), "half" (two half results), "multiply" (of
    integers), "integer", "special", "memory", "tensor" or "other". Bytes and floating-point operations (``flop``, of
    matrix products) are those of a whole block that executes it.
    """

    opcode: str
    operands: str
    kind: str
    targets: tuple[str, ...] = ()
    falls_through: bool = True
    flop: float = 0.0
    global_bits: int = 0
    """Width of a load from global memory, per thread."""
    l1_bytes: float = 0.0
    """Bytes loaded through the first-level cache."""
    l2_bytes: float = 0.0
    """Bytes loaded past the first-level cache."""
    scratchpad_bytes: float = 0.0
    """Bytes written to or read from shared memory, operands of matrix products included."""
    address: int = 0
    guard: str = ""
    """The predicate under which it is executed, as P0 or !UP1; empty where it always is."""
    control: Control | None = None
    """How the compiler has scheduled it; None where the disassembly does not show it."""

    @property
    def never_executed(self) -> bool:
        """Whether its predicate is the one that is always false; compilers pad code with such instructions."""
        return self.guard in ("!PT", "!UPT")

    @property
    def text(self) -> str:
        """The instruction as a disassembler prints it."""
        return f"{f'@{self.guard} ' if self.guard else ''}{self.opcode} {self.operands}".strip()

    @property
    def is_inverse_root(self) -> bool:
        """Whether this is the reciprocal square root in the default diffusivity."""
        return self.opcode.startswith("MUFU.RSQ")


@dataclass(frozen=True)
class Code:
    """The instructions of a kernel in memory order, and the index that each label stands for."""

    instructions: Sequence[Instruction]
    labels: dict[str, int]


def successors(code: Code) -> list[tuple[int, ...]]:
    """For each instruction the indices of those that may be executed next; one past the last where the code just ends.

    Raises:
        UnreadableCodeError: it is not known where a jump leads.
    """
    following = []
    for index, instruction in enumerate(code.instructions):
        targets = [index + 1] if instruction.falls_through else []
        for name in instruction.targets:
            if name not in code.labels:
                raise UnreadableCodeError(f"it is not known where {instruction.text} leads")
            targets.append(code.labels[name])
        following.append(tuple(targets))
    return following


@dataclass(eq=False)
class Loop:
    """A natural loop: its header, all its blocks, and the loops directly inside it."""

    header: int
    blocks: frozenset[int]
    loops: list[Loop] = field(default_factory=list)

    def inside(self) -> Iterator[Loop]:
        """This loop and all loops inside it, outer before inner."""
        yield self
        for loop in self.loops:
            yield from loop.inside()


@dataclass(frozen=True)
class Path:
    """What one trip executes, in order: its own instructions, and the loops that it runs through."""

    parts: tuple[Instruction | tuple[Loop, Path], ...]

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        """Those outside of the loops inside."""
        return tuple(part for part in self.parts if isinstance(part, Instruction))

    @property
    def loops(self) -> tuple[tuple[Loop, Path], ...]:
        """The loops inside, with the path of a trip through each."""
        return tuple(part for part in self.parts if not isinstance(part, Instruction))

    def everything(self) -> Iterator[Instruction]:
        """The instructions of the path with one trip of every loop on it."""
        yield from self.instructions
        for _, path in self.loops:
            yield from path.everything()

    def in_order(self, trips: Callable[[Path], int]) -> Iterator[Instruction]:
        """The instructions as one trip executes them, where ``trips`` tells the trips of a loop inside."""
        for part in self.parts:
            if isinstance(part, Instruction):
                yield part
            else:
                for _ in range(trips(part[1])):
                    yield from part[1].in_order(trips)

    def weighted(self, trips: Callable[[Path], float]) -> Iterator[tuple[Instruction, float]]:
        """Every instruction with how often it is executed, where ``trips`` tells the trips of a loop inside."""
        for instruction in self.instructions:
            yield instruction, 1.0
        for _, path in self.loops:
            count = trips(path)
            for instruction, weight in path.weighted(trips):
                yield instruction, count * weight


class ControlFlow:
    """Basic blocks, their successors, and the loops of a kernel.

    Of several paths, a trip is taken to follow the one with the most work, and among those the shortest: the inside
    of the image rather than its border, a wait that finds what it waits for, the warp that issues a matrix product.
    """

    def __init__(self, code: Code) -> None:
        self.code = code
        self._starts = _block_starts(code)
        self._successors = [self._find_successors(block) for block in range(len(self._starts))]
        self._graph = networkx.DiGraph(dict(enumerate(self._successors)))
        self._order = list(networkx.dfs_postorder_nodes(self._graph, 0))[::-1]
        """The blocks that can be reached, each before its successors but for jumps backwards."""
        self._position = {block: position for position, block in enumerate(self._order)}
        self.loops = _nest(self._natural_loops(), self._position)

    def instructions(self, block: int) -> Sequence[Instruction]:
        """The instructions of a block."""
        ends = [*self._starts[1:], len(self.code.instructions)]
        return self.code.instructions[self._starts[block] : ends[block]]

    def all_loops(self) -> Iterator[Loop]:
        """All loops, outer before inner."""
        for loop in self.loops:
            yield from loop.inside()

    def _find_successors(self, block: int) -> list[int]:
        last = self.instructions(block)[-1]
        indices = [self.code.labels[target] for target in last.targets if target in self.code.labels]
        blocks = [self._starts.index(index) for index in indices]
        if last.falls_through and block + 1 < len(self._starts):
            blocks.append(block + 1)
        return list(dict.fromkeys(blocks))

    def _natural_loops(self) -> list[Loop]:
        reached = self._graph.subgraph(self._order)
        bodies: dict[int, set[int]] = {}
        for block in self._order:
            for header in self._successors[block]:
                if self._position[header] > self._position[block]:
                    continue
                body = bodies.setdefault(header, {header})
                if block == header:
                    continue
                without_header = reached.subgraph(node for node in self._order if node != header)
                if header != self._order[0] and networkx.has_path(without_header, self._order[0], block):
                    raise UnreadableCodeError("a jump leads into the middle of a loop")
                body |= {block, *networkx.ancestors(without_header, block)}
        return [Loop(header, frozenset(body)) for header, body in bodies.items()]

    def path(self, loop: Loop | None) -> Path:
        """The path of one trip through ``loop``, or without one from the entry of the kernel to its end."""
        region = frozenset(self._order) if loop is None else loop.blocks
        first = self._order[0] if loop is None else loop.header
        children = self.loops if loop is None else loop.loops
        owner = {block: child for child in children for block in child.blocks}
        nodes = [b for b in self._order if b in region and (b not in owner or owner[b].header == b)]
        contents = {node: self._contents(node, owner.get(node)) for node in nodes}
        best: dict[int, tuple[tuple[float, ...], tuple[int, ...]]] = {first: (_work(contents[first]), (first,))}
        ends: list[tuple[tuple[float, ...], tuple[int, ...]]] = []
        for node in nodes:
            if node not in best:
                continue
            work, route = best[node]
            leaving = self._ways_out(owner[node]) if node in owner else self._successors[node]
            if loop.header in leaving if loop else not leaving:
                ends.append(best[node])
            for block in leaving:
                if block not in region or block == first:
                    continue
                target = owner[block].header if block in owner else block
                candidate = tuple(a + b for a, b in zip(work, _work(contents[target]), strict=True))
                if target not in best or candidate > best[target][0]:
                    best[target] = candidate, (*route, target)
        if not ends:
            raise UnreadableCodeError("no way leads through the kernel to its end")
        return _join([contents[node] for node in max(ends)[1]])

    def _contents(self, node: int, loop: Loop | None) -> Path:
        if loop is None:
            return Path(tuple(self.instructions(node)))
        return Path(((loop, self.path(loop)),))

    def _ways_out(self, loop: Loop) -> list[int]:
        """The blocks outside of a loop that its blocks lead to."""
        targets = (target for block in sorted(loop.blocks) for target in self._successors[block])
        return list(dict.fromkeys(target for target in targets if target not in loop.blocks))


def _join(paths: Sequence[Path]) -> Path:
    return Path(tuple(part for path in paths for part in path.parts))


def _work(path: Path) -> tuple[float, ...]:
    """What makes one path preferred to another: matrix products, inverse roots, then few instructions."""
    everything = list(path.everything())
    return (
        sum(instruction.flop for instruction in everything),
        float(sum(instruction.is_inverse_root for instruction in everything)),
        -float(len(everything)),
    )


def _block_starts(code: Code) -> list[int]:
    """Indices at which a basic block begins: targets of jumps, and what follows a jump."""
    starts = {0}
    for index, instruction in enumerate(code.instructions):
        if instruction.targets or not instruction.falls_through:
            starts.add(index + 1)
        starts.update(code.labels[target] for target in instruction.targets if target in code.labels)
    return sorted(start for start in starts if start < len(code.instructions))


def _nest(loops: Sequence[Loop], position: dict[int, int]) -> list[Loop]:
    """Put loops into the loops around them; returns the outermost."""
    outermost = []
    for loop in sorted(loops, key=lambda loop: position[loop.header]):
        around = [outer for outer in loops if outer is not loop and loop.header in outer.blocks]
        if around:
            min(around, key=lambda outer: len(outer.blocks)).loops.append(loop)
        else:
            outermost.append(loop)
    return outermost
