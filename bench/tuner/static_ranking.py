"""What can be said of configurations without a GPU: what they take, and what their machine code predicts.

A ranking is no measurement: it is printed and never written as a table.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from typing import Any

from sdn_triton.aot.compile import TARGETS
from sdn_triton.extras import how_to_install
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.resources import estimate
from sdn_triton.tuning.shapes import LayerShape
from sdn_triton.tuning.spaces import candidates

from ..machine_code.examination import KernelCase, examine
from ..machine_code.kernel_work import KERNELS
from ..terminal import FAINT, Table
from .trials import Unit

SHOWN = 12
NOTES = (
    "x conv: predicted time, as a multiple of what the tensor cores take for a plain 3x3 convolution's products. It is "
    "simulated, or with >= a bound: what the order of instructions allows overlaps.",
    "issued: instructions of a thread for one difference element (a pixel, a tap and a channel), in the hot loop.",
    "regs: registers of a thread. spill: bytes of a thread that had no register. shared: bytes of shared memory of a "
    "block. hazards: registers of unfinished products that are overwritten; more than 0 is not run.",
)
"""What the columns mean."""
SHOWN_ERRORS = 3


def why_not_static(arch: str, shape: LayerShape) -> str | None:
    """Why nothing can be predicted here for this shape; None if it can."""
    if find_spec("triton") is None:
        return f"needs triton: {how_to_install('interpreter')}"
    if os.environ.get("TRITON_INTERPRET", "0") not in ("0", ""):
        return "needs Triton's compiler, but TRITON_INTERPRET is set: unset it"
    plain = LayerShape(c=shape.c, h=shape.h, w=shape.w)
    names = ("kernel", "stride", "dilation", "similarity", "diffusivity")
    differing = [name for name in names if getattr(shape, name) != getattr(plain, name)]
    differing += ["groups"] if shape.groups not in (1, shape.c) else []
    differing += ["cg"] if shape.guidance_channels != shape.c else []
    differing += ["r"] if shape.op == "block" and shape.responses != shape.c else []
    if differing:
        return (
            "--static predicts for 3x3 kernels at stride 1, charbonnier, with as many channels everywhere, dense or "
            f"depthwise; {shape} has another {', '.join(differing)}"
        )
    return None


@dataclass(frozen=True)
class Ranked:
    """One candidate with its row of ``machine_code``; None where nothing is predicted for the kernel."""

    config: KernelConfig
    row: dict[str, Any] | None

    @property
    def may_run(self) -> bool:
        """Whether nothing is known that speaks against it."""
        return self.row is None or bool(self.row["fits"] and not self.row["hazards"])

    @property
    def order(self) -> tuple[bool, float]:
        """First what is predicted, fits and may be run, by its ratio to the plain convolution."""
        ratio = self.row["ratio"] if self.row is not None and self.may_run else None
        return ratio is None, 0.0 if ratio is None else float(ratio)


def cores() -> int:
    """How many candidates are looked at at a time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers() -> Executor:
    """A process for each core; they start when the first candidate comes."""
    return ProcessPoolExecutor(cores(), mp_context=get_context("spawn"))


def rank(
    unit: Unit, arch: str, seconds: float, executor: Executor, doing: Callable[[str], None] = lambda what: None
) -> tuple[list[Ranked], int]:
    """The candidates, best prediction first, and how many there are; as many are compiled as the time allows.

    The resource model has left out what cannot run. The heuristic's configuration is looked at in any case.
    """
    configs = varied(candidates(unit.kernel, unit.work, TARGETS[arch]))
    if unit.kernel not in KERNELS:
        return [Ranked(config, None) for config in configs], len(configs)
    until = time.perf_counter() + seconds
    ranked: list[Ranked] = []
    running: dict[Future[dict[str, Any]], KernelConfig] = {}
    left = iter(configs)
    while True:
        while len(running) < cores() and (time.perf_counter() < until or not (ranked or running)):
            config = next(left, None)
            if config is None:
                break
            running[executor.submit(examine, case_of(unit, arch, config), with_range=False)] = config
        if not running:
            return sorted(ranked, key=lambda one: one.order), len(configs)
        for done in wait(running, return_when=FIRST_COMPLETED).done:
            ranked.append(Ranked(running.pop(done), done.result()))
        doing(f"{unit.title}: {len(ranked)} of {len(configs)}")


def case_of(unit: Unit, arch: str, config: KernelConfig) -> KernelCase:
    """What is compiled: the kernel with this configuration, for the shape that was asked for."""
    shape = unit.shape
    return KernelCase(
        unit.kernel,
        arch,
        unit.work.arithmetic,
        shape.c,
        shape.outputs,
        shape.layout,
        images=shape.n,
        rows=shape.h,
        columns=shape.w,
    ).configured(config)


def varied(configs: Sequence[KernelConfig]) -> list[KernelConfig]:
    """First one of each tile, then what differs from these in warps, stages, splits and the tile's width alone."""
    first: dict[tuple[int, int, int, bool], KernelConfig] = {}
    for config in configs:
        first.setdefault((config.block_p, config.block_c, config.block_o, config.pairs), config)
    chosen = set(first.values())
    return sorted(configs, key=lambda config: config not in chosen)


def ranking_table(unit: Unit, arch: str, ranked: list[Ranked], total: int) -> Table:
    """The first of a ranking, with what each takes; the heuristic's configuration is marked."""
    columns = ["pixels x channels x outputs", "warps", "stages", "splits", "x conv", "issued", "regs", "spill"]
    table = Table(f"{unit.title} on {arch}: predicted, not measured", [*columns, "shared", "blocks/SM", "hazards"])
    shown = ranked[:SHOWN] + [one for one in ranked[SHOWN:] if one.config.source != "candidate"]
    for one in shown:
        config, row = one.config, one.row
        mark = "" if config.source == "candidate" else " *"
        cells = [
            f"{config.block_h}x{config.block_w} x {config.block_c}{' pairs' * config.pairs} x {config.block_o}{mark}",
            str(config.num_warps),
            str(config.num_stages),
            str(config.splits),
        ]
        if row is None:
            needs = estimate(unit.kernel, unit.work.arithmetic, config, TARGETS[arch])
            cells += ["", "", f">={needs.registers}", "", f"<={needs.shared_bytes}", f"<={needs.blocks}", ""]
        elif row["error"] is not None:
            cells += ["", "", "", "", "", "", row["error"][:40]]
        else:
            least = "" if row["ratio_is"] == "simulated" else ">="
            cells += [f"{least}{row['ratio']:.2f}", f"{row['issued_per_element']:.2f}"]
            cells += [
                str(row[name]) for name in ("registers", "spill_bytes", "shared_bytes", "blocks_per_sm", "hazards")
            ]
        table.add(cells, "" if mark or one.may_run else FAINT)
    table.notes.append(f"* the heuristic's. {len(ranked)} of {total} candidates looked at, one of each tile first.")
    if unit.kernel not in KERNELS:
        table.notes.append("Nothing is compiled or predicted for this kernel: the order is that of the trials.")
    errors = dict.fromkeys(one.row["error"] for one in ranked if one.row is not None and one.row["error"] is not None)
    table.notes += [f"Without a prediction: {error}" for error in list(errors)[:SHOWN_ERRORS]]
    return table
