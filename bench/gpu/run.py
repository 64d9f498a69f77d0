"""``make gpu``: the one command for a machine with a GPU, in nine minutes, without installation or network.

The parts run one after the other, the most valuable first: what the tests say of the kernels, the benchmark with the
configurations as shipped, then what refines it. All of it goes into ``bench/results/<device>/<date>/``. A part's
results are complete there when it ends; one that overruns its time is stopped, what it wrote until then stays, and that
is said.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from ..environment import device_slug, fingerprint, write_json

ROOT = Path(__file__).resolve().parents[2]
TOTAL = 530.0
"""Seconds for everything."""
MARGIN = 12.0
"""Seconds that a part with a budget of its own may take to start, and to stop after it has ended."""
TUNED = "resnet-50-fpn"
TUNED_PROVIDERS = ("--provider", "triton", "--provider", "triton-default", "--kind", "layer", "--kind", "block")
LEAST = 10.0
"""A part is not begun with less."""


@dataclass(frozen=True)
class Part:
    """One command. ``command`` is made from the folder and the seconds that it has, ``why_not`` says why it cannot run.

    ``needs`` are the files, or folders that must hold something, that earlier parts have to have written.
    """

    name: str
    seconds: float
    command: Callable[[Path, float], Sequence[str]]
    environment: Callable[[Path], Mapping[str, str]] = lambda folder: {}
    why_not: Callable[[Path], str | None] = lambda folder: None
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a part ended; ``status`` is None if it was stopped, ``why_not`` set if it was not begun."""

    status: int | None
    seconds: float
    why_not: str | None = None

    @property
    def went_well(self) -> bool:
        """Whether it ran to its end with success, or had no reason to run."""
        return self.status == 0 or self.why_not is not None

    def describe(self) -> dict[str, Any]:
        """The facts for the JSON file."""
        cut_off = self.status is None and self.why_not is None
        seconds = round(self.seconds, 1)
        return {"exit_status": self.status, "seconds": seconds, "cut_off": cut_off, "not_run": self.why_not}

    def __str__(self) -> str:
        if self.why_not is not None:
            return f"not run: {self.why_not}"
        ended = "cut off" if self.status is None else f"exit status {self.status}"
        return f"{ended} after {self.seconds:.1f} s"


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


@dataclass
class Run:
    """The parts, what became of them, and the file that says so after each."""

    folder: Path
    parts: Sequence[Part]
    total: float = TOTAL
    environment: Mapping[str, Any] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def run(self) -> dict[str, Outcome]:
        """Run what fits; the summary is on disk before the first part and after every one."""
        stop = time.perf_counter() + self.total
        self._write()
        for part in self.parts:
            left = stop - time.perf_counter()
            self.outcomes[part.name] = self._one(part, min(part.seconds, left), left)
            self._write()
        return self.outcomes

    def _one(self, part: Part, limit: float, left: float) -> Outcome:
        why_not = part.why_not(self.folder)
        if why_not is None and (missing := [name for name in part.needs if not _is_there(self.folder / name)]):
            why_not = f"it needs {', '.join(missing)}, which an earlier part has not written"
        if why_not is None and limit < min(LEAST, part.seconds):
            why_not = f"{max(left, 0):.0f} s were left"
        if why_not is not None:
            print(f"\n== {part.name}: not run: {why_not}", flush=True)
            return Outcome(None, 0.0, why_not)
        print(f"\n== {part.name}, at most {limit:.0f} s\n", flush=True)
        command = part.command(self.folder, limit)
        return run_part(command, self.folder / f"{part.name}.txt", limit, part.environment(self.folder))

    def _write(self) -> None:
        parts = {name: outcome.describe() for name, outcome in self.outcomes.items()}
        write_json(self.folder / "gpu.json", {"environment": self.environment, "parts": parts})


