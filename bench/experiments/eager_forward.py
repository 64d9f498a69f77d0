"""The eager path on a CPU beside every other way to its result.

``python -m sdn_triton.bench.experiments.eager_forward``.

Float32, 3x3, images in two layouts, with autograd around them as in a network: the time of the forward, and of forward
and backward (gradients of input, guidance and weight; of input and weight for ``conv2d``), against ``conv2d``,
unfolding and, for some shapes, the plain formula under ``torch.compile``; and the memory that the forward takes beyond
its inputs and its output. Everybody's results are held against float64 before anything is timed, which takes longer.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdn_triton import semantic_difference_conv2d
from sdn_triton.streams import guarded

from .. import arguments
from ..measuring.environment import cpp_compiler, fingerprint
from ..measuring.intervals import median_interval, ratio_samples
from ..measuring.rounds import Timing, interleave, peak_memory
from ..measuring.saving import save
from ..problems.plain import DifferenceFunction, reference_difference
from ..problems.providers import COMPILE_OPTIONS, composite, convolution, unfold

CPU = torch.device("cpu")
TOLERANCE = 1e-4
"""The largest error allowed, as a share of the largest magnitude: float32 sums of up to 20,000 terms."""
UNFOLDED_NUMBERS = 2**21
"""Larger inputs are not unfolded: it takes gigabytes and, where it was tried, ten times as long."""
ROUNDS = 5, 301
OURS, FLOOR = "eager", "conv2d"

Results = tuple[Tensor, ...]


class Shape(NamedTuple):
    batch: int
    channels: int
    size: int
    layout: str

    def __str__(self) -> str:
        return f"{self.batch}x{self.channels}x{self.size}x{self.size} {self.layout}"

    @property
    def numbers(self) -> int:
        return self.batch * self.channels * self.size**2


SHAPES = [
    Shape(batch, channels, size, layout)
    for channels in (32, 64, 128, 160, 256)
    for size in (8, 16, 32, 64, 128)
    for batch in (1, 4)
    for layout in ("contiguous", "channels_last")
]
COMPILED = {
    Shape(1, channels, size, layout)
    for channels, size in ((32, 8), (64, 16), (256, 16), (128, 32), (160, 32), (64, 64))
    for layout in ("contiguous", "channels_last")
}
"""The shapes with ``torch.compile``, which takes half a minute each."""
QUICK = [Shape(1, 64, 64, layout) for layout in ("contiguous", "channels_last")]


class Problem:
    """Input, guidance, weight and output gradient of one shape; the weight in the layout of the images."""

    def __init__(self, shape: Shape) -> None:
        generator = torch.Generator().manual_seed(1)
        N, C, S, layout = shape
        memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format

        def image(*size: int) -> Tensor:
            return torch.randn(size, generator=generator).contiguous(memory_format=memory_format)

        self.input, self.guidance, self.grad = (image(N, C, S, S) for _ in range(3))
        self.weight = image(C, C, 3, 3) / (9 * C) ** 0.5

    def differentiate(self, function: DifferenceFunction, dtype: torch.dtype = torch.float32) -> Results:
        """Output and gradients by autograd."""
        u, v, weight = (x.detach().to(dtype).requires_grad_() for x in (self.input, self.guidance, self.weight))
        output = function(u, v, weight, None)
        gradients = torch.autograd.grad(output, (u, v, weight), self.grad.to(dtype), allow_unused=True)
        return output.detach(), *(g for g in gradients if g is not None)

    def compute(self, function: DifferenceFunction) -> Results:
        """The output alone."""
        with torch.no_grad():
            return (function(self.input, self.guidance, self.weight, None),)


def eager(input: Tensor, guidance: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The library's call."""
    return semantic_difference_conv2d(input, guidance, weight, bias, padding=1, backend="eager")


EXACT: dict[str, DifferenceFunction] = {FLOOR: convolution, OURS: reference_difference}
"""What is computed in float64 to hold results against: the convolution's own, and everybody else's."""


def providers(shape: Shape) -> dict[str, Callable[[], DifferenceFunction]]:
    """What is timed, each made anew for the forward and for both: one compiled function is for one of them."""
    makers: dict[str, Callable[[], DifferenceFunction]] = {FLOOR: lambda: convolution, OURS: lambda: eager}
    if shape.numbers <= UNFOLDED_NUMBERS:
        makers["unfold"] = lambda: unfold
    if shape in COMPILED and cpp_compiler() is not None:
        torch.compiler.reset()
        makers["compile"] = lambda: torch.compile(composite, dynamic=False, options=COMPILE_OPTIONS)
    return makers


class Pair(NamedTuple):
    """Ours and another way, timed in turns with nobody else: each begins with what the other left in the caches."""

    ours: Timing
    other: Timing

    def describe(self) -> dict[str, Any]:
        """Ours over the other: the median of the rounds' own ratios, and where it lies at 95 %."""
        ratios = ratio_samples(self.ours.samples, self.other.samples)
        return {
            "median": statistics.median(ratios),
            "interval": list(median_interval(ratios)),
            "rounds": len(ratios),
            "milliseconds": {
                name: {"median": timing.median * 1e3, "quartiles": [q * 1e3 for q in timing.quartiles]}
                for name, timing in self._asdict().items()
            },
        }


