"""The eager path on a CPU against ``conv2d`` and the unfold formulation: ``python -m bench.eager_forward``.

For each shape, in float32 with a 3x3 kernel: the time of the forward, and of forward and backward (gradients of input,
guidance and weight; of input and weight for ``conv2d``), and the memory that the forward takes beyond its inputs and
its output. Every provider's results are held against float64 before anything is timed. The eager path's own functions
are called, without autograd around them.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdn_triton.eager import difference_conv
from sdn_triton.options import DifferenceNeeds, DifferenceOptions

from .environment import fingerprint, write_json
from .measure import Timing, interleave, peak_memory
from .plain import DifferenceFunction, reference_difference
from .providers import convolution, unfold

CPU = torch.device("cpu")
OPTIONS = DifferenceOptions((3, 3), padding=(1, 1))
NEEDS = DifferenceNeeds(input=True, guidance=True, weight=True, bias=False, contrast=False)
TOLERANCE = 1e-4
"""The largest error allowed, as a share of the largest magnitude: float32 sums of up to 20,000 terms."""

Results = tuple[Tensor, ...]


class Shape(NamedTuple):
    channels: int
    height: int
    width: int
    layout: str

    def __str__(self) -> str:
        return f"C{self.channels} {self.height}x{self.width} {self.layout}"


SHAPES = [
    Shape(channels, size, size, layout)
    for channels in (64, 128, 256)
    for size in (64, 128)
    for layout in ("contiguous", "channels_last")
]
QUICK = [shape for shape in SHAPES if shape.channels == 64 and shape.height == 64]


class Problem:
    """Input, guidance, weight and output gradient of one shape."""

    def __init__(self, shape: Shape) -> None:
        generator = torch.Generator().manual_seed(1)
        C, H, W, layout = shape
        memory_format = getattr(torch, f"{layout}_format" if layout == "contiguous" else layout)

        def image() -> Tensor:
            return torch.randn(1, C, H, W, generator=generator).contiguous(memory_format=memory_format)

        self.input, self.guidance, self.grad = image(), image(), image()
        self.weight = torch.randn(C, C, 3, 3, generator=generator) / (9 * C) ** 0.5

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

    def eager_forward(self) -> Results:
        return (difference_conv.forward(self.input, self.guidance, self.weight, None, 1.0, OPTIONS),)

    def eager_both(self) -> Results:
        gradients = difference_conv.backward(self.grad, self.input, self.guidance, self.weight, 1.0, OPTIONS, NEEDS)
        return *self.eager_forward(), *(g for g in gradients if g is not None)

    def forwards(self) -> dict[str, Callable[[], Results]]:
        """What is timed as the forward."""
        return {
            "conv2d": partial(self.compute, convolution),
            "eager": self.eager_forward,
            "unfold": partial(self.compute, unfold),
        }

    def both(self) -> dict[str, Callable[[], Results]]:
        """What is timed as forward and backward."""
        return {
            "conv2d": partial(self.differentiate, convolution),
            "eager": self.eager_both,
            "unfold": partial(self.differentiate, unfold),
        }


@dataclass(frozen=True)
class Figures:
    """What one shape gave."""

    shape: Shape
    forward: dict[str, Timing]
    both: dict[str, Timing]
    extra: dict[str, float]
    """Peak memory of the forward beyond inputs and output, in sizes of the output."""
    errors: dict[str, float]
    """The largest error of output and gradients against float64, as a share of the largest magnitude."""

    def ratio(self, timings: dict[str, Timing], over: str, under: str) -> float:
        """The median of the rounds' own ratios: what slows one round down slows both."""
        pairs = zip(timings[over].samples, timings[under].samples, strict=True)
        return statistics.median(a / b for a, b in pairs)

    def describe(self) -> dict[str, Any]:
        """For the JSON file."""
        return {
            "shape": self.shape._asdict(),
            "forward": {name: timing.describe() for name, timing in self.forward.items()},
            "forward_backward": {name: timing.describe() for name, timing in self.both.items()},
            "eager_over_conv2d": self.ratio(self.forward, "eager", "conv2d"),
            "unfold_over_eager": self.ratio(self.forward, "unfold", "eager"),
            "eager_over_conv2d_forward_backward": self.ratio(self.both, "eager", "conv2d"),
            "unfold_over_eager_forward_backward": self.ratio(self.both, "unfold", "eager"),
            "extra_memory_over_output": self.extra,
            "errors": self.errors,
        }


