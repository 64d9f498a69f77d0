"""Predictions for the shapes that ``make gpu`` times, written down before.

``python -m sdn_triton.bench.gpu.predictions``.

Needs no GPU. The launches of every case are recorded as a device would get them, each kernel is compiled for it, and
its machine code simulated or bounded (``machine_code/prediction.py``). The times of a case's kernels add up. A file has
an entry for each version of triton, whose machine code differs; one that is there is frozen and not made anew.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import date, datetime, timezone
from typing import Any

import torch

from sdn_triton.aot.compile import TARGETS
from sdn_triton.launch.run import Launch, recorded_launches
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.pretended import pretended

from .. import arguments
from ..machine_code.examination import KernelCase, examine
from ..machine_code.kernel_work import KERNELS, work_of
from ..machine_code.throughput import MULTIPROCESSORS
from ..measuring.environment import package_version, write_json
from ..measuring.revision import git_revision
from ..problems.cases import DTYPES, FORMATS, BenchCase
from ..problems.checking import Setting
from ..problems.providers import PROVIDERS
from ..problems.suites import SUITES
from .predicted import FOLDER, OURS

ARCHITECTURE = "sm_90"
GIGAHERTZ = 1.83
"""The clock at which 132 of these multiprocessors have the datasheet's rates (``machine_code/throughput.py``)."""
ARITHMETICS = {"bfloat16": "bf16", "float16": "fp16"}
PRODUCTS = {"layer": 9, "block": 11}
"""Products of C x O a pixel of the plain convolution beside it: 3x3, and for a block a 1x1 over twice the channels."""
PASSES = {"inference": 1, "training": 3}
"""How often a pass forms them."""
KEPT = ("registers", "spill_bytes", "shared_bytes", "blocks_per_sm", "hazards", "bound", "ratio_is", "error")
"""What is kept of a kernel's examination, beside its ratios."""


def predictable() -> list[BenchCase]:
    """The cases of the suite that are one layer or block, in the kernels' own time."""
    return [case for case in SUITES["gpu"]() if case.mode == "kernel" and case.workload.kind in PRODUCTS]


def launches_of(case: BenchCase) -> list[Launch]:
    """What a case launches on the device that is predicted for."""
    training = case.pass_ == "training"
    dtype, memory_format = DTYPES[case.dtype], FORMATS[case.memory_format]
    with pretended(TARGETS[ARCHITECTURE]), recorded_launches() as launches, torch.set_grad_enabled(training):
        module = case.workload.module(PROVIDERS[OURS]).train(training)
        module = Setting(torch.device("cpu"), dtype, memory_format).applied_to(module)
        inputs = [
            torch.empty(case.workload.batch, s.channels, s.height, s.width, dtype=dtype)
            .to(memory_format=memory_format)
            .requires_grad_(training)
            for s in 2 * case.workload.stages
        ]
        (output,) = case.workload.call(module, inputs)
        if training:
            output.backward(torch.empty_like(output))
    return launches


class Kernels:
    """The kernels that were examined so far: several cases share them."""

    def __init__(self) -> None:
        self.rows: dict[KernelCase, dict[str, Any]] = {}

    def row(self, subject: KernelCase) -> dict[str, Any]:
        """What examination says of a kernel."""
        if subject not in self.rows:
            print(f"{subject.kernel} {subject.channels} {subject.rows}x{subject.columns}", flush=True)
            row = examine(subject)
            if row["error"] is not None:
                raise ValueError(f"{subject.kernel} with {subject.channels} channels: {row['error']}")
            self.rows[subject] = row
        return self.rows[subject]


def predict(case: BenchCase, kernels: Kernels) -> dict[str, Any]:
    """One case; kernels that nothing is predicted for are named, and count for nothing."""
    launches = launches_of(case)
    names = list(dict.fromkeys(launch.tuned_as for launch in launches))
    floor = middle = low = high = waves = 0.0
    for name in names:
        if name not in KERNELS:
            continue
        own = [launch for launch in launches if launch.tuned_as == name]
        subject = _as_launched(name, case, own[0].config)
        if len({launch.config for launch in own}) > 1:
            raise ValueError(f"{case.id}: {name} is launched with several configurations, of which one is examined")
        row, unit = kernels.row(subject), reference_ms(subject)
        least, most = row["ratio_range"] or (row["ratio"], row["ratio"])
        floor, middle = floor + unit * row["floor_ratio"], middle + unit * row["ratio"]
        low, high = low + unit * least, high + unit * most
        waves += unit * row["ratio"] * whole_waves([math.prod(launch.grid) for launch in own], row["blocks_per_sm"])
    convolution = convolution_ms(case)
    return {
        "id": case.id,
        "kernels": [name for name in names if name in KERNELS],
        "not_predicted": [name for name in names if name not in KERNELS],
        "launches": len(launches),
        "floor_ms": floor,
        "ms": middle,
        "range_ms": [low, high],
        "whole_waves_ms": waves,
        "convolution_ms": convolution,
        "ratio": middle / convolution,
        "range_ratio": [low / convolution, high / convolution],
    }


