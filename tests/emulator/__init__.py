"""An emulator of PTX: executes what Triton compiles, without a GPU, and says what is wrong with it (see README.md)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sdn_triton.aot.compile import TARGETS
from sdn_triton.tuning.pretended import pretended

from .driver import EmulatedDriver, emulated_device
from .findings import NOBODY_WROTE, EmulationError, Finding, Findings, KernelFaultError
from .launch import Launch, run_launch
from .machine import Mode
from .poison import poisoned
from .program import Program

__all__ = ["Emulation", "EmulationError", "Finding", "Findings", "KernelFaultError", "Launch", "Mode", "emulated"]


MODES = {
    "in-step": Mode(),
    "early": Mode(copies="early", products="early"),
    "late": Mode(copies="late", products="late"),
    "latest": Mode(copies="late", products="latest"),
    "random": Mode("random", copies="late", products="late"),
    "random-early": Mode("random", copies="early", products="early", seed=1),
    "erring": Mode(errs=True),
}
"""All but the last have to give the same bits."""


ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
"""Each has matrix instructions of its own; sm_86 and sm_89 have those of sm_80."""


def chosen_for(test: str, architecture: str, mode: str) -> tuple[str, Mode]:
    """An architecture and a mode by their names; "each" takes one after the other, by the name of the test."""
    number = zlib.crc32(test.encode())
    if architecture == "each":
        architecture = ARCHITECTURES[number % len(ARCHITECTURES)]
    names = list(MODES)
    return architecture, MODES[names[number // len(ARCHITECTURES) % len(names)] if mode == "each" else mode]


@dataclass
class Emulation:
    """What ran, and what was found."""

    mode: Mode
    findings: Findings = field(default_factory=Findings)
    launches: list[Launch] = field(default_factory=list)

    @property
    def kernels(self) -> set[str]:
        """The names of those that were launched, without "_kernel"."""
        return {launch.name.removesuffix("_kernel") for launch in self.launches}

    def run(self, program: Program, grid: tuple[int, int, int], signature: list[str], arguments: list[Any]) -> None:
        """Take a launch of the driver."""
        self.launches.append(run_launch(program, grid, signature, arguments, self.mode, self.findings))


def _unchanged(text: str) -> str:
    return text


@contextmanager
def emulated(
    architecture: str, mode: Mode | None = None, *, edit: Callable[[str], str] = _unchanged, is_strict: bool = True
) -> Iterator[Emulation]:
    """Run Triton's kernels on CPU tensors as compiled for a device of this architecture, like "sm_90".

    ``edit`` changes the PTX of a kernel before it is read. What is found is raised at the end if ``is_strict``.

    Raises:
        EmulationError: at the end, if anything was found.
        KernelFaultError: a kernel cannot go on.
    """
    target = TARGETS[architecture]
    emulation = Emulation(mode or Mode())
    with pretended(target), poisoned() as poison, emulated_device(EmulatedDriver(target, emulation.run, edit)):
        yield emulation
    for what in poison.left_over():
        emulation.findings.report(NOBODY_WROTE, what)
    if is_strict:
        emulation.findings.raise_if_any()
