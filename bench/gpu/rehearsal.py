"""``make gpu-rehearsal``: every step of ``make gpu`` on a CPU, small enough for two cores and a few minutes.

The emulator stands in for the device where kernels run, the eager path for the timings, the interpreter for the tests
and the tuner. What is rehearsed is that every command runs, and that every file is written and can be read. What has a
budget gets seconds of it, and limits are generous: a slow machine is no mistake.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from . import plan
from .files import BENCH, SMOKE, TABLE
from .plan import python, tests
from .run import COMPILED_BEFORE, FINGERPRINT
from .steps import Command, Step

ARCHITECTURE = "sm_90"
PROVIDERS = ("conv2d", "eager", "unfold")
SHAPE = "op=difference,c=32,h=5,w=6,dtype=fp16"
INTERPRETED = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
CHECKER = Path(__file__).with_name("sanitizer_stand_in.py")
LIMIT = 300.0
"""Seconds that a step has at most."""


def tried(step: Step, command: Command, **changes: object) -> Step:
    """The step with a command that a CPU can run."""
    return replace(step, seconds=LIMIT, command=command, **changes)  # type: ignore[arg-type]


def tried_tests(group: str, *options: str) -> Step:
    """A few tests, interpreted."""
    return replace(tests(group, LIMIT, [], 2, *options), environment=INTERPRETED)


def _smoke(out: Path, seconds: int) -> list[str]:
    return python("sdn_triton.bench.gpu.smoke", "--out", out, "--device", ARCHITECTURE, "--seconds", seconds)


STEPS = [
    Step(
        "precompile",
        LIMIT,
        lambda folders, limit: python(
            "sdn_triton.bench.gpu.precompile",
            *("--arch", ARCHITECTURE, "--part", "smoke", "--processes", 2, "--seconds", 8),
            *("--json", folders.work / COMPILED_BEFORE),
        ),
        environment=plan.COMPILED,
    ),
    tried(
        plan.FINGERPRINTS,
        lambda folders, limit: python(
            "sdn_triton.bench.gpu.machine", "--json", folders.work / FINGERPRINT, "--device", "cpu"
        ),
    ),
    tried(plan.SMOKES, lambda folders, limit: _smoke(folders.out / SMOKE, 15)),
    tried(
        plan.TIMINGS,
        lambda folders, limit: python(
            "sdn_triton.bench.gpu.timings",
            *("--suite", "quick", "--seconds", 25, "--json", BENCH),
            *(word for name in PROVIDERS for word in ("--provider", name)),
            *("--kind", "layer", "--kind", "block", "--rounds", 2, 3, "--threads", 1),
        ),
    ),
    tried_tests("kernels", "-m", "not huge", "-k", "plain or empty_batch", "tests/kernels/test_fusion.py"),
    tried_tests("huge", "-m", "huge", "--collect-only", "tests/kernels/test_memory.py"),
    tried_tests("others", "-m", "not huge and not long", "-k", "fusion_repeats", "tests/operators/test_determinism.py"),
    replace(plan.GRAPH_TESTS, seconds=LIMIT, environment=INTERPRETED),
    tried(
        plan.TUNER,
        lambda folders, limit: python(
            "sdn_triton.bench.gpu.tuning",
            *("--table", folders.work / TABLE, "--seconds", 8, "--device", "cpu", "--shape", SHAPE),
        ),
        environment=INTERPRETED,
    ),
    tried(
        plan.SANITIZE,
        lambda folders, limit: [sys.executable, str(CHECKER), *_smoke(folders.work / "sanitized.jsonl", 5)],
        environment=plan.COMPILED,
        why_not=lambda folders: None,
    ),
    replace(plan.PAGE, seconds=LIMIT),
]
"""As in :func:`plan.plan`, each with a command that a CPU can run."""
SECONDS = sum(step.seconds for step in STEPS)
