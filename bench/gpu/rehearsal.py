"""``make gpu-rehearsal``: every step of ``make gpu`` on a CPU, small enough for two cores and a few minutes.

The emulator stands in for the device where kernels run, the eager path for the timings, the interpreter for the tests
and the tuner. What is rehearsed is that every command runs, that every file is written and can be read, and how.
"""

from __future__ import annotations

from dataclasses import replace

from . import plan
from .files import BENCH, SANITIZER, SMOKE, TABLE
from .plan import budget, python, tests
from .run import COMPILED_BEFORE, FINGERPRINT
from .steps import Command, Step

ARCHITECTURE = "sm_90"
SHAPE = "op=difference,c=32,h=5,w=6,dtype=fp16"
PROVIDERS = ("conv2d", "eager", "unfold")
INTERPRETED = {"TRITON_INTERPRET": "1"}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
SECONDS = 290.0


def _smoke(file: Command) -> Command:
    return lambda folders, limit: python(
        "bench.gpu.smoke",
        *("--out", *file(folders, limit), "--device", ARCHITECTURE, "--seconds", budget(limit)),
    )


STEPS: list[Step] = [
    Step(
        "precompile",
        25,
        lambda folders, limit: python(
            "bench.gpu.precompile",
            *("--arch", ARCHITECTURE, "--part", "smoke", "--processes", 2, "--seconds", budget(limit)),
            *("--json", folders.work / COMPILED_BEFORE),
        ),
        environment=plan.COMPILED,
    ),
    replace(
        plan.FINGERPRINTS,
        command=lambda folders, limit: python(
            "bench.gpu.machine", "--json", folders.work / FINGERPRINT, "--device", "cpu"
        ),
    ),
    replace(
        plan.SMOKES,
        command=_smoke(lambda folders, limit: [str(folders.out / SMOKE)]),
        environment=plan.COMPILED,
    ),
    replace(
        plan.TIMINGS,
        seconds=40,
        command=lambda folders, limit: python(
            "bench.gpu.timings",
            *("--suite", "quick", "--seconds", budget(limit), "--json", BENCH),
            *(word for name in PROVIDERS for word in ("--provider", name)),
            *("--kind", "layer", "--kind", "block", "--rounds", 2, 3, "--threads", 1),
        ),
        environment=ONE_THREAD,
    ),
    replace(
        tests("kernels", 40, ["tests/test_kernels_fusion.py"], 2, "-m", "not huge", "-k", "forward"),
        environment=INTERPRETED,
    ),
    replace(tests("huge", 15, plan.files(plan.KERNELS), 2, "-m", "huge", "--collect-only"), environment=INTERPRETED),
    replace(
        tests("others", 30, ["tests/test_determinism.py"], 2, "-m", "not huge and not long"), environment=INTERPRETED
    ),
    replace(plan.GRAPH_TESTS, environment=INTERPRETED),
    replace(
        plan.TUNER,
        seconds=30,
        command=lambda folders, limit: python(
            "bench.gpu.tuning",
            *("--table", folders.work / TABLE, "--seconds", budget(limit), "--device", "cpu", "--shape", SHAPE),
        ),
        environment=INTERPRETED | ONE_THREAD,
    ),
    replace(
        plan.SANITIZE,
        seconds=15,
        command=_smoke(lambda folders, limit: [str(folders.work / "sanitized.jsonl")]),
        log=SANITIZER,
        environment=plan.COMPILED,
        why_not=lambda folders: None,
    ),
    plan.PAGE,
]
"""As in :func:`plan.plan`, each with a command that a CPU can run."""
