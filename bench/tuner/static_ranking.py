"""What can be said of configurations without a GPU: what they take, and what their machine code predicts.

A ranking is no measurement: it is printed and never written as a table.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from sdn_triton.tuning.compile import TARGETS
from sdn_triton.tuning.configs import KernelConfig, config_to_json
from sdn_triton.tuning.resources import estimate
from sdn_triton.tuning.spaces import candidates

from ..machine_code.examination import Case, examine
from ..machine_code.kernel_work import COLUMNS, IMAGES, KERNELS, ROWS
from ..terminal import FAINT, Table
from .trials import Unit

SHOWN = 12
SHOWN_ERRORS = 3


def why_not_static(arch: str, dtype: str) -> str | None:
    """Why nothing can be predicted here; None if it can."""
    if find_spec("triton") is None:
        return "needs triton: pip install 'sdn-triton[interpreter]'"
    if os.environ.get("TRITON_INTERPRET", "0") not in ("0", ""):
        return "needs Triton's compiler, but TRITON_INTERPRET is set: unset it"
    if arch.startswith("gfx") and dtype == "tf32":
        return f"there is no tf32 on {arch}: use --dtype fp32"
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


def rank(
    unit: Unit, arch: str, seconds: float, doing: Callable[[str], None] = lambda what: None
) -> tuple[list[Ranked], int]:
    """The candidates, best prediction first, and how many there are; as many are compiled as the time allows."""
    found = candidates(unit.kernel, unit.work, TARGETS[arch])
    if unit.kernel not in KERNELS:
        return [Ranked(config, None) for config in found], len(found)
    until = time.perf_counter() + seconds
    ranked: list[Ranked] = []
    for number, config in enumerate(found, start=1):
        if ranked and time.perf_counter() > until:
            break
        doing(f"{unit.title}: {number} of {len(found)}")
        overrides = tuple(config_to_json(config).items())
        work = unit.work
        case = Case(unit.kernel, arch, work.arithmetic, work.channels, work.outputs, unit.shape.layout, overrides)
        ranked.append(Ranked(config, examine(case, with_range=False)))
    return sorted(ranked, key=lambda one: one.order), len(found)


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
            found = estimate(unit.kernel, unit.work.arithmetic, config, TARGETS[arch])
            cells += ["", "", f">={found.registers}", "", f"<={found.shared_bytes}", f"<={found.blocks}", ""]
        elif row["error"] is not None:
            cells += ["", "", "", "", "", "", row["error"][:40]]
        else:
            least = "" if row["ratio_is"] == "simulated" else ">="
            cells += [f"{least}{row['ratio']:.2f}", f"{row['issued_per_element']:.2f}"]
            cells += [
                str(row[name]) for name in ("registers", "spill_bytes", "shared_bytes", "blocks_per_sm", "hazards")
            ]
        table.add(cells, "" if mark or one.may_run else FAINT)
    table.notes.append(f"* the heuristic's. {len(ranked)} of {total} candidates looked at.")
    if unit.kernel in KERNELS:
        table.notes.append("x conv: simulated, or with >= a bound: what the order of instructions allows overlaps.")
        table.notes.append(f"Compiled for {IMAGES} images of {ROWS}x{COLUMNS} and a 3x3 kernel; see bench/README.md.")
    else:
        table.notes.append("Nothing is compiled or predicted for this kernel: the order is that of the trials.")
    errors = dict.fromkeys(one.row["error"] for one in ranked if one.row is not None and one.row["error"] is not None)
    table.notes += [f"Without a prediction: {error}" for error in list(errors)[:SHOWN_ERRORS]]
    return table
