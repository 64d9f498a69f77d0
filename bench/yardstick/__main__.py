"""What every pass of a 3x3 layer should cost here, and by other ways. Needs no GPU.

``python -m sdn_triton.bench.yardstick``.

For devices, dtypes, layouts and channels the launches of every pass are recorded as a device would get them, kernels
are compiled for it, and their machine code is simulated or bounded (``machine_code/prediction.py``); their times add
up. Beside them stand the times of other ways to the same result (``other_ways.py``). Some four CPU minutes with every
cache empty. A training step is the sum of its passes, less the copies of images that both gradients read. Nothing is
measured. What does not grow with the pixels is left out: launches and, where operators are not counted, weights and
their partial sums.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from itertools import product
from typing import Any

import torch
from torch import Tensor

from sdn_triton.aot.compile import TARGETS
from sdn_triton.launch import difference_conv
from sdn_triton.launch.run import Launch, recorded_launches
from sdn_triton.options import DifferenceArguments
from sdn_triton.streams import guarded
from sdn_triton.tuning.precision import convolutions_in
from sdn_triton.tuning.pretended import pretended

from .. import RESULTS, arguments
from ..machine_code.examination import KernelCase, examine
from ..machine_code.kernel_work import COLUMNS, IMAGES, KERNELS, ROWS
from ..measuring.environment import package_version
from ..measuring.revision import git_revision
from ..measuring.saving import save
from .aims import PASSES
from .other_ways import NEEDS, OPTIONS, WAYS, Layer, Operators, Tally, describe, ratio_of

DEFAULT = RESULTS / "machine-code/yardstick.json"
ARCHITECTURES = ("sm_80", "sm_89", "sm_90", "sm_100")
ARITHMETICS = ("bf16", "tf32")
MEMORY_FORMATS = ("channels_last", "contiguous")
CHANNELS = (64, 128, 256)
KEPT = (
    *("ratio", "ratio_is", "bound", "floor_ratio", "clocks_per_element"),
    *("registers", "spill_bytes", "shared_bytes", "blocks_per_sm"),
)
"""What is kept of a kernel's examination."""


def layers() -> list[Layer]:
    """Every layer of the table."""
    return [Layer(*case) for case in product(ARCHITECTURES, ARITHMETICS, MEMORY_FORMATS, CHANNELS)]


def recorded(layer: Layer, pass_: str) -> tuple[list[Launch], list[Tally]]:
    """What a pass launches on the device, and what PyTorch's operators do to images around it."""
    arguments = DifferenceArguments(*layer.tensors(IMAGES, device="meta"), 1.0)
    products = convolutions_in("tf32" if layer.arithmetic == "tf32" else "ieee")
    with (
        pretended(TARGETS[layer.arch]),
        products,
        recorded_launches() as launches,
        Operators(counts=_has_image) as operators,
    ):
        if pass_ == "forward":
            difference_conv.forward(arguments, OPTIONS)
        else:
            difference_conv.backward(arguments, OPTIONS, torch.empty_like(arguments.input), NEEDS[pass_])
    return launches, operators.tallies


def _has_image(tensors: Sequence[Tensor]) -> bool:
    return any(t.ndim == 4 and (t.shape[0], *t.shape[2:]) == (IMAGES, ROWS, COLUMNS) for t in tensors)


def ours(layer: Layer, pass_: str) -> dict[str, Any]:
    """The time of a pass, and of the kernels in it.

    Raises:
        ValueError: a kernel cannot be compiled, understood or trusted.
    """
    launches, tallies = recorded(layer, pass_)
    parts = [*_kernels(layer, launches)]
    if copies := ratio_of(tallies, layer, IMAGES * ROWS * COLUMNS):
        parts.append(_bound_by_memory("copies by PyTorch", copies))
    return {"ratio": sum(part["ratio"] for part in parts), "kernels": parts}


def shared(layer: Layer) -> float:
    """The time of copies that both gradients read, which either makes where it is asked for alone."""
    weight, data, both = (_copies(layer, name) for name in ("weight_gradient", "data_gradient", "backward"))
    return weight + data - both


def _copies(layer: Layer, pass_: str) -> float:
    launches, tallies = recorded(layer, pass_)
    copies = _kernels(layer, [launch for launch in launches if launch.tuned_as not in KERNELS])
    return sum(part["ratio"] for part in copies) + ratio_of(tallies, layer, IMAGES * ROWS * COLUMNS)


def _kernels(layer: Layer, launches: Sequence[Launch]) -> Iterator[dict[str, Any]]:
    """Each kernel once, however many strips it runs over."""
    for name in dict.fromkeys(launch.tuned_as for launch in launches):
        own = [launch for launch in launches if launch.tuned_as == name]
        if name not in KERNELS:
            # One that the instrument does not know reads or writes each of its tensors once.
            tensors = [value for launch in own for value in launch.arguments.values() if isinstance(value, Tensor)]
            moved = Tally(sum(tensor.nbytes for tensor in tensors), 0.0, layer.dtype)
            ratio = ratio_of([moved], layer, IMAGES * ROWS * COLUMNS)
            yield _bound_by_memory(name, ratio)
            continue
        if len({launch.config for launch in own}) > 1:
            raise ValueError(f"{layer}: {name} is launched with several configurations, of which one is examined")
        case = KernelCase(name, layer.arch, layer.arithmetic, layer.channels, layer.channels, layer.memory_format)
        row = examine(case.configured(own[0].config), with_range=False, launch=own[0])
        if row["error"] or row["hazards"] or not row["fits"]:
            raise ValueError(f"{layer}: {name}: {row['error'] or 'its code cannot be trusted, or does not fit'}")
        yield {"kernel": name, **{key: row[key] for key in KEPT}}


def _bound_by_memory(kernel: str, ratio: float) -> dict[str, Any]:
    return {"kernel": kernel, "ratio": ratio, "ratio_is": "bound", "bound": "memory", "floor_ratio": ratio}


def cell(layer: Layer) -> dict[str, Any]:
    """All figures of a layer, in times of the tensor cores' time for the 3x3 convolution's same pass."""
    return {
        "arch": layer.arch,
        "dtype": layer.arithmetic,
        "memory_format": layer.memory_format,
        "channels": layer.channels,
        "ours": {name: ours(layer, name) for name in PASSES},
        "shared": shared(layer),
        "others": {name: way(layer) for name, way in WAYS.items()},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file that the table of docs/benchmarks.md is made from."""
    parser = argparse.ArgumentParser(
        prog="python -m sdn_triton.bench.yardstick", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--json", type=arguments.writable_file, default=DEFAULT, metavar="FILE")
    args = parser.parse_args(argv)
    if os.environ.get("TRITON_INTERPRET", "0") not in ("0", ""):
        parser.error("needs Triton's compiler, but TRITON_INTERPRET is set: unset it")
    cells = []
    for layer in layers():
        print(f"{layer.arch} {layer.arithmetic} {layer.memory_format} {layer.channels}", file=sys.stderr, flush=True)
        cells.append(cell(layer))
    environment = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "triton": package_version("triton"),
        "git": git_revision(),
    }
    written = save(args.json, {"environment": environment, "assumptions": describe(), "cells": cells})
    print(f"Written to {written}; `make report` brings it into docs/benchmarks.md")
    return int(written != args.json)


if __name__ == "__main__":
    sys.exit(guarded("python -m sdn_triton.bench.yardstick", main))
