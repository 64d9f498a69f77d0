"""``make gpu``: the one command for a machine with a GPU, in eight minutes, without installation or network.

First the whole test suite on the GPU, then the comparison, then, if time is left, the tests that compile for other
devices. Each part's results are complete in ``bench/results/<device>/`` when it ends, and a part that overruns its
time is stopped and said to be.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .environment import device_slug, fingerprint, write_json

ROOT = Path(__file__).resolve().parents[1]
TOTAL = 465.0
"""Seconds for everything."""
FOR_TESTS = 240.0
MARGIN = 20.0
"""Seconds that a part may take to stop after its own budget has ended."""


@dataclass(frozen=True)
class Outcome:
    """How a part ended; ``status`` is None if it was stopped."""

    status: int | None
    seconds: float

    def describe(self) -> dict[str, Any]:
        """The facts for the JSON file."""
        return {"exit_status": self.status, "seconds": round(self.seconds, 1), "cut_off": self.status is None}


def run_part(command: Sequence[str], log: Path, limit: float, environment: Mapping[str, str] | None = None) -> Outcome:
    """Run a command for at most ``limit`` seconds, with its output on the terminal and in ``log``."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(limit, stop)
    timer.start()
    try:
        assert process.stdout is not None
        with log.open("w") as file:
            for line in process.stdout:
                print(line, end="", flush=True)
                file.write(line)
                file.flush()
            if stopped.is_set():
                file.write(f"\nstopped after {limit:.0f} s\n")
        status = process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return Outcome(None if stopped.is_set() else status, time.perf_counter() - start)


def _pytest(*arguments: str) -> list[str]:
    workers = ["-n", "4"] if importlib.util.find_spec("xdist") else []
    return [sys.executable, "-m", "pytest", "-q", "--durations=15", *workers, *arguments]


def main() -> int:
    """Run the parts; the exit status is 0 only if every part that ran to its end succeeded and none was cut off."""
    if not torch.cuda.is_available():
        print("make gpu needs a GPU that torch can use; `sdn-triton doctor` says what is there", file=sys.stderr)
        return 2
    end = time.perf_counter() + TOTAL
    device = torch.device("cuda")
    folder = ROOT / "bench" / "results" / device_slug(device)
    folder.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {"environment": fingerprint(device), "parts": {}}

    def part(name: str, command: Sequence[str], limit: float, environment: Mapping[str, str] | None = None) -> None:
        print(f"\n== {name}, at most {limit:.0f} s\n", flush=True)
        outcome = run_part(command, folder / f"{name}.txt", limit, environment)
        summary["parts"][name] = outcome.describe()
        write_json(folder / "gpu.json", summary)

    part("tests", _pytest("tests", "README.md", "--ignore=tests/aot"), FOR_TESTS)
    left = end - time.perf_counter()
    options = ["--network", "all", "--budget", f"{left - MARGIN:.0f}", "--json", str(folder / "compare.json")]
    part("compare", [sys.executable, "-m", "sdn_triton", "compare", *options], left)
    left = end - time.perf_counter()
    if left > MARGIN and (ROOT / "tests" / "aot").is_dir():
        part("compile-tests", _pytest("tests/aot"), left, {"TRITON_INTERPRET": "0"})

    print(f"\nResults in {folder.relative_to(ROOT)}")
    for name, outcome in summary["parts"].items():
        ended = "cut off" if outcome["cut_off"] else f"exit status {outcome['exit_status']}"
        print(f"  {name}: {ended} after {outcome['seconds']} s")
    return int(any(outcome["exit_status"] != 0 for outcome in summary["parts"].values()))


if __name__ == "__main__":
    raise SystemExit(main())
