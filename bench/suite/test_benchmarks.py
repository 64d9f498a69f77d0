"""``make bench``: every provider on layers, blocks and necks of a real network, as benchmarks of pytest.

One group is one case, whose fastest provider stands first. Two saved runs are compared by ``pytest-benchmark compare``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sdn_triton.bench.measuring.rounds import peak_memory
from sdn_triton.bench.problems.cases import BenchCase
from sdn_triton.bench.problems.checking import Finding, ReadyModule
from sdn_triton.bench.problems.providers import PROVIDERS, Provider
from sdn_triton.bench.problems.suites import common

ON_GPU = torch.cuda.is_available()
CASES = common(on_gpu=ON_GPU)
PAIRS = [(case, provider) for case in CASES for provider in case.providers(list(PROVIDERS))]


@pytest.mark.benchmark(min_rounds=8, max_time=0.5, min_time=0.003)
@pytest.mark.parametrize(("case", "provider"), PAIRS, ids=[f"{case.id}-{p.name}" for case, p in PAIRS])
def test_time(
    benchmark: Any, case: BenchCase, provider: Provider, prepared: tuple[ReadyModule, Finding], device: torch.device
) -> None:
    ready, finding = prepared
    call = ready.step(case.pass_)
    facts = case.describe()
    benchmark.group, benchmark.name = case.id, provider.name
    benchmark.extra_info.update(
        case=facts,
        shape=[facts["batch"], *facts["stages"][0]],
        provider=provider.name,
        bytes=facts["bytes"],
        flop=facts["flop"],
        errors=finding.figures(),
        peak_bytes=peak_memory(call, device),
    )

    def complete() -> None:
        call()
        torch.cuda.synchronize(device)

    benchmark(complete if ON_GPU else call)