def run(shape: Shape, seconds: float) -> Figures:
    """Check, then time one shape; a wrong result is an error."""
    problem = Problem(shape)
    exact = {
        "conv2d": problem.differentiate(convolution, torch.float64),
        "eager": problem.differentiate(reference_difference, torch.float64),
    }
    exact["unfold"] = exact["eager"]
    errors = {name: largest_error(call(), exact[name]) for name, call in problem.both().items()}
    for name, error in errors.items():
        if not error <= TOLERANCE:
            raise RuntimeError(f"{shape}: {name} is wrong, error {error:.1e}, allowed {TOLERANCE:.1e}")
    output = problem.input.nbytes
    return Figures(
        shape,
        forward=interleave(problem.forwards(), CPU, seconds / 2, (5, 101)),
        both=interleave(problem.both(), CPU, seconds / 2, (5, 101)),
        extra={name: peak_memory(call, CPU) / output - 1 for name, call in problem.forwards().items()},
        errors=errors,
    )


def largest_error(found: Results, exact: Results) -> float:
    """The largest difference of any of the results, as a share of its largest magnitude; NaN is infinite."""
    errors = [((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(found, exact, strict=True)]
    return max(float("inf") if error != error else error for error in errors)


HEADER = (
    f"{'':26}{'forward [ms], median (quartiles)':^66}  {'ratio':^13}  {'forward + backward [ms]':^24}  {'ratio':^13} "
    f"{'extra':>6}\n"
    f"{'shape':26}{'conv2d':^22}{'eager':^22}{'unfold':^22}  {'/conv2d':>7}{'unf/':>6}  "
    f"{'conv2d':>8}{'eager':>8}{'unfold':>8}  {'/conv2d':>7}{'unf/':>6} {'memory':>6}"
)


def line(figures: Figures) -> str:
    """One shape's figures."""

    def full(timing: Timing) -> str:
        lower, upper = (quartile * 1e3 for quartile in timing.quartiles)
        return f"{timing.median * 1e3:8.2f} ({lower:.2f}-{upper:.2f})".ljust(22)

    forward = "".join(full(timing) for timing in figures.forward.values())
    both = "".join(f"{timing.median * 1e3:8.2f}" for timing in figures.both.values())
    return (
        f"{figures.shape!s:26}{forward}  {figures.ratio(figures.forward, 'eager', 'conv2d'):6.2f}x"
        f"{figures.ratio(figures.forward, 'unfold', 'eager'):5.1f}x  {both}  "
        f"{figures.ratio(figures.both, 'eager', 'conv2d'):6.2f}x{figures.ratio(figures.both, 'unfold', 'eager'):5.1f}x "
        f"{figures.extra['eager']:5.2f}x"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all shapes, print a line each and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.eager_forward", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="one shape, in a few seconds")
    parser.add_argument("--seconds", type=float, default=12.0, help="time for a shape (default: %(default)s)")
    args = parser.parse_args(arguments)
    found = fingerprint(CPU)
    device = found["device"]
    print(f"{device['name']}, {device['threads']} threads, torch {found['torch']}, git {found['git']['revision']}")
    print(
        "/conv2d: eager over conv2d; unf/: unfold over eager; extra memory: of eager's forward, in sizes of its output"
    )
    print(HEADER, flush=True)
    results = []
    for shape in QUICK if args.quick else SHAPES:
        results.append(run(shape, 2.0 if args.quick else args.seconds))
        print(line(results[-1]), flush=True)
    if args.json:
        write_json(args.json, {"command": "bench.eager_forward", **found, "shapes": [r.describe() for r in results]})


if __name__ == "__main__":
    main()
