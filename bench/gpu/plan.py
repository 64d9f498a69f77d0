"""What ``make gpu`` runs on a card and for how long, the most truth first.

Imports neither torch nor anything that does.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .. import ROOT
from . import graph_tests
from .files import BENCH, SANITIZER, SMOKE, TABLE, TESTS, Folders
from .findings import Smoke
from .machine import compute_capability, tool
from .run import COMPILED_BEFORE, FINGERPRINT
from .steps import Step

MARGIN = 8.0
"""Seconds that a program with a budget of its own takes beyond it: to import torch, and to end."""
PROVIDERS = ("conv2d", "triton", "eager", "unfold")
CORES = len(os.sched_getaffinity(0))
COMPILED = {"TRITON_INTERPRET": "0", "SDN_TRITON_TABLES": ""}
"""With the configurations that ship, not with what somebody has tuned on this machine."""
SECONDS = {1: 285.0, 2: 350.0, None: 570.0}
"""For the first part, the second on a machine of its own, and both in one."""


def python(module: str, *arguments: object) -> list[str]:
    """A module of this repository as a command."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def budget(limit: float) -> str:
    """What a program with a budget of its own is given, so that it ends before it is stopped."""
    return f"{max(limit - MARGIN, 1.0):.0f}"


UNPACK = 10
"""Seconds."""
TUNED = ("difference_forward", "difference_data_gradient", "difference_weight_gradient")
"""The kernels whose channels are packed in pairs where the shape allows it."""


def unpack(archive: Path) -> Step:
    """Kernels that were compiled elsewhere, put where they are looked for."""
    command = python("sdn_triton.bench.gpu.precompile", "--unpack", archive)
    return Step("unpack", UNPACK, lambda folders, limit: command, environment=COMPILED)


def precompile(seconds: float, *parts: str) -> Step:
    """Compile what later steps launch, in as many processes as there are cores but one."""
    named = [word for part in parts for word in ("--part", part)]
    return Step(
        "precompile",
        seconds,
        lambda folders, limit: python(
            "sdn_triton.bench.gpu.precompile",
            *("--arch", f"sm_{compute_capability()}", *named),
            *("--processes", max(CORES - 1, 1), "--seconds", budget(limit), "--json", folders.work / COMPILED_BEFORE),
        ),
        environment=COMPILED,
    )


FINGERPRINTS = Step(
    "environment",
    12,
    lambda folders, limit: python("sdn_triton.bench.gpu.machine", "--json", folders.work / FINGERPRINT),
)
SMOKES = Step(
    "smoke",
    43,
    lambda folders, limit: python(
        "sdn_triton.bench.gpu.smoke", "--out", folders.out / SMOKE, "--seconds", budget(limit)
    ),
    environment=COMPILED,
)
TIMINGS = Step(
    "timings",
    160,
    lambda folders, limit: python(
        "sdn_triton.bench.gpu.timings",
        *("--suite", "gpu", "--seconds", budget(limit), "--json", BENCH),
        *(word for name in PROVIDERS for word in ("--provider", name)),
    ),
    published=(BENCH,),
    environment=COMPILED,
    runs_in_work=True,  # so that the command, which the file keeps, names no folder of this machine
    goes_on=True,
)


def tests(group: str, seconds: float, where: Sequence[str], workers: int, *options: str) -> Step:
    """Tests, each of which is in the file as it ends."""
    return Step(
        group,
        seconds,
        lambda folders, limit: python(
            "pytest",
            *(
                "-q",
                "-p",
                "bench.gpu.reporting",
                "--report",
                (folders.out / TESTS).resolve(),
                "--group",
                group,
            ),
            *(("-n", workers, "--dist", "worksteal") if importlib.util.find_spec("xdist") and workers > 1 else ()),
            *options,
            *where,
        ),
        environment=COMPILED,
    )


def files(*patterns: str) -> list[str]:
    """Files of tests, as seen from the repository."""
    return [path.relative_to(ROOT).as_posix() for name in patterns for path in sorted((ROOT / "tests").glob(name))]


