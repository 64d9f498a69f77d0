"""What the simulation takes a Hopper multiprocessor to be, each assumption with its meaning and how sure it is.

Nothing here was measured by this project. Sources, by letter in the comments:

P  NVIDIA's documentation: CUDA C++ Programming Guide (throughput of arithmetic instructions), Hopper whitepaper.
M  Microbenchmarks of others found about as much: Luo et al., arXiv 2402.13499 and 2501.12084 (H100), Jia et al.,
   arXiv 1804.06826 (Volta, whose schedulers and control bits Hopper has inherited).
E  Estimate. Where one matters, ``ALTERNATIVES`` has how far it may be off, and the report the ratio at both ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ..throughput import MULTIPROCESSORS, WARP

RATES = MULTIPROCESSORS["sm_90"]
SCHEDULERS = 4
"""Parts of a multiprocessor, each with a scheduler, registers and pipes of its own. P."""


def _pipe_clocks() -> dict[str, int]:
    """Clocks for which an instruction of a warp holds its pipe in one of the four parts, by kind."""
    slowest = {kind: rate for pipe, rates in RATES.pipes.items() if pipe != "issue" for kind, rate in rates.items()}
    return {kind: round(WARP * SCHEDULERS / rate) for kind, rate in slowest.items()}


@dataclass(frozen=True)
class Hopper:
    """One multiprocessor; rates are per clock, latencies in clocks."""

    # Arithmetic. Integer products have a pipe of their own: they use half of the one for floating point.
    pipe_clocks: Mapping[str, int] = field(default_factory=_pipe_clocks)  # P
    special_latency: int = 20  # M
    special_queue: int = 1  # E: instructions that wait in front of the special function unit before issue stalls
    branch_clocks: int = 6  # E: on top of the stall count, where a jump is taken
    other_latency: int = 14  # E: constants, moves to uniform registers and the like, until the result is there
    other_read: int = 8  # E: and until the operands have been read

    # Loads and stores: a queue in each part, one address stage, one data stage for cache and shared memory.
    queue: int = 12  # E: memory instructions of a part that wait for the address stage before issue stalls
    address_clocks: int = 2  # E: clocks of the address stage for an instruction of a warp
    address_latency: int = 8  # E: until the operands have been read
    in_flight: int = 16  # E: instructions between address and data stage
    l1_bytes: float = RATES.l1_bytes  # P: shared memory, cached loads, and the operands of products
    l1_latency: int = 26  # M: a hit, from the data stage on
    shared_latency: int = 21  # M: likewise, of shared memory
    l2_bytes: float = RATES.l2_bytes  # E: what one multiprocessor gets from the second-level cache while all ask
    l2_latency: int = 260  # M: of a load that misses the first-level cache
    l1_miss_share: float | None = None
    """The share of cached loads that miss; None: those that touch pixels that no load of the tile touched before. E."""

    # Products (HGMMA): one at a time, in the order in which the last warp of their group issued them.
    product_latency: int = 30  # M: from the last clock of the tensor cores until a wait for it ends

    # Synchronisation.
    barrier_latency: int = 20  # M: from the last warp's arrival until all go on
    fence_latency: int = 20  # E


ALTERNATIVES: Mapping[str, Hopper] = MappingProxyType(
    {
        "every cached load hits": Hopper(l1_miss_share=0.0),
        "three cached loads of ten miss": Hopper(l1_miss_share=0.3),
        "32 bytes a clock from the second-level cache": Hopper(l2_bytes=32.0),
        "48 bytes a clock from the second-level cache": Hopper(l2_bytes=48.0),
    }
)
"""The range of what is least sure; the first two make no difference to a loop without cached loads."""
