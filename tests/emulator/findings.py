"""What is wrong with a kernel, and how that is said."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from .ptx import Instruction

OUT_OF_BOUNDS = "access out of bounds"
MISALIGNED = "misaligned access"
UNWRITTEN = "read of memory that nobody wrote"
AMBIGUOUS = "threads of one store disagree"
SHARED_RACE = "race in shared memory"
GLOBAL_RACE = "race in global memory"
NO_PROXY_FENCE = "missing proxy fence"
NO_WGMMA_FENCE = "missing wgmma.fence"
IN_FLIGHT_AT_EXIT = "in flight at exit"
REGISTER_HAZARD = "register of an unfinished instruction"
DIVERGENCE = "divergence"
DEADLOCK = "deadlock"
TRAP = "trap"
NOBODY_WROTE = "result that nobody wrote"
TENSOR_RACE = "race in tensor memory"
NOT_GIVEN_BACK = "tensor memory not given back"
MBARRIER = "misuse of an mbarrier"


@dataclass(frozen=True)
class Place:
    """Where in a launch something happened."""

    kernel: str
    program: tuple[int, int, int]
    warp: int | None
    instruction: Instruction | None

    def __str__(self) -> str:
        warp = "" if self.warp is None else f", warp {self.warp}"
        instruction = "" if self.instruction is None else f"\n      {self.instruction}"
        return f"{self.kernel}, program {self.program}{warp}{instruction}"


@dataclass
class Finding:
    """One kind of fault at one instruction, where it was first seen and how often."""

    kind: str
    what: str
    place: Place | None
    times: int = 1

    def __str__(self) -> str:
        times = f" ({self.times} times)" if self.times > 1 else ""
        place = "" if self.place is None else f"\n      {self.place}"
        return f"{self.kind}: {self.what}{times}{place}"


class KernelFaultError(RuntimeError):
    """A kernel cannot go on: it left its memory, or waits for ever."""


class EmulationError(AssertionError):
    """What was found wrong with the kernels that ran in a context."""


@dataclass
class Findings:
    """What was noticed, each kind of fault once for an instruction."""

    found: dict[tuple[str, str, int | None], Finding] = field(default_factory=dict)

    def report(self, kind: str, what: str, place: Place | None = None) -> None:
        """Note a fault."""
        at = (what, None) if place is None else (place.kernel, place.instruction and place.instruction.line)
        key = kind, *at
        if key in self.found:
            self.found[key].times += 1
        else:
            self.found[key] = Finding(kind, what, place)

    def __iter__(self):
        return iter(self.found.values())

    def __len__(self) -> int:
        return len(self.found)

    @property
    def kinds(self) -> Counter[str]:
        """How many instructions each kind of fault was found at."""
        return Counter(finding.kind for finding in self)

    def __str__(self) -> str:
        return "\n  ".join([f"{len(self)} found in emulation", *map(str, self)])

    def raise_if_any(self) -> None:
        """Fail with all of them.

        Raises:
            EmulationError: there are any.
        """
        if self.found:
            raise EmulationError(str(self))
