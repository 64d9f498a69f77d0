"""Predictions beside what a benchmark measured.

``python -m sdn_triton.bench.gpu.predicted BENCH.json``.

The predictions are those that ``predictions.py`` wrote down before anything was measured. A case is
predicted in milliseconds at the datasheet's clock and rates, and in times of what the plain convolution would take if
the tensor cores never waited. No convolution reaches that: where both figures of a case are off by the same factor the
device is slower than its datasheet, and where only the second one is off it is the convolution.

Imports neither torch nor triton.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import RESULTS
from ..measuring.intervals import Interval, median_interval
from ..runs.saved_runs import Run, RunFileError, read_run
from ..runs.verdicts import relative
from ..terminal import Report, Table, milliseconds, ratio

FOLDER = RESULTS / "predictions"
OURS, FLOOR = "triton", "conv2d"


class Prediction(NamedTuple):
    """What one case was predicted to take. ``whole_waves`` has every wave of programs take as long as a full one."""

    id: str
    ms: float
    range_ms: Interval
    whole_waves_ms: float
    ratio: float
    range_ratio: Interval


class Row(NamedTuple):
    """A predicted case, and what was measured: the kernels' own time, and that in times of the convolution's."""

    predicted: Prediction
    ms: float
    interval_ms: Interval
    ratio: float
    interval_ratio: Interval

    @property
    def verdict(self) -> str:
        """Whether the measured time lies in the predicted range, and how far from the prediction it is."""
        low, high = self.predicted.range_ms.low, max(self.predicted.range_ms.high, self.predicted.whole_waves_ms)
        place = "above" if self.interval_ms.low > high else "below" if self.interval_ms.high < low else "inside"
        return f"{place}, {self.ms / self.predicted.ms:.2f} of it"

    def describe(self) -> dict[str, Any]:
        """The facts for a JSON file."""
        return {**self.predicted._asdict(), "measured": self._asdict() | {"predicted": None}, "verdict": self.verdict}


def newest(folder: Path = FOLDER) -> Path | None:
    """The file of the latest date; None if there is none."""
    return max(folder.glob("*.json"), default=None)


def by_case(content: Mapping[str, Any], triton: str | None) -> dict[str, Prediction]:
    """The predictions for the machine code of this version of triton, by the id of the case."""
    versions = [version for version in content["versions"] if version["triton"] == triton]
    return {row["id"]: _prediction(row) for version in versions for row in version["predictions"]}


def _prediction(row: Mapping[str, Any]) -> Prediction:
    ranges = Interval(*row["range_ms"]), Interval(*row["range_ratio"])
    return Prediction(row["id"], row["ms"], ranges[0], row["whole_waves_ms"], row["ratio"], ranges[1])


def compared(predictions: Mapping[str, Prediction], bench: Run) -> Iterator[Row]:
    """Every case that was both predicted and measured, in the order of the benchmark."""
    for case in bench.cases:
        timed = {result.provider: result for result in case.timed()}
        if case.id in predictions and {OURS, FLOOR} <= timed.keys():
            ours = timed[OURS]
            times = median_interval(ours.samples)
            yield Row(predictions[case.id], ours.median, times, *relative(bench, ours, timed[FLOOR]))


def table_of(rows: Sequence[Row]) -> Table:
    """Predicted and measured side by side."""
    columns = ("case", "ms\npredicted", "\nmeasured", "times conv2d\npredicted", "\nmeasured", "95 %", "measured is")
    table = Table("Predicted from machine code, and measured", columns)
    for row in rows:
        low, high = row.interval_ratio
        times = milliseconds(row.predicted.ms / 1e3), milliseconds(row.ms / 1e3)
        ratios = ratio(row.predicted.ratio), ratio(row.ratio), f"{low:.2f}-{high:.2f}"
        table.add([row.predicted.id, *times, *ratios, row.verdict])
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Show and write the rows; 1 if there is none."""
    from .. import arguments
    from ..measuring.saving import save

    parser = argparse.ArgumentParser(
        prog="python -m sdn_triton.bench.gpu.predicted", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("bench", type=arguments.existing_file)
    default = newest()
    parser.add_argument("--predictions", type=arguments.existing_file, default=default, help=f"default: {default}")
    parser.add_argument("--json", type=arguments.writable_file, metavar="FILE")
    args = parser.parse_args(argv)
    if args.predictions is None:
        parser.error(f"--predictions: {FOLDER} has none; `python -m sdn_triton.bench.gpu.predictions` makes them")
    try:
        bench = read_run(args.bench)
    except RunFileError as error:
        parser.error(str(error))
    triton = bench.environment["triton"]
    rows = list(compared(by_case(json.loads(args.predictions.read_text()), triton), bench))
    if rows:
        Report(0).show(table_of(rows))
    else:
        print(f"no case of {args.bench} was predicted for the machine code of triton {triton}")
    went_elsewhere = args.json is not None and args.json != save(args.json, [row.describe() for row in rows])
    return int(not rows or went_elsewhere)


if __name__ == "__main__":
    from sdn_triton.streams import guarded  # brings torch, which bench.gpu begins without

    sys.exit(guarded("python -m sdn_triton.bench.gpu.predicted", main))