def _as_launched(kernel: str, case: BenchCase, config: KernelConfig) -> KernelCase:
    """A kernel of a case, to be examined with the configuration that it is launched with."""
    (stage,) = case.workload.stages
    channels, size = stage.channels, (case.workload.batch, stage.height, stage.width)
    arithmetic = ARITHMETICS[case.dtype]
    subject = KernelCase(kernel, ARCHITECTURE, arithmetic, channels, channels, case.memory_format, (), *size)
    return subject.configured(config)


def reference_ms(subject: KernelCase) -> float:
    """The time of the plain operator that a kernel's ratios are over, at the datasheet's rates."""
    device, work = MULTIPROCESSORS[ARCHITECTURE], work_of(subject.kernel, subject.shape, subject.config())
    flop_a_clock = device.tensor[subject.arithmetic]
    clocks = max(work.reference_flop / flop_a_clock, work.reference_memory / device.memory_bytes)
    channels = 2 * subject.channels if subject.kernel.startswith("fusion") else subject.channels  # concatenated
    return _ms(clocks * channels * subject.images * subject.rows * subject.columns)


def convolution_ms(case: BenchCase) -> float:
    """What the plain convolution, and for a block the fusion behind it, takes if the tensor cores never wait."""
    (stage,) = case.workload.stages
    pixels = case.workload.batch * stage.height * stage.width
    flop = 2.0 * PRODUCTS[case.workload.kind] * PASSES[case.pass_] * stage.channels**2 * pixels
    return _ms(flop / MULTIPROCESSORS[ARCHITECTURE].tensor[ARITHMETICS[case.dtype]])


def whole_waves(grids: Sequence[int], blocks_per_sm: int) -> float:
    """How much longer launches take if a wave that leaves multiprocessors idle takes as long as a full one."""
    slots = TARGETS[ARCHITECTURE].multiprocessors * blocks_per_sm
    return sum(math.ceil(grid / slots) for grid in grids) * slots / sum(grids)


def _ms(clocks_of_one_multiprocessor: float) -> float:
    return clocks_of_one_multiprocessor / (TARGETS[ARCHITECTURE].multiprocessors * GIGAHERTZ * 1e6)


def version() -> dict[str, Any]:
    """The entry of the version of triton that is installed."""
    kernels = Kernels()
    predictions = [predict(case, kernels) for case in predictable()]
    examined = list(_described(kernels))
    return {
        "triton": package_version("triton"),
        "ptxas": next(iter(kernels.rows.values()))["assembler"],
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "revision": git_revision()["revision"],
        "architecture": ARCHITECTURE,
        "multiprocessors": TARGETS[ARCHITECTURE].multiprocessors,
        "gigahertz": GIGAHERTZ,
        "predictions": predictions,
        "kernels": examined,
    }


def _described(kernels: Kernels) -> Iterator[dict[str, Any]]:
    for subject, row in kernels.rows.items():
        size = {name: getattr(subject, name) for name in ("channels", "outputs", "images", "rows", "columns")}
        ratios = {"ratio": row["ratio"], "range": row["ratio_range"], "floor": row["floor_ratio"]}
        kept = {name: row[name] for name in KEPT}
        yield {"kernel": subject.kernel, **size, "config": asdict(subject.config()), **ratios, **kept}


def main(argv: Sequence[str] | None = None) -> int:
    """Add the entry of this version of triton to a file."""
    default = FOLDER / f"{date.today().isoformat()}.json"
    parser = argparse.ArgumentParser(
        prog="python -m sdn_triton.bench.gpu.predictions", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--json", type=arguments.writable_file, default=default, metavar="FILE")
    args = parser.parse_args(argv)
    if os.environ.get("TRITON_INTERPRET", "0") not in ("0", ""):
        parser.error("needs Triton's compiler, but TRITON_INTERPRET is set: unset it")
    content = json.loads(args.json.read_text()) if args.json.exists() else {"versions": []}
    installed = package_version("triton")
    if any(entry["triton"] == installed for entry in content["versions"]):
        parser.error(f"{args.json} has the predictions for triton {installed}, which are frozen: name another file")
    content["versions"].append(version())
    content["versions"].sort(key=lambda entry: entry["triton"])
    write_json(args.json, content)
    print(f"Written to {args.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