def _is_there(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.is_file()


def python(*arguments: str) -> list[str]:
    """A command of this interpreter."""
    return [sys.executable, *arguments]


def tests(*arguments: str) -> list[str]:
    """The tests, a line each as they end, so that a run that is cut off has named what failed."""
    workers = ["-n", "4"] if importlib.util.find_spec("xdist") else []
    return python("-m", "pytest", "-v", "--durations=15", *workers, *arguments)


def test_files() -> list[str]:
    """Those of kernels first."""
    files = sorted((ROOT / "tests").glob("test_*.py"), key=lambda path: ("kernels" not in path.name, path.name))
    return [str(path.relative_to(ROOT)) for path in files]


def inside(folder: Path, name: str) -> str:
    """A file of the folder as seen from the repository: results keep the command, and it names no machine's folders."""
    return os.path.relpath(folder / name, ROOT)


def own_budget(limit: float) -> list[str]:
    """The option that ends a command before it would be stopped."""
    return ["--budget", f"{max(limit - MARGIN, 5):.0f}"]


def bench(folder: Path, limit: float, name: str, *options: str) -> list[str]:
    """A benchmark into a file of this name; one that is there is gone on with."""
    file = ["--json", inside(folder, f"{name}.json"), "--resume"]
    return python("-m", "sdn_triton", "bench", "run", *options, *own_budget(limit), *file)


def tune(folder: Path, limit: float) -> list[str]:
    """The kernels of a pyramid with 256 channels, into a table of this run's own."""
    table = ["--table", inside(folder, f"tables/{folder.parent.name}.json")]
    return python("-m", "sdn_triton", "tune", "--network", TUNED, "--size", "512x512", *own_budget(limit), *table)


def machine_code(folder: Path, limit: float) -> list[str]:
    """What the compiler made of the layer's kernels for this device."""
    major, minor = torch.cuda.get_device_capability()
    kernels = ("difference_forward", "difference_data_gradient", "tap_products", "difference_weight_gradient")
    options = [word for kernel in kernels for word in ("--kernel", kernel)]
    target = ("--arch", f"sm_{major}{minor}", "--json", inside(folder, "machine-code.json"))
    return python("-m", "bench.machine_code", *options, *target)


def predicted(folder: Path, limit: float) -> list[str]:
    """Its predictions beside the benchmark."""
    code, measured, found = (inside(folder, name) for name in ("machine-code.json", "bench.json", "predicted.json"))
    return python("-m", "bench.predicted", code, measured, "--json", found)


def page(folder: Path, limit: float) -> list[str]:
    """Everything that was measured, to look at."""
    files = inside(folder, "bench.json"), "--out", inside(folder, "bench.html")
    return python("-m", "sdn_triton", "bench", "report", *files)


def sanitizer() -> str | None:
    """The program; None if it is not installed."""
    places = [os.environ.get("PATH", ""), os.environ.get("CUDA_HOME", "/usr/local/cuda") + "/bin"]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(places))


def sanitize(folder: Path, limit: float) -> list[str]:
    """Every kernel on small shapes, each access checked."""
    return [str(sanitizer()), "--error-exitcode", "86", *python("-m", "bench.sanitized")]


def _why_no_sanitizer(folder: Path) -> str | None:
    return None if sanitizer() else "compute-sanitizer is not installed (it comes with the CUDA toolkit)"


def _why_no_page(folder: Path) -> str | None:
    absent = [name for name in ("matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(absent)} (pip install 'sdn-triton[bench]')" if absent else None


def own_tables(folder: Path) -> dict[str, str]:
    """The tables of this run and those that ship: not what somebody tuned on this machine before."""
    return {"SDN_TRITON_TABLES": str(folder / "tables")}


def compiler(folder: Path) -> dict[str, str]:
    """Triton's compiler, not its interpreter."""
    return {"TRITON_INTERPRET": "0"}


PARTS = (
    Part("tests", 150, lambda folder, limit: tests(*test_files())),
    Part("bench", 130, lambda folder, limit: bench(folder, limit, "bench", "--suite", "gpu"), own_tables),
    Part("tune", 60, tune, own_tables),
    Part(
        "bench-tuned",
        45,
        lambda folder, limit: bench(
            folder, limit, "bench-tuned", "--network", TUNED, "--size", "512x512", "--mode", "kernel", *TUNED_PROVIDERS
        ),
        own_tables,
        needs=("tables",),
    ),
    Part("machine-code", 25, machine_code, compiler),
    Part("predicted", 10, predicted, needs=("machine-code.json", "bench.json")),
    Part("sanitizer", 45, sanitize, lambda folder: {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, _why_no_sanitizer),
    Part("page", 20, page, why_not=_why_no_page, needs=("bench.json",)),
    Part("compile-tests", TOTAL, lambda folder, limit: tests("tests/aot"), compiler),
)
"""What is run, the most valuable first; the last takes what is left."""


def new_folder(results: Path, device: str, now: datetime) -> Path:
    """``<device>/<date>``, numbered from the second run of a day on; made, with a folder for tables inside."""
    names = (f"{now:%Y-%m-%d}{f'-{number}' if number > 1 else ''}" for number in itertools.count(1))
    folder = next(path for name in names if not (path := results / device / name).exists())
    (folder / "tables").mkdir(parents=True)
    return folder


def main() -> int:
    """Run the parts; the exit status is 0 only if every part that ran came to its end with success."""
    if not torch.cuda.is_available():
        print("make gpu needs a GPU that torch can use; `sdn-triton doctor` says what is there", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    folder = new_folder(ROOT / "bench" / "results", device_slug(device), datetime.now(timezone.utc))
    outcomes = Run(folder, PARTS, environment=fingerprint(device)).run()
    print(f"\nResults in {folder.relative_to(ROOT)}; `make report` puts the benchmark into the documents")
    for name, outcome in outcomes.items():
        print(f"  {name}: {outcome}")
    return int(not all(outcome.went_well for outcome in outcomes.values()))
