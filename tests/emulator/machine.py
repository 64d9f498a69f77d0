"""One program (CTA) on the pretended processor: its registers, and in which order its warps get on."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from . import approximation, findings
from .barriers import Barriers
from .clocks import Clocks
from .copies import Copies
from .findings import Findings, KernelFaultError, Place
from .formats import TYPES, Array
from .fragments import Fragments
from .global_memory import GlobalMemory
from .in_flight import InFlight
from .mbarriers import Mbarriers
from .products import Products
from .program import Program
from .shared_memory import SharedMemory
from .tensor_core import TensorCore
from .tensor_memory import TensorMemory
from .translation import EXIT, Block
from .warp_functions import WarpFunctions

JUNK = {1: True, 8: 0x7F, 16: 0x7FFF, 32: 0x7FFF7FFF, 64: 0x7FFF7FFF7FFF7FFF}
"""What registers hold at first, by width: NaN in every format."""
KINDS = {1: np.bool_, 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
EVERYBODY = slice(None)


@dataclass(frozen=True)
class Mode:
    """What hardware is free to do.

    ``order``: "lockstep" lets all warps get on together, "random" one at a time until a barrier stops it. Copies and
    products take effect when they are issued ("early") or when they are waited for ("late"); PTX leaves open when a
    product reads a left operand in registers, and "latest" reads it at the wait. Stores to tensor memory go by
    ``products``, too. Approximate functions are exact, or with ``errs`` as wrong as the manual allows. ``checks`` looks
    for races and the like.
    """

    order: str = "lockstep"
    copies: str = "late"
    products: str = "early"
    errs: bool = False
    checks: bool = True
    seed: int = 0


class Machine:
    """Runs one program.

    What belongs to the asynchronous parts of the processor stands in units: each reports at the end what is still under
    way (``at_exit``).
    """

    def __init__(
        self,
        program: Program,
        parameters: dict[str, bytes],
        memory: GlobalMemory,
        place: tuple[int, int, int],
        grid: tuple[int, int, int],
        mode: Mode,
        found: Findings,
    ) -> None:
        self.program, self.parameters, self.mode, self.findings = program, parameters, mode, found
        self.place, self.grid = place, grid
        self.threads = program.kernel.threads
        self.warps = self.threads // 32
        self.ids = np.arange(self.threads)
        self.registers = self._registers()
        self._special: dict[str, Array] = {}
        self.clocks = Clocks(self.warps)
        self.global_memory = memory.seen_by(self)
        self.shared_memory = SharedMemory(self, program.shared_bytes, program.granule, mode.checks)
        self.in_flight = InFlight(self)
        self.barriers = Barriers(self)
        self.copies = Copies(self)
        self.fragments = Fragments(self)
        self.products = Products(self)
        self.warp_functions = WarpFunctions(self)
        self.mbarriers = Mbarriers(self)
        self.tensor_core = TensorCore(self)
        self.units: list[Any] = [self.copies, self.products, self.tensor_core]
        self.random = random.Random(mode.seed)
        self.approximate = approximation.erring if mode.errs else approximation.exactly
        self.round = approximation.exactly
        self.at: Any = None
        self.executed = 0

    @cached_property
    def tensor_memory(self) -> TensorMemory:
        """Only there once a kernel uses it: it is large, and most do not."""
        memory = TensorMemory(self)
        self.units.append(memory)
        return memory

    def _registers(self) -> list[Array]:
        widths = [register.width for register in self.program.kernel.registers]
        counts = Counter(widths)
        files = {w: iter(np.full((n, self.threads), JUNK[w], KINDS[w])) for w, n in counts.items()}
        return [next(files[width]) for width in widths]

    # ---- getting on
    def run(self) -> None:
        """Run all threads to their end.

        Raises:
            KernelFaultError: they cannot get there.
        """
        if self.mode.order == "lockstep":
            self._run_together()
        else:
            self._run_apart()
        for unit in self.units:
            unit.at_exit()

    def _run_together(self) -> None:
        """All warps at the same instruction as long as they can; whoever is behind goes first where they part."""
        blocks, at = self.program.blocks, 0
        while at != EXIT:
            following = self._step(blocks[at], EVERYBODY)
            if not isinstance(following, int):
                self._run_apart(following)
                return
            if self.mbarriers.parked:
                self._run_apart(np.full(self.threads, following))
                return
            if self.barriers.waiting and not self.barriers.release():
                self._deadlock(np.zeros(self.warps, bool))
            at = following

    def _run_apart(self, pc: Array | None = None) -> None:
        pc = np.zeros(self.threads, np.int64) if pc is None else np.array(pc)
        current = None
        while True:
            done = (pc.reshape(self.warps, 32) == EXIT).all(1)
            ready = [
                w
                for w in range(self.warps)
                if not (done[w] or w in self.barriers.waiting or w in self.mbarriers.parked)
            ]
            if not ready:
                if done.all():
                    return
                if not (self.barriers.release() or self.tensor_core.end_next()):
                    self._deadlock(done)
                continue
            if self.mode.order == "lockstep":
                chosen = self.ids if len(ready) == self.warps else np.concatenate([self.lanes(w) for w in ready])
            else:
                current = current if current in ready else self.random.choice(ready)
                chosen = self.lanes(current)
            first = int(pc[chosen].min())
            active = self._simplified(chosen[pc[chosen] == first])
            pc[active] = self._step(self.program.blocks[first], active)

    def _deadlock(self, done: Array) -> None:
        ended = f"; {int(done.sum())} have ended" if done.any() else ""
        at_barriers, at_mbarriers = sorted(self.barriers.waiting), sorted(self.mbarriers.parked)
        self.fail(findings.DEADLOCK, f"warps {at_barriers} wait at a barrier, {at_mbarriers} for an mbarrier{ended}")

    def _step(self, block: Block, active: slice | Array) -> Any:
        self.executed += len(block.instructions) * len(self.ids[active]) // 32
        run = block.careful if block.makes_asynchronous or self.in_flight else block.run
        try:
            return run(self, active)
        except (KernelFaultError, NotImplementedError):
            raise
        except Exception as error:
            raise RuntimeError(f"{self.program.kernel.name}, program {self.place}, {self.at}: {error!r}") from error

    def _simplified(self, ids: Array) -> slice | Array:
        """A slice if they are neighbours, which is faster."""
        if len(ids) == self.threads:
            return EVERYBODY
        if int(ids[-1]) - int(ids[0]) + 1 == len(ids):
            return slice(int(ids[0]), int(ids[-1]) + 1)
        return ids

    # ---- threads and warps
    def chosen(self, a: slice | Array, mask: Array) -> slice | Array | None:
        """The active threads whose predicate holds; None if there are none."""
        if mask.all():
            return a
        return self.ids[a][mask] if mask.any() else None

    def branch(self, a: slice | Array, mask: Array, target: int, following: int) -> int | Array:
        """Where the active threads go: one block if they agree."""
        if mask.all():
            return target
        return np.where(mask, target, following) if mask.any() else following

    def lanes(self, warp: int) -> Array:
        """The threads of a warp."""
        return self.ids[32 * warp : 32 * warp + 32]

    def warp_of(self, a: slice | Array) -> Array:
        """The warp of each active thread."""
        return self.ids[a] >> 5

    def whole_warps(self, a: slice | Array) -> list[int]:
        """The warps that are active, with all their threads.

        Raises:
            KernelFaultError: a warp is not complete.
        """
        ids = self.ids[a]
        if len(ids) % 32 or (ids[::32] % 32).any() or (ids[31::32] - ids[::32] != 31).any():
            self.fail(findings.DIVERGENCE, "not all threads of a warp execute an instruction that needs them")
        return (ids[::32] >> 5).tolist()

    # ---- operands
    def special(self, name: str) -> Array:
        """A read-only register of all threads."""
        if name not in self._special:
            self._special[name] = np.broadcast_to(self._special_value(name), self.threads).astype(np.uint32)
        return self._special[name]

    def _special_value(self, name: str) -> Any:
        known = {"tid.x": self.ids, "tid.y": 0, "tid.z": 0, "ntid.x": self.threads, "ntid.y": 1, "ntid.z": 1}
        known |= {"laneid": self.ids & 31, "warpid": self.ids >> 5, "cluster_ctarank": 0}
        known |= {f"ctaid.{axis}": n for axis, n in zip("xyz", self.place)}
        known |= {f"nctaid.{axis}": n for axis, n in zip("xyz", self.grid)}
        known |= {f"clusterid.{axis}": n for axis, n in zip("xyz", self.place)}
        if name not in known:
            raise NotImplementedError(f"%{name}: {self.at}")
        return known[name]

    def symbol(self, name: str, kind: type) -> Any:
        """The address of a variable in shared memory."""
        return kind(self.program.symbols[name])

    def everywhere(self, a: slice | Array, value: Any) -> Array:
        """A value for every active thread."""
        return np.broadcast_to(value, self.ids[a].shape)

    def parameter(self, name: str, offset: int, kind: str) -> Any:
        """Bits of a parameter of the kernel."""
        dtype = np.dtype(TYPES[kind])
        return np.frombuffer(self.parameters[name], f"u{dtype.itemsize}", 1, offset)[0]

    def gather(self, a: slice | Array, numbers: list[int]) -> Array:
        """Registers of whole warps: [register, warp, lane]."""
        return np.stack([self.registers[n][a] for n in numbers]).reshape(len(numbers), -1, 32)

    def scatter(self, a: slice | Array, numbers: list[int], values: Array) -> None:
        """The inverse of :meth:`gather`."""
        for n, value in zip(numbers, values):
            self.registers[n][a] = value.reshape(-1)

    # ---- faults
    def report(self, kind: str, what: str, warp: int | None = None, instruction: Any = None) -> None:
        """Note a fault, at the present instruction unless told otherwise."""
        at = self.at if instruction is None else instruction
        self.findings.report(kind, what, Place(self.program.kernel.name, self.place, warp, at))

    def fail(self, kind: str, what: str) -> None:
        """Note a fault that the kernel cannot go on after.

        Raises:
            KernelFaultError: always.
        """
        self.report(kind, what)
        raise KernelFaultError(
            f"{kind}: {what}\n      {self.program.kernel.name}, program {self.place}\n      {self.at}"
        )

    def trap(self, a: slice | Array) -> None:
        """``trap``"""
        self.fail(findings.TRAP, "trap")
