"""What a call costs the host, against ``nn.Conv2d``: ``python -m sdn_triton.bench.experiments.host_cost``.

The calls have next to nothing to compute, so that what is left is checking, choosing, allocating and recording for
autograd. Of many rounds in turns the fastest counts: on a shared machine every disturbance only adds.

- ``meta``: tensors without memory.
- ``no images``: an empty batch on the CPU.
- ``one pixel``: a hundred small PyTorch operations, the eager path's own work, are part of this one.
- ``triton``: the Triton path for an sm_90, with its kernels compiled, Triton's own host code and a driver that launches
  nothing, on CPU tensors. It is held against the convolution of an empty batch, which is less than what one costs on
  a GPU.
- ``gpu``: the real thing, where there is a GPU, without waiting for it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from sdn_triton import SemanticDifferenceConv2d, backend, feature_fusion
from sdn_triton.options import Backend
from sdn_triton.streams import guarded
from sdn_triton.tuning.configs import Target

from .. import arguments
from ..measuring.environment import fingerprint, package_version
from ..measuring.saving import save

Call = Callable[[], object]
Pair = tuple[Call, Call]
"""The convolution and this library's call."""

CPU = torch.device("cpu")
launches: deque[tuple[Any, ...]] = deque(maxlen=16)
"""What the last kernels would have been launched with; Triton keeps a kernel and its launcher once they are made."""
PRETENDED = Target("cuda", 90, 132)
SIZES = {"meta": (2, 64, 32, 32), "no images": (0, 64, 32, 32), "one pixel": (1, 64, 1, 1), "gpu": (1, 64, 8, 8)}


@dataclass(frozen=True)
class Figure:
    """Microseconds of host time a call."""

    work: str
    call: str
    conv2d: float
    ours: float

    @property
    def ratio(self) -> float:
        return self.ours / self.conv2d


def layers(device: torch.device, size: Sequence[int], grad: bool, dtype: torch.dtype, path: Backend) -> Pair:
    """A convolution and a difference convolution of one image size, weights channels-last in memory."""
    C = size[1]
    options: dict[str, Any] = dict(padding=1, device=device, dtype=dtype)
    conv, ours = nn.Conv2d(C, C, 3, **options), SemanticDifferenceConv2d(C, C, 3, backend=path, **options)
    for layer in (conv, ours):
        layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    input, guidance = (torch.empty(*size, device=device, dtype=dtype).fill_(0.5) for _ in range(2))
    conv.requires_grad_(grad)
    ours.requires_grad_(grad)
    return lambda: conv(input), lambda: ours(input, guidance)


def fusions(device: torch.device, size: Sequence[int], grad: bool, dtype: torch.dtype, path: Backend) -> Pair:
    """A 1x1 convolution and a feature fusion."""
    C = size[1]
    conv = nn.Conv2d(C, C, 1, device=device, dtype=dtype).requires_grad_(grad)
    weight = torch.zeros(C, 2 * C, 1, 1, device=device, dtype=dtype, requires_grad=grad)
    input, response = (torch.empty(*size, device=device, dtype=dtype).fill_(0.5) for _ in range(2))
    return lambda: conv(input), lambda: feature_fusion(input, response, weight, conv.bias, backend=path)


def and_back(pair: Pair) -> Pair:
    """The same calls, and the gradients of what needs them."""

    def back(call: Call) -> Call:
        output = call()
        assert isinstance(output, Tensor)
        grad = torch.ones_like(output)

        def run() -> None:
            torch.autograd.backward(call(), grad)  # type: ignore[arg-type]

        return run

    return back(pair[0]), back(pair[1])


def calls_of(
    device: torch.device, size: Sequence[int], dtype: torch.dtype = torch.float32, path: Backend = "auto"
) -> dict[str, Pair]:
    """What is timed on one kind of tensors, by name."""
    pairs: dict[str, Pair] = {}
    for name, make in (("layer", layers), ("fusion", fusions)):
        pairs[name] = make(device, size, False, dtype, path)
        pairs[f"{name}, recorded"] = make(device, size, True, dtype, path)
        pairs[f"{name}, forward + backward"] = and_back(make(device, size, True, dtype, path))
    return pairs


