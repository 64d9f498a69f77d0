"""What would be compiled: the kernels that smoke, benchmark and tuner launch, each as Triton specialises it.

The code that launches runs as it stands, on meta tensors and for a device that is pretended. Triton's own hook tells
what it is about to compile, and nothing is.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdn_triton.aot.compile import TARGETS, OfflineDriver, active_driver
from sdn_triton.backend import INTERPRETED
from sdn_triton.tuning.configs import Target
from sdn_triton.tuning.defaults import PAIRED_KERNELS
from sdn_triton.tuning.precision import convolutions_in
from sdn_triton.tuning.pretended import pretended
from sdn_triton.tuning.shapes import LayerShape
from sdn_triton.tuning.spaces import candidates

from ..problems.cases import DTYPES, FORMATS, BenchCase
from ..problems.checking import ReadyModule, Setting
from ..problems.providers import PROVIDERS, Provider
from ..problems.suites import SUITES
from ..tuner.trials import Trial, precision_of, units_of
from .examples import example_tasks
from .hazard_question import ON_A_GPU, SHIPPED, hazard_tasks
from .where import TESTS

META = torch.device("meta")
RECORDED = "SDN_TRITON_RECORDED"
"""Tells the tests which architecture to record for, and into which file."""


@dataclass(frozen=True)
class Specialisation:
    """A kernel for one kind of arguments and one configuration; ``data`` is Triton's own description of it."""

    module: str
    name: str
    data: str

    def compile(self) -> Any:
        """Compile it for the device that it was recorded for, or find it in the cache.

        Triton's own ``preload`` would do, did it not forget the names of the members of tuples.
        """
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        kernel, data = getattr(importlib.import_module(self.module), self.name), json.loads(self.data)
        kinds = inspect.get_annotations(kernel.fn)
        signature = {
            name: kinds[name](*kind) if isinstance(kind, list) else kind for name, kind in data["signature"].items()
        }
        constants, attributes = (
            {tuple(place): value for place, value in zip(data[f"{what}_keys"], data[f"{what}_vals"])}
            for what in ("constant", "attrs")
        )
        options = {name: tuple(x) if isinstance(x, list) else x for name, x in data["options"].items()}
        source = ASTSource(kernel, signature, constants, attributes)
        return triton.compile(source, target=GPUTarget(**data["target"]), options=options)


class UnseenDevice(OfflineDriver):
    """One that this process has compiled nothing for, so that Triton asks its hook about every kernel."""

    _indices = itertools.count(10_000)

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._index = next(self._indices)


@contextmanager
def collected(target: Target) -> Iterator[dict[Specialisation, None]]:
    """What Triton would compile inside for tensors on the CPU or of the kind meta, each once; nothing is launched."""
    from triton import knobs

    specialisations: dict[Specialisation, None] = {}

    def take(*, fn: Any, compile: dict[str, Any], **unused: Any) -> bool:
        specialisations[Specialisation(fn.module, fn.name, compile["specialization_data"])] = None
        return True  # do not compile

    with pretended(target), active_driver(UnseenDevice(target)), knobs.runtime.scope():
        knobs.runtime.jit_cache_hook = take
        yield specialisations


def of_smoke(arch: str) -> None:
    """Launch what ``smoke.py`` launches, but for the variants that a wrong result calls for, and what is unguarded."""
    for task in example_tasks():
        with convolutions_in(task.precision), torch.no_grad():
            task.example.call(task.arguments(META), "triton")
    for hazard in hazard_tasks():
        if hazard.form == SHIPPED and hazard.why_not_asked(TARGETS[arch]) is None:
            unit = hazard.unit(ON_A_GPU, TARGETS[arch])
            for config in hazard.configs(unit, TARGETS[arch]):
                Trial(unit, META).call(config)()


def of_bench(arch: str, suite: str = "gpu") -> None:
    """Launch what the library's providers launch in the cases of a suite."""
    for case in _distinct(SUITES[suite]()):
        for provider in case.providers([name for name, provider in PROVIDERS.items() if provider.ours]):
            if provider.name != "eager":
                with provider.around():
                    _answers(case, provider)


def _distinct(cases: Iterable[BenchCase]) -> list[BenchCase]:
    """One of those that differ in nothing but how they are timed."""
    cases_by_work: dict[tuple[Any, ...], BenchCase] = {}
    for case in cases:
        cases_by_work.setdefault((case.problem, case.pass_ == "inference"), case)
    return list(cases_by_work.values())


def _answers(case: BenchCase, provider: Provider) -> None:
    """Launch what the check before the timing does, which is all that is timed."""
    work, dtype, memory_format = case.workload, DTYPES[case.dtype], FORMATS[case.memory_format]

    def image(channels: int, height: int, width: int) -> Tensor:
        drawn = torch.empty(work.batch, channels, height, width, device=META, dtype=dtype)
        return drawn.contiguous(memory_format=memory_format)

    stages = [(stage.channels, stage.height, stage.width) for stage in work.stages]
    with META:
        module = Setting(META, dtype, memory_format).applied_to(work.module(provider))
    inputs = stages if work.kind == "neck" else 2 * stages
    leaves = {str(number): image(*stage).requires_grad_() for number, stage in enumerate(inputs)}
    grads = tuple(image(*stage) for stage in stages)
    ReadyModule(work, module, leaves, grads).answers(backward=case.pass_ != "inference")


def of_tune(arch: str, shapes: Sequence[LayerShape], count: int) -> None:
    """Launch the first candidates of the paired kernels of these shapes, as ``sdn-triton tune`` does."""
    for unit in units_of(list(shapes), TARGETS[arch]):
        if unit.kernel in PAIRED_KERNELS:
            with precision_of(unit.shape):
                trial = Trial(unit, META)
                for config in itertools.islice(candidates(unit.kernel, unit.work, TARGETS[arch]), count):
                    trial.call(config)()


def of_tests(arch: str, processes: int, seconds: float) -> list[Specialisation]:
    """What the kernel tests launch: they run, in processes of their own, and fail, since nothing is computed.

    After so many seconds it is what they launched until then.

    Raises:
        RuntimeError: pytest cannot run them.
    """
    workers = ["-n", str(processes)] if importlib.util.find_spec("xdist") and processes > 1 else []
    files = sorted(str(path) for path in TESTS.glob("kernels/test_*.py"))
    options = ["-p", f"{__package__}.recorded_tests", "-q", "--tb=no", "-p", "no:cacheprovider", *workers]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "specialisations.jsonl"
        out.touch()
        environment = {**os.environ, INTERPRETED: "0", RECORDED: f"{arch} {out}"}
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *files],
            cwd=TESTS.parent,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            said, _ = process.communicate(timeout=None if seconds == float("inf") else seconds)
        except subprocess.TimeoutExpired:
            process.kill()  # its workers end with it
            process.communicate()
        else:
            if process.returncode not in (0, 1):  # all passed, or some failed
                raise RuntimeError(f"the kernel tests cannot be run: {' '.join(said.split())[-300:]}")
        lines = out.read_text().splitlines()
    return list(dict.fromkeys(Specialisation(**json.loads(line)) for line in lines))
