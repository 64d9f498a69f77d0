"""``python -m bench.eager_forward``: the eager path on a CPU beside conv2d and the unfold formulation.

C = O in {64, 128, 256}, 64x64 and 128x128, 3x3, padding 1, float32: forward, forward + backward (gradients of input,
guidance and weight) and the peak memory beyond the output. Results are checked against float64 before they are timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sdn_triton import semantic_difference_conv2d

from .environment import fingerprint, write_json
from .measure import interleave, peak_memory
from .plain import reference_difference
from .providers import unfold

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
LARGEST_ERROR = 1e-5
"""Of a float32 result, relative to the largest value."""

Forward = Callable[[Tensor, Tensor, Tensor], Tensor]
FORWARDS: dict[str, Forward] = {
    "conv2d": lambda u, v, weight: F.conv2d(u, weight, padding=1),
    "eager": lambda u, v, weight: semantic_difference_conv2d(u, v, weight, padding=1, backend="eager"),
    "unfold": lambda u, v, weight: unfold(u, v, weight, None),
}


def measure(channels: int, size: int, layout: str, seconds: float) -> dict[str, Any]:
    """All figures of one shape, after a check of the results."""
    device = torch.device("cpu")
    generator = torch.Generator().manual_seed(0)
    u, v, grad = (
        torch.randn(1, channels, size, size, generator=generator).contiguous(memory_format=LAYOUTS[layout])
        for _ in range(3)
    )
    weight = torch.randn(channels, channels, 3, 3, generator=generator) / (3 * channels**0.5)
    leaves = [x.requires_grad_() for x in (u, v, weight)]

    exact = reference_difference(u.detach().double(), v.detach().double(), weight.detach().double(), None)
    for name in ("eager", "unfold"):
        error = ((FORWARDS[name](*leaves).double() - exact).abs().max() / exact.abs().max()).item()
        if not error <= LARGEST_ERROR:
            raise SystemExit(f"{name} is wrong at C={channels}, {size}x{size}: error {error:.1e}")

    def forward(name: str) -> Callable[[], object]:
        @torch.no_grad()
        def call() -> Tensor:
            return FORWARDS[name](*leaves)

        return call

    def both(name: str) -> Callable[[], object]:
        needed = [u, weight] if name == "conv2d" else leaves
        return lambda: torch.autograd.grad(FORWARDS[name](*leaves), needed, grad)

    forwards = interleave({name: forward(name) for name in FORWARDS}, device, seconds)
    boths = interleave({name: both(name) for name in FORWARDS}, device, seconds)
    floor, floor_both = forwards["conv2d"].median, boths["conv2d"].median
    output = exact.numel() * 4
    return {
        "channels": channels,
        "size": [size, size],
        "memory_format": layout,
        "forward": {name: timing.describe() for name, timing in forwards.items()},
        "forward_backward": {name: timing.describe() for name, timing in boths.items()},
        "forward_over_conv2d": forwards["eager"].median / floor,
        "forward_backward_over_conv2d": boths["eager"].median / floor_both,
        "unfold_over_forward": forwards["unfold"].median / forwards["eager"].median,
        "extra_memory_over_output": (peak_memory(forward("eager"), device) - output) / output,
    }


def main() -> None:
    """Print a line a shape, and write all figures if asked."""
    parser = argparse.ArgumentParser(prog="python -m bench.eager_forward", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write environment and all figures")
    parser.add_argument("--quick", action="store_true", help="contiguous only, a fifth of the time")
    args = parser.parse_args()
    layouts = ["contiguous"] if args.quick else list(LAYOUTS)
    print(f"{'shape':26}  fwd/conv2d  unfold/fwd  extra memory/output  fwd+bwd/conv2d")
    rows = []
    for layout, channels, size in product(layouts, (64, 128, 256), (64, 128)):
        row = measure(channels, size, layout, seconds=0.5 if args.quick else 2.5)
        rows.append(row)
        name = f"{channels}x{size}x{size} {layout}"
        print(
            f"{name:26}  {row['forward_over_conv2d']:10.2f}  {row['unfold_over_forward']:10.2f}  "
            f"{row['extra_memory_over_output']:19.2f}  {row['forward_backward_over_conv2d']:14.2f}",
            flush=True,
        )
    if args.json is not None:
        write_json(args.json, {"environment": fingerprint(torch.device("cpu")), "rows": rows})


if __name__ == "__main__":
    main()
