"""Predictions from machine code beside what a benchmark measured: ``python -m bench.predicted CODE.json BENCH.json``.

The first file is what ``python -m bench.machine_code --json`` wrote, the second a file of ``sdn-triton bench run``.
A prediction is the time of a kernel in times of the tensor cores' for the vanilla convolution, simulated or bounded
(``prediction.py``); the floor is what it would be if all pipes overlapped. What is measured is the time of the Triton
kernels over that of ``conv2d``, in graphs (mode kernel). A convolution reaches no peak rate either, so a measured ratio
below the predicted one says as much about it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import arguments
from .bench_tables import relative, timed
from .environment import write_json
from .intervals import Estimate
from .record import RecordError, read_record
from .report import Report, Table, ratio

KERNELS = {
    "inference": ("difference_forward",),
    "backward": ("difference_data_gradient", "tap_products", "difference_weight_gradient"),
}
"""The kernels of a pass; what they are predicted to take adds up. Those of a backward are held against two products."""
PRODUCTS = {"inference": 1, "backward": 2}
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "ieee"}


class Row(NamedTuple):
    """A case whose kernels were predicted, in times of the vanilla convolution."""

    case: str
    pass_: str
    channels: int
    floor: float
    predicted: float
    measured: Estimate

    def describe(self) -> dict[str, Any]:
        """The facts for the JSON file."""
        return self._asdict() | {"measured": self.measured.median, "measured_interval": list(self.measured.interval)}


def predict(code: Sequence[Mapping[str, Any]], case: Mapping[str, Any]) -> tuple[float, float] | None:
    """Floor and prediction of what the kernels of a case take; None if one of them was not examined."""
    channels = case["stages"][0][0]
    found: dict[str, Mapping[str, Any]] = {}
    for row in code:
        if (row["channels"], row["outputs"]) == (channels, channels) and row.get("error") is None:
            same = row["dtype"] == DTYPES.get(case["dtype"]) and row["memory_format"] == case["memory_format"]
            found |= {row["kernel"]: row} if same else {}
    wanted = set(KERNELS[case["pass"]])
    # Only the kernels of pairs make the products of taps first.
    if "difference_data_gradient" in found and not found["difference_data_gradient"]["config"]["pairs"]:
        wanted.discard("tap_products")
    if not wanted <= found.keys():
        return None
    rows = [found[name] for name in wanted]
    sums = [sum(row[figure] for row in rows) for figure in ("floor_ratio", "ratio")]
    return sums[0] / PRODUCTS[case["pass"]], sums[1] / PRODUCTS[case["pass"]]


def rows_of(code: Sequence[Mapping[str, Any]], content: Mapping[str, Any]) -> list[Row]:
    """Every case of a layer that was both predicted and measured."""
    rows = []
    for case in content["cases"]:
        if (case["kind"], case["mode"]) != ("layer", "kernel") or case["pass"] not in KERNELS:
            continue
        found = predict(code, case)
        if found is not None and {"triton", "conv2d"} <= timed(case).keys():
            measured = relative(case, "triton", "conv2d")
            rows.append(Row(case["id"], case["pass"], case["stages"][0][0], *found, measured))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Show and write the rows; 1 if there is none."""
    parser = argparse.ArgumentParser(prog="python -m bench.predicted", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("code", type=arguments.existing_file)
    parser.add_argument("bench", type=arguments.existing_file)
    parser.add_argument("--json", type=arguments.writable_file, metavar="FILE")
    args = parser.parse_args(argv)
    try:
        rows = rows_of(json.loads(Path(args.code).read_text()), read_record(args.bench))
    except RecordError as error:
        parser.error(str(error))
    table = Table(
        "Time over the vanilla convolution's: predicted from machine code, and measured",
        ("case", "floor", "predicted", "measured", "95 %"),
    )
    for row in rows:
        low, high = row.measured.interval
        table.add(
            [row.case, ratio(row.floor), ratio(row.predicted), ratio(row.measured.median), f"{low:.2f}-{high:.2f}"]
        )
    if rows:
        Report(0).show(table)
    else:
        print("no case of a layer in mode kernel was both predicted and measured")
    if args.json is not None:
        write_json(args.json, [row.describe() for row in rows])
    return int(not rows)


if __name__ == "__main__":
    raise SystemExit(main())
