"""A benchmark that outlives its own process.

``python -m sdn_triton.bench.gpu.timings --suite gpu --seconds 160 --json FILE``.

Runs ``sdn-triton bench run --resume`` until every case is in the file or time is up. A kernel that reads where it must
not takes the process down, and with it what it had not written: it is begun again, and where that gets no further the
problem it broke at is put down as failed and left out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .. import arguments
from ..measuring.environment import write_json
from ..problems.cases import BenchCase
from ..problems.providers import FLOOR, PROVIDERS
from ..problems.suites import SUITES
from ..runs.record import read_record
from ..runs.runner import row

MARGIN = 6.0
"""Seconds that a benchmark may take to start, and to stop after its budget."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run what fits; the exit status of the last process."""
    parser = argparse.ArgumentParser(
        prog="python -m sdn_triton.bench.gpu.timings", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--suite", choices=list(SUITES), required=True)
    parser.add_argument("--seconds", type=arguments.seconds, required=True)
    parser.add_argument("--json", type=arguments.writable_file, required=True, metavar="FILE")
    parser.add_argument("--provider", action="append", choices=list(PROVIDERS), required=True)
    args, passed_on = parser.parse_known_args(argv)
    command = [sys.executable, "-m", "sdn_triton", "bench", "run", "--suite", args.suite, "--json", str(args.json)]
    command += [word for name in args.provider for word in ("--provider", name)]
    stop = time.monotonic() + args.seconds
    return run([*command, "--resume", *passed_on], args.json, SUITES[args.suite](), args.provider, stop)


def run(command: Sequence[str], path: Path, cases: Sequence[BenchCase], providers: Sequence[str], stop: float) -> int:
    """Run a benchmark into ``path`` until it is through or time is up."""
    while True:
        before = finished(path)
        budget = max(stop - time.monotonic() - MARGIN, 1.0)
        status = subprocess.call([*command, "--budget", f"{budget:.0f}"])
        there = finished(path)
        missing = [case for case in cases if case.id not in there]
        if status in (0, 2) or not path.exists() or not missing or stop - time.monotonic() < 2 * MARGIN:
            return status
        if there == before:
            why = f"the process ended with exit status {status} while it was measured"
            leave_out(path, [case for case in missing if case.problem == missing[0].problem], providers, why)


def finished(path: Path) -> list[str]:
    """The cases that the file has."""
    return [case["id"] for case in read_record(path)["cases"]] if path.exists() else []


def leave_out(path: Path, cases: Sequence[BenchCase], providers: Sequence[str], why: str) -> None:
    """Put cases down as failed, so that the rest is gone on with."""
    content = read_record(path)
    for case in cases:
        names = [provider.name for provider in case.providers(list(dict.fromkeys([FLOOR, *providers])))]
        content["cases"].append(case.describe() | {"results": dict.fromkeys(names, row("failed", why))})
    write_json(path, content)


if __name__ == "__main__":
    sys.exit(main())
