"""One Hopper multiprocessor that plays a hot loop, clock by clock.

Each of four schedulers issues one instruction a clock, from the warp that it issued from last or else from the
youngest that can. A warp is held up by what its machine code says, stall counts and scoreboards, and by pipes and
queues that are full. Products run beside everything else, from the last warp of a group that issues them to the wait
that covers them. Results of a fixed latency need no tracking: the compiler has put stall counts behind them.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from ..control_flow import UnreadableCodeError
from ..schedule import SCOREBOARDS
from .hopper import SCHEDULERS, Hopper
from .trip import Step, Unit

WARPS_OF_A_GROUP = 4
"""The warps that execute a product together."""
STUCK = 100_000
"""Clocks without the end of a trip after which the simulation gives up."""
NEVER = 1 << 60

Action = Callable[[], None]


@dataclass(eq=False)
class Group:
    """Products, or asynchronous copies, of a warp that are waited for together."""

    unfinished: int = 0
    closed: bool = False


class Groups:
    """The groups of a warp that are not finished, oldest first."""

    def __init__(self) -> None:
        self._groups: deque[Group] = deque()

    def open(self) -> Group:
        """The group that takes what is issued now."""
        if not self._groups or self._groups[-1].closed:
            self._groups.append(Group())
        return self._groups[-1]

    def finish(self, group: Group) -> None:
        """One of a group has finished."""
        group.unfinished -= 1
        self.forget()

    def forget(self) -> None:
        """Drop finished groups; one that finishes before an older one is only dropped after that."""
        while self._groups and self._groups[0].closed and not self._groups[0].unfinished:
            self._groups.popleft()

    def closed(self) -> int:
        """How many groups a wait has to wait for."""
        return len(self._groups) - bool(self._groups and not self._groups[-1].closed)


@dataclass(eq=False)
class Warp:
    """One warp on its way through the trips."""

    block: int
    number: int
    """In its block."""
    ready: int
    """The clock at which it may issue again, as far as stall counts go."""
    trip: int = 0
    at: int = 0
    """The step of the trip that comes next."""
    held: list[int] = field(default_factory=lambda: [0] * SCOREBOARDS)
    """For each scoreboard how many instructions hold it."""
    holding: int = 0
    """A bit for each scoreboard that is held."""
    products: Groups = field(default_factory=Groups)
    copies: Groups = field(default_factory=Groups)
    waits_at_barrier: bool = False


@dataclass(eq=False)
class Access:
    """A memory instruction of a warp on its way through the address stage and the data stage."""

    bytes: float
    """What the data stage has yet to move."""
    read: Action
    """When the address stage has taken its operands."""
    moved: Action
    """When the data stage is done with it."""


def nothing() -> None:
    """The action of an access that nobody waits for."""


class SimulatedMultiprocessor:
    """``blocks`` resident blocks of ``warps`` warps; block number n starts n * ``offset`` clocks after the first."""

    def __init__(
        self,
        trips: Sequence[Sequence[Step]],
        warps: int,
        blocks: int,
        flop_a_clock: float,
        model: Hopper,
        offset: int = 0,
    ) -> None:
        self.model, self.trips, self.flop_a_clock = model, trips, flop_a_clock
        self.clock = 0
        self.trips_ended = 0
        self.warps = [Warp(block, number, block * offset) for block in range(blocks) for number in range(warps)]
        self.parts = [[w for w in self.warps if w.number % SCHEDULERS == s] for s in range(SCHEDULERS)]
        self.last: list[Warp | None] = [None] * SCHEDULERS
        self.awake = [0] * SCHEDULERS  # until then no warp of the part can issue
        self.pipe_free: list[dict[str, int]] = [dict.fromkeys(model.pipe_clocks, 0) for _ in self.parts]
        self.waiting: list[deque[Access]] = [deque() for _ in self.parts]  # for the address stage
        self.turn = 0  # the part that the address stage looks at first
        self.in_flight: deque[Access] = deque()  # from the address stage on
        self.arrived: deque[Access] = deque()  # copies on their way into shared memory, which go first
        self.l1_credit = 0.0
        self.l2_free = 0.0
        self.assembling: dict[tuple[int, int], list[list[tuple[Warp, Group]]]] = {}
        self.tensor_free = 0
        self.operand_reads: deque[tuple[int, int, float]] = deque()  # first clock, end, bytes a clock
        self.loads = 0
        self.events: list[tuple[int, int, Action]] = []
        self.scheduled = 0

    def run(self, warm_up: int, measured: int) -> float:
        """The clocks in which the warps do one trip each, on the average.

        They play until they have done both numbers of trips; the first do not count.

        Raises:
            UnreadableCodeError: no warp gets on, as in a loop that is not what it was taken for.
        """
        self._play(warm_up)
        clock, trips = self.clock, self.trips_ended
        self._play(warm_up + measured)
        return (self.clock - clock) * len(self.warps) / (self.trips_ended - trips)

    def _play(self, trips: int) -> None:
        ended, since = self.trips_ended, self.clock
        while self.trips_ended < trips * len(self.warps):
            self.step()
            if self.trips_ended > ended:
                ended, since = self.trips_ended, self.clock
            elif self.clock - since > STUCK:
                raise UnreadableCodeError("the simulated loop gets stuck")

    def step(self) -> None:
        """One clock."""
        events = self.events
        while events and events[0][0] <= self.clock:
            heapq.heappop(events)[2]()
        self._move_bytes()
        for part in range(SCHEDULERS):
            if self.awake[part] <= self.clock:
                self._schedule(part)
        self.clock += 1

    def _schedule(self, part: int) -> None:
        last = self.last[part]
        wake = NEVER
        for warp in (last, *reversed(self.parts[part])) if last else reversed(self.parts[part]):
            again = self._held_until(warp, part)
            if again <= self.clock:
                self._issue(warp, part)
                self.last[part] = warp
                return
            wake = min(wake, again)
        self.awake[part] = wake

    def _later(self, clocks: float, action: Action) -> None:
        """Do something so many clocks from now; it may let any warp go on."""
        self.scheduled += 1
        heapq.heappush(self.events, (self.clock + max(int(clocks), 1), self.scheduled, action))

    def _wake(self) -> None:
        self.awake = [self.clock] * SCHEDULERS

    # What keeps a warp from issuing.

    def _held_until(self, warp: Warp, part: int) -> int:
        """The clock at which a warp may issue; NEVER if something has to happen first."""
        if warp.ready > self.clock:
            return warp.ready
        if warp.waits_at_barrier:
            return NEVER
        step = self.trips[warp.trip % len(self.trips)][warp.at]
        if warp.holding & step.waits:
            return NEVER
        if not step.executed:
            return self.clock
        model = self.model
        match step.unit:
            case Unit.PIPE:
                return self.pipe_free[part][step.instruction.kind]
            case Unit.SPECIAL:
                return self.pipe_free[part]["special"] - model.special_queue * model.pipe_clocks["special"]
            case Unit.LOAD | Unit.STORE | Unit.SHARED | Unit.COPY:
                return NEVER if len(self.waiting[part]) >= model.queue else self.clock
            case Unit.AWAIT_PRODUCTS:
                return NEVER if warp.products.closed() > step.left else self.clock
            case Unit.AWAIT_COPIES:
                return NEVER if warp.copies.closed() > step.left else self.clock
        return self.clock

    # What an instruction starts.

    def _issue(self, warp: Warp, part: int) -> None:
        trip = self.trips[warp.trip % len(self.trips)]
        step = trip[warp.at]
        warp.ready = self.clock + max(step.stall, 1)
        warp.at += 1
        if warp.at == len(trip):
            warp.at, warp.trip = 0, warp.trip + 1
            self.trips_ended += 1
        if not step.executed:
            return
        model, unit = self.model, step.unit
        done = self._hold(warp, step.when_done)
        read = self._hold(warp, step.when_read)
        if unit is Unit.PIPE:
            self.pipe_free[part][step.instruction.kind] = self.clock + model.pipe_clocks[step.instruction.kind]
        elif unit is Unit.JUMP:
            warp.ready += model.branch_clocks
        elif unit is Unit.SPECIAL:
            start, clocks = max(self.clock, self.pipe_free[part]["special"]), model.pipe_clocks["special"]
            self.pipe_free[part]["special"] = start + clocks
            self._release(start - self.clock + model.special_latency, done)
            self._release(start - self.clock + clocks, read)
            return
        elif unit in (Unit.LOAD, Unit.STORE, Unit.SHARED, Unit.COPY):
            self._access(warp, part, step, done, read)
            return
        elif unit is Unit.CLOSE_COPIES:
            warp.copies.open().closed = True
            warp.copies.forget()
        elif unit is Unit.PRODUCT:
            self._product(warp, step)
        elif unit is Unit.BARRIER:
            self._arrive(warp)
        elif unit is Unit.FENCE:
            warp.ready = self.clock + max(step.stall, model.fence_latency)
            self._release(model.fence_latency, done)
            self._release(model.fence_latency, read)
            return
        self._release(model.other_latency, done)
        self._release(model.other_read, read)

    def _hold(self, warp: Warp, scoreboard: int | None) -> Action | None:
        """Hold a scoreboard; the action lets it go."""
        if scoreboard is None:
            return None
        warp.held[scoreboard] += 1
        warp.holding |= 1 << scoreboard

        def release() -> None:
            warp.held[scoreboard] -= 1
            if not warp.held[scoreboard]:
                warp.holding &= ~(1 << scoreboard)
                self._wake()

        return release

    def _release(self, clocks: float, action: Action | None) -> None:
        if action is not None:
            self._later(clocks, action)

    def _arrive(self, warp: Warp) -> None:
        warp.waits_at_barrier = True
        mates = [mate for mate in self.warps if mate.block == warp.block]
        if all(mate.waits_at_barrier for mate in mates):

            def go_on() -> None:
                for mate in mates:
                    mate.waits_at_barrier = False
                self._wake()

            self._later(self.model.barrier_latency, go_on)

    # Products.

    def _product(self, warp: Warp, step: Step) -> None:
        """Note that a warp has issued a product; the last of its group starts it, behind those that were started."""
        group = warp.products.open()
        group.unfinished += 1
        group.closed = group.closed or step.closes
        queue = self.assembling.setdefault((warp.block, warp.number // WARPS_OF_A_GROUP), [])
        for together in queue:
            if all(mate is not warp for mate, _ in together):
                break
        else:
            together = []
            queue.append(together)
        together.append((warp, group))
        if len(together) < WARPS_OF_A_GROUP:
            return
        queue.remove(together)
        start = max(self.clock, self.tensor_free)
        clocks = round(max(step.flop / self.flop_a_clock, step.bytes / self.model.l1_bytes))
        self.tensor_free = start + clocks
        self.operand_reads.append((start, start + clocks, step.bytes / clocks))

        def finish() -> None:
            for mate, products in together:
                mate.products.finish(products)
            self._wake()

        self._later(self.tensor_free - self.clock + self.model.product_latency, finish)

    # Memory.

    def _access(self, warp: Warp, part: int, step: Step, done: Action | None, read: Action | None) -> None:
        """Send a memory instruction to the address stage; copies move no bytes in the data stage yet."""
        moved: Action
        match step.unit:
            case Unit.LOAD:
                moved = partial(self._load, self._missing(warp, step), done)
            case Unit.STORE:
                moved = partial(self._from_l2, step.bytes, nothing)
            case Unit.SHARED:
                moved = partial(self._release, self.model.shared_latency, done)
            case _:
                moved = self._copy(warp, step.bytes)
        size = 0.0 if step.unit is Unit.COPY else step.bytes
        self.waiting[part].append(Access(size, read or nothing, moved))

    def _load(self, missing: float, done: Action | None) -> None:
        if missing:
            self._from_l2(missing, done or nothing)
        else:
            self._release(self.model.l1_latency, done)

    def _copy(self, warp: Warp, size: float) -> Action:
        """Add a copy to the open group of a warp; the action starts it."""
        group = warp.copies.open()
        group.unfinished += 1

        def landed() -> None:
            warp.copies.finish(group)
            self._wake()

        def arrived() -> None:
            self.arrived.append(Access(size, nothing, landed))

        return partial(self._from_l2, size, arrived)

    def _missing(self, warp: Warp, step: Step) -> float:
        """Bytes of a load that the first-level cache does not have."""
        missed = self.model.l1_miss_share
        if missed is None or step.is_streamed:
            return step.missing[warp.number]
        self.loads += 1
        return step.bytes * (int(self.loads * missed) - int((self.loads - 1) * missed))

    def _from_l2(self, size: float, arrived: Action) -> None:
        start = max(float(self.clock), self.l2_free)
        self.l2_free = start + size / self.model.l2_bytes
        self._later(self.l2_free - self.clock + self.model.l2_latency, arrived)

    def _move_bytes(self) -> None:
        """One clock of the address stage and of the data stage; operands of products come first."""
        model = self.model
        if self.clock % model.address_clocks == 0 and len(self.in_flight) < model.in_flight:
            for n in range(SCHEDULERS):
                part = (self.turn + n) % SCHEDULERS
                if self.waiting[part]:
                    access = self.waiting[part].popleft()
                    self.turn = part + 1
                    self.awake[part] = min(self.awake[part], self.clock)
                    if access.read is not nothing:
                        self._later(model.address_latency, access.read)
                    if access.bytes:
                        self.in_flight.append(access)
                    else:
                        self._later(model.address_latency, access.moved)
                    break
        rate = self._operand_bytes()
        self.l1_credit = min(self.l1_credit + model.l1_bytes - rate, 2 * model.l1_bytes)
        while self.l1_credit > 0 and (queue := self.arrived or self.in_flight):
            access = queue[0]
            used = min(self.l1_credit, access.bytes)
            access.bytes -= used
            self.l1_credit -= used
            if access.bytes > 0:
                break
            queue.popleft()
            access.moved()

    def _operand_bytes(self) -> float:
        """What the product of this clock reads from shared memory."""
        reads = self.operand_reads
        while reads and reads[0][1] <= self.clock:
            reads.popleft()
        if not reads or reads[0][0] > self.clock:
            return 0.0
        return reads[0][2]
