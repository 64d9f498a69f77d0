"""How one call is timed: by the host's clock, by a GPU's events, by replaying a CUDA graph.

| mode | on a GPU | on a CPU |
|---|---|---|
| operator | events around the call as users write it: the longer of host and device | the host's clock |
| kernel | events around the replay of a CUDA graph: the device alone | - |
| host | the host's clock around calls that nothing waits for | the host's clock; the workload has to be tiny |

With a *cold* cache a buffer larger than the last cache is written before every call, outside of what is timed; with a
*warm* one calls follow each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

Call = Callable[[], object]

MODES = ("operator", "kernel", "host")
CACHES = ("warm", "cold")
SHORTEST_SAMPLE = {"cpu": 0.003, "cuda": 0.0005}
"""A faster call is repeated until a sample takes this long, in seconds, where the cache is warm."""
MOST_REPEATS = 50
WARM_UP = 0.03
"""Seconds of calls before the first sample on a CPU."""
CACHE_BYTES = 256 * 2**20
"""On a GPU this much is written before every call, so that no provider finds its inputs in the L2 cache."""
QUEUED = 20
"""Calls that a GPU takes in without making the host wait."""


class CaptureFailedError(RuntimeError):
    """A call could not be captured in a CUDA graph, after which no other can be in this process.

    PyTorch's allocator still believes in the capture then, and the next one ends in an assertion.
    """


@dataclass(frozen=True)
class Prepared:
    """A call that something has to be done for, untimed, before each time."""

    prepare: Call
    call: Call

    def __call__(self) -> object:
        self.prepare()
        return self.call()


def _split(call: Call) -> tuple[Call | None, Call]:
    return (call.prepare, call.call) if isinstance(call, Prepared) else (None, call)


class CpuClock:
    """The host's clock, on a CPU."""

    def __init__(self, cold: bool = False) -> None:
        self.repeats: dict[str, int] = {}
        self.cache = torch.zeros(2 * last_cache_bytes() // 4, dtype=torch.int32) if cold else None

    def warm_up(self, name: str, call: Call) -> None:
        """Call for a while, and find out how many calls a sample takes."""
        self.repeats[name] = 1
        stop = time.perf_counter() + WARM_UP
        once = self.sample(name, call)
        while time.perf_counter() < stop:
            once = self.sample(name, call)
        if self.cache is None:
            self.repeats[name] = max(1, min(MOST_REPEATS, round(SHORTEST_SAMPLE["cpu"] / once)))

    def sample(self, name: str, call: Call) -> float:
        """Seconds of one call."""
        repeats = self.repeats[name]
        prepare, timed = _split(call)
        if prepare is None and self.cache is None:
            start = time.perf_counter()
            for _ in range(repeats):
                timed()
            return (time.perf_counter() - start) / repeats
        seconds = 0.0
        for _ in range(repeats):
            if prepare is not None:
                prepare()
            if self.cache is not None:
                self.cache.add_(1)
            start = time.perf_counter()
            timed()
            seconds += time.perf_counter() - start
        return seconds / repeats


@dataclass
class GpuClock:
    """Events of a GPU around calls as users write them."""

    device: torch.device
    cold: bool = True
    repeats: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cache = _gpu_cache(self.device) if self.cold else None

    def warm_up(self, name: str, call: Call) -> None:
        """Call three times, and find out how many calls a sample takes."""
        self.repeats[name] = 1
        for _ in range(3):
            call()
        torch.cuda.synchronize(self.device)
        if not self.cold:
            self.repeats[name] = _gpu_repeats(self.sample(name, call))

    def sample(self, name: str, call: Call) -> float:
        """Seconds of one call."""
        prepare, timed = _split(call)
        if prepare is None:
            return _between_events(timed, self.repeats[name], self.cache)
        seconds = 0.0
        for _ in range(self.repeats[name]):
            prepare()
            seconds += _between_events(timed, 1, self.cache)
        return seconds / self.repeats[name]


@dataclass
class GraphClock:
    """Events of a GPU around the replay of a CUDA graph that holds the calls."""

    device: torch.device
    cold: bool = True
    graphs: dict[str, tuple[torch.cuda.CUDAGraph, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cache = _gpu_cache(self.device) if self.cold else None
        self.stream = torch.cuda.Stream(self.device)

    @contextmanager
    def on_stream(self) -> Iterator[None]:
        """Inside, everything runs on the stream that calls are captured on."""
        outside = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(outside)
        with torch.cuda.stream(self.stream):
            yield
        outside.wait_stream(self.stream)

    def warm_up(self, name: str, call: Call) -> None:
        """Capture the call, which stands in for it from then on.

        Raises:
            TypeError: something has to be done before each call, which a graph would hold, too.
            CaptureFailedError: the call does what a graph cannot hold; the process cannot capture any more.
        """
        if isinstance(call, Prepared):
            raise TypeError("call must be one that a graph can hold alone, got one that is prepared each time")
        with self.on_stream():
            for _ in range(3):
                call()
            once = self._capture(call, 1)
            repeats = 1 if self.cold else _gpu_repeats(_between_events(once.replay, 1, None))
            self.graphs[name] = (once if repeats == 1 else self._capture(call, repeats), repeats)
            self.sample(name, call)

    def _capture(self, call: Call, repeats: int) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                for _ in range(repeats):
                    call()
        except Exception as error:
            raise CaptureFailedError(f"not captured: {type(error).__name__}: {error}") from error
        graph.replay()
        torch.cuda.synchronize(self.device)
        return graph

    def sample(self, name: str, call: Call) -> float:
        """Seconds of one call."""
        graph, repeats = self.graphs[name]
        return _between_events(graph.replay, 1, self.cache) / repeats


@dataclass
class HostClock:
    """The host's clock around calls on a GPU, without waiting for what they start."""

    device: torch.device

    def warm_up(self, name: str, call: Call) -> None:
        """Call often enough for every cache on the way to be filled."""
        for _ in range(QUEUED):
            call()
        torch.cuda.synchronize(self.device)

    def sample(self, name: str, call: Call) -> float:
        """Seconds of one call."""
        prepare, timed = _split(call)
        seconds = 0.0
        for _ in range(QUEUED):
            if prepare is not None:
                prepare()
            torch.cuda.synchronize(self.device)
            start = time.perf_counter()
            timed()
            seconds += time.perf_counter() - start
        return seconds / QUEUED


Clock = CpuClock | GpuClock | GraphClock | HostClock


def clock_for(device: torch.device, mode: str = "operator", cache: str = "warm") -> Clock:
    """The clock of a mode on a device.

    Raises:
        ValueError: the mode is none, or cannot be measured on the device.
    """
    if obstacle := why_no_mode(device, mode):
        raise ValueError(obstacle)
    if device.type != "cuda":
        return CpuClock(cold=cache == "cold")
    if mode == "host":
        return HostClock(device)
    return (GraphClock if mode == "kernel" else GpuClock)(device, cold=cache == "cold")


def on_stream_of(clock: Clock) -> AbstractContextManager[None]:
    """What has to be entered before a forward whose backward is to be timed: autograd takes the same stream for both.

    A backward that is captured on another stream than its forward ran on cannot be captured.
    """
    return clock.on_stream() if isinstance(clock, GraphClock) else nullcontext()


def is_usable(device: torch.device) -> bool:
    """Whether a GPU still answers this process; after an illegal access it does not, to anything."""
    if device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True


def why_no_mode(device: torch.device, mode: str) -> str | None:
    """Why a mode cannot be measured on a device; None if it can."""
    if mode not in MODES:
        return f"mode must be one of {', '.join(MODES)}, got {mode!r}"
    if mode == "kernel" and device.type != "cuda":
        return f"mode 'kernel' is the time of a CUDA graph and needs a GPU, got {device}: use 'operator'"
    return None


def _between_events(call: Call, repeats: int, cache: Tensor | None) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    if cache is not None:
        cache.zero_()
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / repeats


def _gpu_repeats(seconds: float) -> int:
    return max(1, min(MOST_REPEATS, round(SHORTEST_SAMPLE["cuda"] / max(seconds, 1e-6))))


def _gpu_cache(device: torch.device) -> Tensor:
    return torch.empty(CACHE_BYTES // 4, dtype=torch.int32, device=device)


def last_cache_bytes() -> int:
    """The size of the processor's last cache as the system gives it; 32 MiB if it does not."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        if text[:-1].isdigit() and text[-1] in "KM":
            sizes.append(int(text[:-1]) * (2**10 if text[-1] == "K" else 2**20))
    return max(sizes, default=32 * 2**20)
