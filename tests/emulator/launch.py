"""A launch: its arguments as parameters of the kernel, its tensors as memory, its grid one program after the other."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from . import findings
from .findings import Findings, Place
from .global_memory import GlobalMemory
from .machine import Machine, Mode
from .program import Program
from .ptx import WIDTHS

FORMATS = {"i1": "b", "i8": "b", "i16": "h", "i32": "i", "i64": "q", "u1": "B", "u8": "B", "u16": "H", "u32": "I"}
FORMATS |= {"u64": "Q", "fp16": "e", "fp32": "f", "f32": "f", "fp64": "d"}
"""How ``struct`` calls Triton's types."""

Grid = tuple[int, int, int]


@dataclass
class Launch:
    """What was launched, and what it took."""

    name: str
    grid: Grid
    threads: int
    seconds: float = 0.0
    warp_instructions: int = 0


def run_launch(
    program: Program, grid: Grid, signature: Sequence[Any], arguments: Sequence[Any], mode: Mode, found: Findings
) -> Launch:
    """Run all programs of a grid on CPU tensors.

    Raises:
        KernelFaultError: a program cannot go on.
    """
    kernel = program.kernel
    memory = GlobalMemory(mode.checks)
    parameters = _parameters(program, signature, arguments, memory)
    order = [(x, y, z) for z in range(grid[2]) for y in range(grid[1]) for x in range(grid[0])]
    if mode.order == "random":
        random.Random(mode.seed).shuffle(order)
    launch = Launch(kernel.name, grid, kernel.threads)
    started = time.perf_counter()
    try:
        with np.errstate(all="ignore"):
            for place in order:
                machine = Machine(program, parameters, memory, place, grid, mode, found)
                machine.run()
                launch.warp_instructions += machine.executed
    finally:
        launch.seconds = time.perf_counter() - started
    for instruction, registers in program.unfenced:
        place = Place(kernel.name, order[0], None, instruction)
        found.report(findings.NO_WGMMA_FENCE, f"{registers} may have been written since the last one", place)
    _report_late_writes(memory, kernel.name, found)
    return launch


def _parameters(
    program: Program, signature: Sequence[Any], arguments: Sequence[Any], memory: GlobalMemory
) -> dict[str, bytes]:
    """The bytes of each parameter; what Triton adds behind the arguments are null pointers."""
    values = []
    for kind, argument in _flat(signature, arguments):
        if kind == "constexpr":
            continue
        if isinstance(argument, Tensor):
            if argument.numel():
                storage = argument.untyped_storage()  # of all groups where the tensor is a view of the first
                memory.add(str(tuple(argument.shape)), storage.data_ptr(), storage.nbytes())
            values.append(struct.pack("Q", argument.data_ptr()))
        elif kind.startswith("*"):
            values.append(struct.pack("Q", argument or 0))
        else:
            values.append(struct.pack("<" + FORMATS[kind], argument))
    known = program.kernel.parameters
    values += [struct.pack("Q", 0)] * (len(known) - len(values))
    for (kind, name), value in zip(known, values, strict=True):
        if len(value) * 8 != WIDTHS[kind]:
            raise TypeError(f"{name} is {kind}, {len(value)} bytes given")
    return {name: value for (_, name), value in zip(known, values)}


def _flat(signature: Sequence[Any], arguments: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Arguments with what Triton takes them for; each member of a tuple by itself."""
    for kind, argument in zip(signature, arguments, strict=True):
        if isinstance(kind, tuple):
            yield from _flat(kind, argument)
        else:
            yield kind, argument


def _report_late_writes(memory: GlobalMemory, kernel: str, found: Findings) -> None:
    """Report what one program read before another one wrote it."""
    for read in memory.reads:
        if read.unordered(memory, both_ways=True):
            place = Place(kernel, (0, 0, 0), None, read.instruction)
            found.report(findings.GLOBAL_RACE, f"reads of {read.allocation.name} what others write", place)
