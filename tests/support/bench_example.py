"""A run as ``sdn-triton bench run`` writes it, made up for the tests: its times come from a formula, not a clock."""

from __future__ import annotations

import argparse
import copy
import math
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sdn_triton.bench.measuring.environment import write_json
from sdn_triton.bench.runs.saved_runs import Run, read_run

PYRAMIDS = {
    "SegFormer-B0 512x512": [[32, 128, 128], [64, 64, 64], [160, 32, 32], [256, 16, 16]],
    "ConvNeXt-T 512x512": [[96, 128, 128], [192, 64, 64], [384, 32, 32], [768, 16, 16]],
}
PROVIDERS = {
    "conv2d": {"title": "the vanilla 3x3 convolution: the floor", "role": "floor"},
    "eager": {"title": "sdn_triton's eager path", "role": "ours"},
    "unfold": {"title": "the unfold formulation", "role": "baseline"},
    "compile": {"title": "torch.compile of the plain formula", "role": "baseline"},
    "triton": {"title": "sdn_triton's Triton kernels", "role": "ours"},
}
SLOWNESS = {"conv2d": 1.0, "eager": 2.0, "unfold": 8.0, "compile": 5.0}
"""Times over those of the floor, for large inputs."""
HOST_MS = {"conv2d": 0.02, "eager": 1.5, "unfold": 0.3, "compile": 0.2}
"""What a call costs however small it is: so that eager loses where the input is small."""


def result(median: float, relative: float = 0.03, peak: int = 2**20, seed: int = 0) -> dict[str, Any]:
    """A provider's result with 21 samples around the median."""
    noise = random.Random(seed)
    samples = sorted(median * (1 + relative * noise.gauss(0, 1)) for _ in range(21))
    return {
        "status": "ok",
        "why": None,
        "median_ms": samples[10],
        "interval_ms": [samples[5], samples[15]],
        "samples_ms": samples,
        "peak_bytes": peak,
        "error": 3e-7,
    }


def no_result(status: str, why: str) -> dict[str, Any]:
    """The result of a provider that was not timed."""
    return {"status": status, "why": why}


def case(network: str, kind: str, name: str, stages: list[list[int]], what: str = "inference") -> dict[str, Any]:
    """One case in which every provider has its made-up time."""
    flop = sum(2 * 8 * c * c * h * w for c, h, w in stages) * (3 if what == "training" else 1)
    size = sum(math.prod(stage) for stage in stages) * 4
    results = {
        provider: result(
            flop / 1e9 * SLOWNESS[provider] + HOST_MS[provider] * len(stages),
            peak=size * (45 if provider == "unfold" else 2),
            seed=len(name) * flop % 1000,
        )
        for provider in SLOWNESS
    }
    results["triton"] = no_result("unavailable", "Triton kernels need a GPU")
    return {
        "id": f"{network}/{name}/{what}",
        "network": network,
        "kind": kind,
        "name": name,
        "stages": stages,
        "batch": 1,
        "dtype": "float32",
        "memory_format": "contiguous",
        "pass": what,
        "mode": "operator",
        "cache": "warm",
        "flop": float(flop),
        "bytes": 3.0 * size,
        "results": results,
    }


def example(**changes: Any) -> dict[str, Any]:
    """Two pyramids, layers and neck, two passes; top-level fields can be changed."""
    cases = []
    for network, stages in PYRAMIDS.items():
        for what in ("inference", "training"):
            cases += [case(network, "layer", f"stage {i}", [s], what) for i, s in enumerate(stages, start=1)]
            cases.append(case(network, "neck", "neck", stages, what))
    cases[3]["results"]["compile"] = no_result("refused", "output: error 1.2e-01, allowed 2.0e-06 <b>")
    cases[4]["results"]["unfold"] = no_result("failed", "RuntimeError: out of memory")
    return {
        "schema": 1,
        "environment": {
            "time": "2000-01-01T00:00:00+00:00",
            "device": {"type": "cpu", "name": "Imaginary CPU & Co", "threads": 2, "cores": 2},
            "load": [0.1, 0.2, 0.3],
            "torch": "0.0",
            "triton": None,
            "git": {"revision": "0" * 40, "dirty": False},
        },
        "settings": {"command": ["bench", "run"], "budget": 60.0},
        "roofs": {"copy_bytes_per_s": 1e10, "matmul_flop_per_s": 1e11, "dtype": "float32"},
        "complete": True,
        "providers": copy.deepcopy(PROVIDERS),
        "cases": cases,
        **changes,
    }


def small(**changes: Any) -> dict[str, Any]:
    """Two of its cases: in the first eager wins, in the second it loses."""
    content = example(**changes)
    cases = [case for case in content["cases"] if case["name"] == "stage 2" and case["pass"] == "inference"]
    return content | {"cases": sorted(cases, key=lambda case: case["network"])}


def write(path: Path, content: dict[str, Any] | None = None) -> Path:
    """Write a run into a file and return its path."""
    write_json(path, example() if content is None else content)
    return path


def timed(median: float, low: float, high: float, rounds: int = 9) -> dict[str, Any]:
    """A provider's result with exactly this interval."""
    return {
        "status": "ok",
        "why": None,
        "median_ms": median,
        "interval_ms": [low, high],
        "samples_ms": [median] * rounds,
    }


def one_case(results: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A run of one case with exactly these results."""
    only = case("Net 64x64", "layer", "stage 1", [[4, 16, 16]]) | {"results": results} | fields
    return example(cases=[only])


def run_of(folder: Path, content: dict[str, Any] | None = None) -> Run:
    """The run as readers see it, by way of a file in this folder."""
    return read_run(write(folder / "run.json", content))


def drawing() -> tuple[ModuleType, ModuleType]:
    """The modules that draw; the calling test is skipped where matplotlib is not installed."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib: the extra bench")
    from sdn_triton.bench.commands import plot
    from sdn_triton.bench.reports import charts

    return charts, plot


def command(module: ModuleType, *arguments: object) -> int:
    """The exit status of ``sdn-triton bench plot`` or ``report``."""
    parser = argparse.ArgumentParser()
    module.configure(parser)
    args = parser.parse_args([str(argument) for argument in arguments])
    return args.run(args)