KERNELS = "kernels/test_*.py"
WORKERS = max(CORES - 2, 1)
KERNEL_TESTS = replace(tests("kernels", 100, files(KERNELS), WORKERS, "-m", "not huge"), takes_slack=True)
HUGE_TESTS = tests("huge", 15, files(KERNELS), 2, "-m", "huge")
OTHER_TESTS = tests(
    "others",
    20,
    files(*(f"operators/test_{name}.py" for name in ("block_parts", "second_derivatives", "determinism"))),
    WORKERS,
    *("-m", "not huge and not long"),
)
GRAPH_TESTS = Step(
    graph_tests.GROUP,
    35,
    lambda folders, limit: python("sdn_triton.bench.gpu.graph_tests", "--report", (folders.out / TESTS).resolve()),
    environment=COMPILED,
)
TUNER = Step(
    "tuner",
    65,
    lambda folders, limit: python(
        "sdn_triton.bench.gpu.tuning",
        *("--table", folders.work / TABLE, "--seconds", budget(limit)),
        *(word for kernel in untunable(Smoke.of(folders)) for word in ("--without", kernel)),
    ),
    published=(TABLE,),
    environment=COMPILED,
    goes_on=True,
)


def untunable(smoke: Smoke) -> list[str]:
    """Kernels that smoke found wrong in every variant, by the names that the tuner has for them."""
    names = {f"difference_{name.removeprefix('paired_')}" for name in smoke.hopeless_kernels()}
    return sorted(names.intersection(TUNED))


def sanitize(folders: Folders, limit: float) -> list[str]:
    """Smoke's launches with every access checked; of families that are wrong, if there are any, only these."""
    families = [word for name in Smoke.of(folders).broken_families() for word in ("--family", name)]
    smoke = python(
        "sdn_triton.bench.gpu.smoke", "--out", folders.work / "sanitized.jsonl", "--seconds", budget(limit), *families
    )
    # Libraries ask the driver for functions that it may not have, and handle its refusal: no error of a kernel's.
    options = ["--target-processes", "all", "--report-api-errors", "no", "--print-limit", "50"]
    return [str(tool("compute-sanitizer")), *options, *smoke]


SANITIZE = Step(
    "sanitizer",
    35,
    sanitize,
    log=SANITIZER,
    environment={**COMPILED, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},  # else tensors share blocks of memory
    why_not=lambda folders: (
        None if tool("compute-sanitizer") else "compute-sanitizer is not installed (it comes with the CUDA toolkit)"
    ),
    is_urgent=lambda folders: bool(Smoke.of(folders).broken_families()),
)


def why_no_page(folders: Folders) -> str | None:
    """What the page lacks."""
    absent = [name for name in ("matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (pip install {' '.join(absent)})"
    return None if (folders.work / BENCH).is_file() else "nothing was timed"


PAGE = Step(
    "page",
    10,
    lambda folders, limit: python("sdn_triton", "bench", "report", BENCH, "--out", "bench.html"),
    runs_in_work=True,
    why_not=why_no_page,
)


PRECOMPILED = {
    1: (60.0, ["smoke", "bench"]),
    2: (45.0, ["tune", "smoke"]),
    None: (70.0, ["smoke", "bench", "tune"]),
}
"""Seconds, and whose kernels: what the tests launch takes minutes to find out, and comes with an archive only."""


def plan(part: int | None, archive: Path | None = None) -> list[Step]:
    """The steps of a part, or of both in one run; with an archive of compiled kernels there is less to compile."""
    first = [SMOKES, TIMINGS]
    second = [KERNEL_TESTS, HUGE_TESTS, OTHER_TESTS, GRAPH_TESTS, TUNER, SANITIZE]
    steps = {1: [*first, PAGE], 2: second, None: [*first, *second, PAGE]}[part]
    seconds, needed = PRECOMPILED[part]
    if archive is None:
        return [precompile(seconds, *needed), FINGERPRINTS, *steps]
    return [unpack(archive), precompile(seconds - UNPACK, *needed), FINGERPRINTS, *steps]
