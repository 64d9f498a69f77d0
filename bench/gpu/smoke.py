"""Is every kernel right on this device? A JSON line each, as they end.

``python -m sdn_triton.bench.gpu.smoke --out FILE.jsonl``.

Every example of ``problems/launches.py`` in each arithmetic that it has, on an odd and an aligned shape, with memory
full of NaN, against float64 and the bounds of ``measuring/contract.py``. On a GPU each family of kernels has a process
of its own, since an illegal access spoils all that a process does afterwards. A wrong result is at once computed by
kernels that are compiled in other ways (``variants.py``). Then comes the question of ``hazard_question.py``. The exit
status is 1 if anything is wrong.

A line: ``family``, ``kernels``, ``arithmetic``, ``shape``, ``size``, ``variant``, ``seconds``, ``shares`` (the error of
each output over the largest that is allowed, null where it is not finite), ``ok`` (null: nothing was found out, or
nothing is claimed) and ``why``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from .. import arguments
from .examples import example_tasks
from .hazard_question import hazard_tasks
from .where import EMULATED, Place
from .workers import Apart, Here, Row, Task

PATIENCE = 90.0
"""Seconds that a task may take on a GPU."""
UNSAID: Row = {"seconds": None, "shares": {}}
"""Of a task that did not come to its end."""
Families = Mapping[str, Sequence[Task]]


def families() -> dict[str, list[Task]]:
    """All tasks, by family."""
    tasks: tuple[Task, ...] = (*example_tasks(), *hazard_tasks())
    by_family: dict[str, list[Task]] = {}
    for task in tasks:
        by_family.setdefault(task.family, []).append(task)
    return by_family


class Smoke:
    """One run: its lines go to a file, each as it comes."""

    def __init__(
        self,
        place: Place,
        out: Path,
        seconds: float = float("inf"),
        *,
        apart: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.place, self.apart, self.clock = place, apart, clock
        self.stop = clock() + seconds
        self.wrong: list[Row] = []
        self._file = out.open("w")
        self._lock = Lock()

    def run(self, families: Families) -> bool:
        """Run all families, side by side if they have processes of their own; whether nothing was wrong."""
        with self._file, ThreadPoolExecutor(os.cpu_count() if self.apart else 1) as pool:
            for finished in [pool.submit(self._run_family, tasks) for tasks in families.values()]:
                finished.result()
        return not self.wrong

    def _run_family(self, tasks: Sequence[Task]) -> None:
        apart = self.apart or any(task.spoils_its_process for task in tasks)
        worker = Apart(self.place) if apart else Here(self.place)
        todo = deque(tasks)
        try:
            while todo:
                task = todo.popleft()
                left = self.stop - self.clock()
                if left <= 0:
                    self._write(task.facts() | {"ok": None, "why": "not reached: the time was up"})
                    continue
                row = worker.run(task, left if self.place.is_emulated else min(left, PATIENCE))
                self._write(row)
                if row["ok"] is False:
                    todo.extendleft(reversed(list(task.variants(self.place))))
        finally:
            worker.close()

    def _write(self, row: Row) -> None:
        """A line into the file, and a shorter one for who looks on."""
        row = {**UNSAID, **row}
        with self._lock:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            if row["ok"] is False:
                self.wrong.append(row)
            print(summary(row), flush=True)


def summary(row: Mapping[str, Any]) -> str:
    """A line in words."""
    verdict = {True: "ok", False: "WRONG", None: "-"}[row["ok"]]
    shares = row["shares"].values()
    worst = "" if not shares or None in shares else f", {max(shares):.2f} of the error allowed"
    why = f": {row['why']}" if row["why"] else ""
    return f"{verdict:5s} {row['family']}, {row['arithmetic']}, {row['shape']}, {row['variant']}{worst}{why}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; 1 if anything is wrong."""
    known = families()
    parser = argparse.ArgumentParser(
        prog="python -m sdn_triton.bench.gpu.smoke", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--out", type=arguments.writable_file, required=True, metavar="FILE", help="the JSON lines; overwritten")
    add("--device", choices=("cuda", *EMULATED), default="cuda", help="an architecture runs in the emulator, on a CPU")
    add("--seconds", type=arguments.seconds, default=float("inf"), help="nothing is begun, nor waited for, after these")
    add("--family", action="append", choices=list(known), metavar="NAME", help=f"of {', '.join(known)}; default: all")
    add("--in-processes", action="store_true", help="a process for each family in the emulator, too")
    args = parser.parse_args(argv)
    place = Place(args.device)
    if obstacle := place.why_not():
        parser.error(f"--device {args.device}: {obstacle}")
    smoke = Smoke(place, args.out, args.seconds, apart=args.in_processes or not place.is_emulated)
    is_right = smoke.run({name: known[name] for name in args.family or known})
    print(f"{len(smoke.wrong)} wrong" if smoke.wrong else "nothing wrong", f"({args.out})")
    return int(not is_right)


if __name__ == "__main__":
    sys.exit(main())
