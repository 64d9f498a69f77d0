"""Time and memory: interleaved rounds in rotated order, medians and quartiles, exact peak memory."""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Call = Callable[[], object]

SHORTEST_SAMPLE = 0.003
"""On a CPU a faster call is repeated until a sample takes this long, in seconds."""
WARM_UP = 0.03
"""Seconds of calls before the first sample on a CPU."""
CACHE_BYTES = 256 * 2**20
"""On a GPU this much is written before every call, so that no provider finds its inputs in the L2 cache."""


@dataclass(frozen=True)
class Timing:
    """Seconds a call, one number a round."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter of the samples lies below the first, a quarter above the second."""
        if len(self.samples) < 2:
            return self.median, self.median
        lower, _, upper = statistics.quantiles(self.samples, n=4, method="inclusive")
        return lower, upper

    @property
    def spread(self) -> float | None:
        """Half the distance between the quartiles, as a share of the median; None for less than three samples."""
        if len(self.samples) < 3:
            return None
        lower, upper = self.quartiles
        return (upper - lower) / 2 / self.median

    def describe(self) -> dict[str, Any]:
        """The figures for the JSON file, in milliseconds."""
        lower, upper = self.quartiles
        return {
            "median_ms": self.median * 1e3,
            "quartiles_ms": [lower * 1e3, upper * 1e3],
            "samples_ms": [sample * 1e3 for sample in self.samples],
        }


def interleave(
    calls: Mapping[str, Call], device: torch.device, seconds: float, rounds: tuple[int, int] = (3, 25)
) -> dict[str, Timing]:
    """Time the calls in turns, another one first in each round; ``rounds`` (least, most) for about ``seconds``.

    If there is no time at all, there is one round.
    """
    if not calls:
        return {}
    stop = time.perf_counter() + seconds
    timer = _GpuTimer(device) if device.type == "cuda" else _CpuTimer()
    for name, call in calls.items():
        timer.warm_up(name, call)
    names = list(calls)
    samples: dict[str, list[float]] = {name: [] for name in names}
    least, most = rounds if seconds > 0 else (1, 1)
    for number in range(most):
        if number >= least and time.perf_counter() > stop:
            break
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            samples[name].append(timer.sample(name, calls[name]))
    return {name: Timing(tuple(values)) for name, values in samples.items()}


class _CpuTimer:
    def __init__(self) -> None:
        self.repeats: dict[str, int] = {}

    def warm_up(self, name: str, call: Call) -> None:
        self.repeats[name] = 1
        stop = time.perf_counter() + WARM_UP
        once = self.sample(name, call)
        while time.perf_counter() < stop:
            once = self.sample(name, call)
        self.repeats[name] = max(1, min(50, round(SHORTEST_SAMPLE / once)))

    def sample(self, name: str, call: Call) -> float:
        repeats = self.repeats[name]
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - start) / repeats


class _GpuTimer:
    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cache = torch.empty(CACHE_BYTES // 4, dtype=torch.int32, device=device)

    def warm_up(self, name: str, call: Call) -> None:
        for _ in range(3):
            call()
        torch.cuda.synchronize(self.device)

    def sample(self, name: str, call: Call) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.cache.zero_()
        start.record()
        call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3


def peak_memory(call: Call, device: torch.device) -> int:
    """Bytes allocated at the worst moment of the call, beyond what was there before it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _quiet_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        kept = call()
    del kept
    recorded: Any = profiler.profiler
    events = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """The profiler of some torch versions writes trace marks to file descriptor 2."""
    sys.stderr.flush()
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)
