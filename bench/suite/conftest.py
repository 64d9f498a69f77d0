"""The workloads and providers of ``sdn-triton bench`` as benchmarks of pytest: what all of them share.

A provider is checked against float64 before its benchmark runs, once for all benchmarks of a problem. What
pytest-benchmark saves has the facts of the case in ``extra_info`` and, at the top, device and versions, the measured
roofs, and why the providers did not run that did not: ``pytest_results.py`` makes from it what
``sdn-triton bench report`` reads.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch

from sdn_triton.bench.measuring.environment import fingerprint, settle
from sdn_triton.bench.measuring.roofs import measure_roofs
from sdn_triton.bench.problems.cases import DTYPES, FORMATS, BenchCase
from sdn_triton.bench.problems.checking import Finding, Problem, ReadyModule, Setting, check
from sdn_triton.bench.problems.providers import PROVIDERS, Provider

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
unrun: list[dict[str, Any]] = []
"""Case, provider, status and reason of what was not timed."""


@pytest.fixture(scope="session", autouse=True)
def settled() -> None:
    """The same precision for all providers."""
    settle(DEVICE, threads=None, tf32=None)


@lru_cache(maxsize=1)
def problem_of(case_problem: tuple[Any, ...]) -> Problem:
    """The tensors of a problem; the benchmarks of one follow each other, so that one is kept."""
    workload, dtype, memory_format = case_problem
    return Problem(workload, Setting(DEVICE, DTYPES[dtype], FORMATS[memory_format]))


@lru_cache(maxsize=len(PROVIDERS))
def checked(case_problem: tuple[Any, ...], name: str) -> tuple[Finding, ReadyModule | None]:
    """A provider's results against float64."""
    if PROVIDERS[name].compiled:
        torch.compiler.reset()
    return check(problem_of(case_problem), PROVIDERS[name])


@pytest.fixture
def prepared(case: BenchCase, provider: Provider) -> tuple[ReadyModule, Finding]:
    """What may be timed, and how exact it is; skips or fails where nothing may be."""
    if why_not := provider.unavailable(DEVICE, DTYPES[case.dtype]):
        _give_up(case, provider, Finding("unavailable", why_not))
    finding, ready = checked(case.problem, provider.name)
    if ready is None:
        _give_up(case, provider, finding)
    assert ready is not None
    return ready, finding


def _give_up(case: BenchCase, provider: Provider, finding: Finding) -> None:
    status, why = finding.status, finding.why or ""
    facts = {"case": case.describe(), "provider": provider.name, "status": status, "why": why}
    unrun.append(facts | {"errors": finding.figures()})
    if status == "unavailable" or provider.compiled:
        pytest.skip(why)
    pytest.fail(f"{provider.name} {status}: {why}")


def pytest_benchmark_update_json(config: Any, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """Put in what the file needs to be read by itself; a hook of pytest-benchmark."""
    dtypes = {benchmark["extra_info"]["case"]["dtype"] for benchmark in output_json["benchmarks"]}
    output_json["sdn_triton"] = {
        "environment": fingerprint(DEVICE),
        "roofs": measure_roofs(DEVICE, tuple(DTYPES[name] for name in sorted(dtypes))) if dtypes else None,
        "providers": {name: {"title": p.title, "role": p.role} for name, p in PROVIDERS.items()},
        "unrun": unrun,
    }


@pytest.fixture
def device() -> torch.device:
    """Where the benchmarks run."""
    return DEVICE
