"""One case of the benchmark: what is run, in which numbers and layout, which pass of it, and how it is timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from ..measuring.clocks import CACHES, MODES
from .networks import Network
from .providers import KINDS, PROVIDERS, Provider
from .workloads import PASSES, Workload, workloads_of

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

ProblemKey = tuple[Workload, str, str]
"""Workload, dtype and memory format: what cases have in common whose providers are checked together."""


@dataclass(frozen=True)
class BenchCase:
    """A row of the JSON file.

    ``pass_`` is one of ``PASSES``, ``mode`` and ``cache`` are explained in ``measuring/clocks.py``.
    """

    workload: Workload
    dtype: str = "float32"
    memory_format: str = "contiguous"
    pass_: str = "inference"
    mode: str = "operator"
    cache: str = "warm"

    @property
    def id(self) -> str:
        """The case in one line: two runs are compared by it."""
        work = self.workload
        parts = [work.network, work.kind, work.name, f"batch {work.batch}", self.dtype, self.memory_format]
        image = [] if work.features is None else ["image"]
        return "/".join([*parts, self.pass_, self.mode, self.cache, *image])

    @property
    def problem(self) -> ProblemKey:
        """What it shares with other cases."""
        return self.workload, self.dtype, self.memory_format

    @property
    def flop(self) -> float:
        return self.workload.flop(self.pass_)

    def providers(self, chosen: Sequence[str]) -> list[Provider]:
        """Those of the chosen that say something about this kind of workload."""
        return [PROVIDERS[name] for name in chosen if self.workload.kind in PROVIDERS[name].kinds]

    def describe(self) -> dict[str, Any]:
        """The facts for the JSON file; results are added to them."""
        return {
            "id": self.id,
            **self.workload.describe(),
            "dtype": self.dtype,
            "memory_format": self.memory_format,
            "pass": self.pass_,
            "mode": self.mode,
            "cache": self.cache,
            "flop": self.flop,
            "bytes": self.workload.least_bytes(self.pass_, DTYPES[self.dtype].itemsize),
        }


def grid(
    networks: Sequence[Network],
    sizes: Sequence[tuple[int, int]],
    *,
    batches: Sequence[int] = (1,),
    kinds: Sequence[str] = KINDS,
    dtypes: Sequence[str] = ("float32",),
    formats: Sequence[str] = ("contiguous",),
    passes: Sequence[str] = ("inference", "training"),
    modes: Sequence[str] = ("operator",),
    caches: Sequence[str] = ("warm",),
    stages: Sequence[int] | None = None,
) -> list[BenchCase]:
    """Every combination; ``stages``, counted from 1, leaves out the layers and blocks of all others.

    Raises:
        ValueError: a name is none of those that there are.
    """
    allowed = {"kinds": KINDS, "dtypes": DTYPES, "formats": FORMATS, "passes": PASSES, "modes": MODES, "caches": CACHES}
    chosen = dict(kinds=kinds, dtypes=dtypes, formats=formats, passes=passes, modes=modes, caches=caches)
    for name, values in chosen.items():
        if unknown := [value for value in values if value not in allowed[name]]:
            raise ValueError(f"{name} must be among {', '.join(allowed[name])}, got {', '.join(unknown)}")
    works = [
        work
        for network, (height, width), batch in product(networks, sizes, batches)
        for work in workloads_of(network, height, width, batch, kinds=kinds)
        if stages is None or work.kind == "neck" or int(work.name.split()[-1]) in stages
    ]
    # Modes and caches vary fastest: what belongs to one problem stands together and is checked once.
    return [BenchCase(*combined) for combined in product(works, dtypes, formats, passes, modes, caches)]