def fastest(calls: Sequence[Call], device: torch.device, seconds: float) -> list[float]:
    """The fastest round of each call, in microseconds a call; the calls take turns."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    repeats = []
    for call in calls:
        for _ in range(20):
            call()
        started = time.perf_counter()
        for _ in range(20):
            call()
        repeats.append(max(10, int(0.002 / ((time.perf_counter() - started) / 20))))
    best = [float("inf")] * len(calls)
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        for i, (call, count) in enumerate(zip(calls, repeats, strict=True)):
            synchronize()
            started = time.perf_counter()
            for _ in range(count):
                call()
            best[i] = min(best[i], (time.perf_counter() - started) / count * 1e6)
    return best


def _why_not(input: Tensor) -> None:
    """Nothing speaks against the kernels; a function, because a mock takes ten microseconds a call."""


@contextmanager
def pretended_gpu() -> Iterator[deque[tuple[Any, ...]]]:
    """The whole Triton path on CPU tensors, but with a driver that launches nothing.

    What the last kernels would have been launched with is in what is returned: grid, stream, handles, arguments.
    """
    from sdn_triton.aot.compile import OfflineDriver, active_driver
    from sdn_triton.launch import run

    class IdleDriver(OfflineDriver):
        """Takes any binary and any launch, and does nothing."""

        class utils:  # noqa: N801  # triton's name
            @staticmethod
            def load_binary(*_: Any) -> tuple[int, int, int, int, int]:
                return 0, 1, 1, 0, 1024

            @staticmethod
            def get_device_properties(device: int) -> dict[str, int]:
                return {"max_shared_mem": PRETENDED.shared_bytes, "multiprocessor_count": PRETENDED.multiprocessors}

        def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
            return lambda *launch: launches.append(launch)

    launches.clear()
    with (
        active_driver(IdleDriver(PRETENDED)),
        mock.patch.object(backend, "why_no_device", _why_not),
        mock.patch.object(run, "INTERPRETER", PRETENDED),  # what tensors that are not on a GPU are taken for
    ):
        yield launches


def triton_calls() -> dict[str, Pair]:
    """The calls on the Triton path; the convolution beside them has no images."""
    ours = calls_of(CPU, SIZES["gpu"], torch.float16, "triton")
    return {name: (conv, ours[name][1]) for name, (conv, _) in calls_of(CPU, SIZES["no images"]).items()}


def measure(work: str, calls: Mapping[str, Pair], device: torch.device, seconds: float) -> list[Figure]:
    """A figure for each pair of calls."""
    figures = []
    for name, pair in calls.items():
        conv2d, ours = fastest(pair, device, seconds)
        figures.append(Figure(work, name, conv2d, ours))
        print(f"{work:12}{name:28}{conv2d:10.1f}{ours:10.1f}{figures[-1].ratio:8.2f}", flush=True)
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """Time everything that can run here, print a line each and write the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m sdn_triton.bench.experiments.host_cost", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--json", type=arguments.writable_file, metavar="FILE", help="write the figures to this file")
    parser.add_argument(
        "--seconds", type=arguments.seconds, default=2.0, help="time for a pair of calls (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(f"{'work':12}{'call':28}{'conv2d us':>10}{'ours us':>10}{'ratio':>8}")
    figures: list[Figure] = []
    for work in ("meta", "no images", "one pixel"):
        device = torch.device("meta") if work == "meta" else CPU
        figures += measure(work, calls_of(device, SIZES[work]), device, args.seconds)
    if package_version("triton") and not backend.is_interpreted():
        with pretended_gpu():
            figures += measure("triton", triton_calls(), CPU, args.seconds)
    else:
        print("triton: left out, it is not installed or interprets in this process")
    device = CPU
    if torch.cuda.is_available():
        device = torch.device("cuda")
        figures += measure("gpu", calls_of(device, SIZES["gpu"], torch.float16), device, args.seconds)
    if args.json:
        content = {
            "command": "python -m sdn_triton.bench.experiments.host_cost",
            **fingerprint(device),
            "microseconds": [{**asdict(figure), "ratio": figure.ratio} for figure in figures],
        }
        return int(args.json != save(args.json, content))
    return 0


if __name__ == "__main__":
    sys.exit(guarded("python -m sdn_triton.bench.experiments.host_cost", main))
