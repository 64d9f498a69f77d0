"""Time and memory: interleaved rounds in rotated order, medians with intervals, exact peak memory."""

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

from sdn_triton.eager.workspace import workspace

from .clocks import Call, Clock, Prepared, clock_for
from .intervals import Interval, median_interval


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
    def interval(self) -> Interval:
        """Where the median of the distribution lies, at 95 %."""
        return median_interval(self.samples)

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
    calls: Mapping[str, Call],
    device: torch.device,
    seconds: float,
    rounds: tuple[int, int] = (3, 25),
    *,
    clock: Clock | None = None,
    on_failure: Callable[[str, Exception], None] | None = None,
) -> dict[str, Timing]:
    """Time the calls in turns, another one first in each round; ``rounds`` (least, most) for about ``seconds``.

    If there is no time at all, there is one round. Without a ``clock`` it is the operator's, on a GPU with a cold
    cache. A call that raises is told to ``on_failure`` and left out; without that function it raises.
    """
    stop = time.perf_counter() + seconds
    clock = clock or clock_for(device, cache="cold" if device.type == "cuda" else "warm")
    samples: dict[str, list[float]] = {}

    def leave_out(name: str, error: Exception) -> None:
        samples.pop(name, None)
        if on_failure is None:
            raise error
        on_failure(name, error)

    for name, call in calls.items():
        try:
            clock.warm_up(name, call)
            samples[name] = []
        except Exception as error:
            leave_out(name, error)
    least, most = rounds if seconds > 0 else (1, 1)
    for number in range(most):
        if not samples or (number >= least and time.perf_counter() > stop):
            break
        names = list(samples)
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            try:
                samples[name].append(clock.sample(name, calls[name]))
            except Exception as error:
                leave_out(name, error)
    return {name: Timing(tuple(values)) for name, values in samples.items()}


def peak_memory(call: Call, device: torch.device) -> int:
    """Bytes allocated at the worst moment of the call, beyond what was there before it."""
    if device.type == "cuda":
        call()  # The first one may take memory to try cuDNN's algorithms.
    if isinstance(call, Prepared):
        call.prepare()
        call = call.call
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    workspace.release()  # What the library keeps from call to call counts as well.
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
