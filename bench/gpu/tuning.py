"""The three paired kernels tuned, and what won held against the heuristic once more.

``python -m sdn_triton.bench.gpu.tuning``.

Each kernel gets its share of the time. Winner, runner-up and heuristic are then timed again, all in turns, in the entry
``again`` of the table: what was the fastest of many by chance is not the fastest twice.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sdn_triton.launch.run import target_of
from sdn_triton.tuning.configs import Target, config_from_json
from sdn_triton.tuning.shapes import LayerShape

from .. import arguments
from ..measuring.rounds import interleave
from ..tuner.trials import Trial, Unit, precision_of, units_of
from ..tuner.tuner import FINAL_ROUNDS, Tuner, label
from .plan import TUNED

SHAPE = LayerShape(op="difference", n=1, c=256, h=128, w=128, dtype="bf16", layout="channels_last")
"""The layer of a pyramid with 256 channels."""
AGAIN = 0.15
"""The share of the time that the last comparison takes."""


def units(shape: LayerShape, target: Target, without: Sequence[str] = ()) -> list[Unit]:
    """What is tuned: the paired kernels of a layer, but for those that are named."""
    return [unit for unit in units_of([shape], target) if unit.kernel in TUNED and unit.kernel not in without]


def finalists(entry: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Winner, runner-up and heuristic of an entry, those that there are and each configuration once."""
    rows = {"winner": entry, "runner_up": entry.get("runner_up"), "heuristic": entry.get("heuristic")}
    configs: dict[str, Mapping[str, Any]] = {}
    for name, row in rows.items():
        if row is not None and label(row["config"]) not in map(label, configs.values()):
            configs[name] = row["config"]
    return configs


def once_more(unit: Unit, entry: Mapping[str, Any], device: torch.device, seconds: float) -> dict[str, Any]:
    """Microseconds of the finalists, timed in turns, with the interval that holds the true median at 95 %."""
    with precision_of(unit.shape):
        trial = Trial(unit, device)
        calls = {name: trial.call(config_from_json(config, name)) for name, config in finalists(entry).items()}
        times = interleave(calls, device, seconds, FINAL_ROUNDS)
    return {
        name: {"microseconds": timing.median * 1e6, "interval": [limit * 1e6 for limit in timing.interval]}
        for name, timing in times.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Tune, then compare once more; what the table has already is gone on with."""
    parser = argparse.ArgumentParser(
        prog="python -m sdn_triton.bench.gpu.tuning", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--table", type=arguments.writable_file, required=True, metavar="FILE")
    parser.add_argument("--seconds", type=arguments.seconds, required=True)
    parser.add_argument("--device", type=arguments.device, default="cuda", help="default: cuda")
    parser.add_argument("--shape", type=LayerShape.parse, default=SHAPE, help=f"default: {SHAPE}")
    parser.add_argument("--without", action="append", default=[], choices=TUNED, help="leave this kernel out")
    args = parser.parse_args(argv)
    target = target_of(args.device)
    todo = units(args.shape, target, args.without)
    tuner = Tuner(args.table, args.device, target, args.seconds, doing=print)
    again = AGAIN * args.seconds
    for number, unit in enumerate(todo):
        if not tuner.is_complete(unit):
            tuner.run(unit, (tuner.left - again) / (len(todo) - number))
    for number, unit in enumerate(todo):
        entry = tuner.entry(unit)
        if entry is not None and entry.get("verified"):
            share = max(tuner.left, 1.0) / (len(todo) - number)
            entry["again"] = once_more(unit, entry, args.device, share)
            tuner.save(entry)
            print(f"{unit.title}: {entry['again']}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