def check(shape: Shape) -> dict[str, float]:
    """The largest error of everybody's results; a wrong one is an error."""
    problem = Problem(shape)
    expected = {name: problem.differentiate(f, torch.float64) for name, f in EXACT.items()}
    errors = {}
    for name, make in providers(shape).items():
        exact = expected[FLOOR if name == FLOOR else OURS]
        results = problem.differentiate(make()), problem.compute(make())
        errors[name] = max(largest_error(results[0], exact), largest_error(results[1], exact[:1]))
        if not errors[name] <= TOLERANCE:
            raise RuntimeError(f"{shape}: {name} is wrong, error {errors[name]:.1e}, allowed {TOLERANCE:.1e}")
    return errors


def run(shape: Shape, seconds: float) -> dict[str, Any]:
    """Time one shape, a third of the time for the forward."""
    problem = Problem(shape)
    makers = providers(shape)
    forward, both = ({name: make() for name, make in makers.items()} for _ in range(2))
    ratios = {}
    beside_ours = [name for name in makers if name != OURS]
    for step, call, functions, share in (
        ("forward", problem.compute, forward, 1 / 3),
        ("both", problem.differentiate, both, 2 / 3),
    ):
        for name in beside_ours:
            calls = {which: partial(call, functions[which]) for which in (OURS, name)}
            timings = interleave(calls, CPU, seconds * share / len(beside_ours), ROUNDS)
            ratios[f"{step} / {name}"] = Pair(timings[OURS], timings[name]).describe()
    return {
        "shape": shape._asdict(),
        "ratios": ratios,
        "extra_memory_bytes": peak_memory(partial(problem.compute, eager), CPU) - problem.input.nbytes,
        "output_bytes": problem.input.nbytes,
    }


def largest_error(results: Results, exact: Results) -> float:
    """The largest difference of any of the results, as a share of its largest magnitude; NaN is infinite."""
    errors = [((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(results, exact, strict=True)]
    return max(float("inf") if error != error else error for error in errors)


def misses(results: Sequence[dict[str, Any]]) -> list[str]:
    """The cases in which another way to the same result is faster beyond the noise of its rounds."""
    return [
        f"{Shape(**row['shape'])}: {name} {ratio['median']:.2f}"
        for row in results
        for name, ratio in row["ratios"].items()
        if not name.endswith(FLOOR) and ratio["interval"][0] > 1
    ]


def medians(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The medians over all shapes of ours over the convolution."""
    names = (f"{step} / {FLOOR}" for step in ("forward", "both"))
    return {name: statistics.median(row["ratios"][name]["median"] for row in results) for name in names}


def line(row: dict[str, Any]) -> str:
    """One shape's figures."""
    cells = [f"{Shape(**row['shape'])!s:30}"]
    ratios = row["ratios"]
    for step in ("forward", "both"):
        cells.append(f"{ratios[f'{step} / {FLOOR}']['milliseconds']['ours']['median']:9.3f} ms")
        for name in (FLOOR, "unfold", "compile"):
            ratio = ratios.get(f"{step} / {name}")
            cells.append(f"{'-' if ratio is None else format(ratio['median'], '.2f'):>8}")
    cells.append(f"{row['extra_memory_bytes'] / 2**20:7.1f}")
    return "".join(cells)


def main(argv: Sequence[str] | None = None) -> int:
    """Run all shapes, print a line each and write the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m sdn_triton.bench.experiments.eager_forward", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--json", type=arguments.writable_file, metavar="FILE", help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="two shapes, in a few seconds")
    parser.add_argument(
        "--seconds", type=arguments.seconds, default=4.0, help="time for a shape (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    environment = fingerprint(CPU)
    device = environment["device"]
    print(
        f"{device['name']}, {device['threads']} threads, {torch.backends.cpu.get_cpu_capability()}, "
        f"torch {environment['torch']}, git {environment['git']['revision']}"
    )
    print("ours over each other way, forward and then forward + backward; extra memory of the forward in MiB")
    columns = "".join(f"{name:>{12 if name == 'ours' else 8}}" for name in ("ours", FLOOR, "unfold", "compile") * 2)
    shapes = QUICK if args.quick else SHAPES
    errors = [check(shape) for shape in shapes]
    print(f"all results are within {max(max(of_shape.values()) for of_shape in errors):.1e} of float64")
    print(f"{'shape':30}{columns}{'MiB':>7}", flush=True)
    results = []
    for shape, of_shape in zip(shapes, errors, strict=True):
        results.append({**run(shape, 2.0 if args.quick else args.seconds), "errors": of_shape})
        print(line(results[-1]), flush=True)
    missed, over = misses(results), medians(results)
    print(f"medians over conv2d: forward {over[f'forward / {FLOOR}']:.2f}, both {over[f'both / {FLOOR}']:.2f}")
    print("\n".join(("slower than another way to the same result:", *missed)) if missed else "nothing is faster")
    if args.json:
        content = {
            "command": "python -m sdn_triton.bench.experiments.eager_forward",
            "seconds": 2.0 if args.quick else args.seconds,
            "capability": torch.backends.cpu.get_cpu_capability(),
            **environment,
            "shapes": results,
            "medians": over,
            "misses": missed,
        }
        return int(args.json != save(args.json, content))
    return 0


if __name__ == "__main__":
    sys.exit(guarded("python -m sdn_triton.bench.experiments.eager_forward", main))
