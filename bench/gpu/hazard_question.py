"""Does the fault of docs/miscompilations.md show on the hardware? Two forms of the paired kernels, many times each.

In a loop of several stages Triton leaves the last product of a trip unfinished while the next trip writes to registers
that it reads. The kernels wait for it (``kernels/products.py``). "as shipped" is that form, with the number of stages
that is asked about; in the form "unguarded" they do not wait, and have the loop that is not rotated. Each is compared
bit for bit with the same form in one stage, which has no such products, in every repeat.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from sdn_triton.aot.compile import compile_launch
from sdn_triton.launch.run import recorded_launches
from sdn_triton.tuning.configs import KernelConfig, Target
from sdn_triton.tuning.defaults import default_config
from sdn_triton.tuning.pipelining import why_not_pipelined
from sdn_triton.tuning.pretended import pretended
from sdn_triton.tuning.shapes import LayerShape

from ..machine_code import hazards
from ..machine_code.examination import read_code
from ..terminal import first_line
from ..tuner.trials import Trial, Unit, units_of
from .findings import QUESTION
from .where import Place, emulator

SHIPPED, UNGUARDED = "as shipped", "unguarded"
STAGES = (2, 3)
SHAPES = {
    "difference_forward": "op=difference,c={c},o={o},h={h},w={w},dtype={dtype}",
    "block_forward": "op=block,c={c},o={o},h={h},w={w},dtype={dtype}",
}
"""By kernel: those whose left operands are computed and stay in registers."""
ON_A_GPU = {"c": 512, "o": 128, "h": 128, "w": 128}
EMULATED = {"c": 64, "o": 32, "h": 4, "w": 32}
REPEATS = 300


@cache
def leave_unguarded() -> None:
    """From now on this process compiles the kernels as if their products had to be waited for nowhere."""
    import triton

    from sdn_triton.kernels import paired_response, products

    products.products_run_on = triton.constexpr_function(_never)
    paired_response.sums_in_tensor_memory = triton.constexpr_function(_always)  # there the loop is not rotated


def _never() -> bool:
    return False


def _always() -> bool:
    return True


@dataclass(frozen=True)
class HazardTask:
    """One kernel in one form and number of stages; "unguarded" is run in a process of its own, which it spoils."""

    kernel: str
    form: str
    stages: int
    dtype: str = "bf16"

    @property
    def family(self) -> str:
        return f"{QUESTION}{self.form}"

    @property
    def spoils_its_process(self) -> bool:
        return self.form == UNGUARDED

    def unit(self, sizes: Mapping[str, int], target: Target) -> Unit:
        """The kernel with its shape."""
        shape = LayerShape.parse(SHAPES[self.kernel].format(**sizes, dtype=self.dtype))
        return next(unit for unit in units_of([shape], target) if unit.kernel == self.kernel)

    def configs(self, unit: Unit, target: Target) -> tuple[KernelConfig, KernelConfig]:
        """Those that are compared: as the kernel is run, but for its stages, of which one has one."""
        config = default_config(self.kernel, unit.work, target)
        return replace(config, num_stages=1), replace(config, num_stages=self.stages)

    def why_not_asked(self, target: Target) -> str | None:
        """Why there is nothing to find out on a device."""
        if target.architecture in hazards.ARCHITECTURES:
            return None
        return f"on {target} no product goes on that has operands in registers"

    def facts(self) -> dict[str, Any]:
        """What is known before it runs; whatever becomes of the form that does not ship, nothing is wrong."""
        return {"ok": None if self.form == UNGUARDED else False} | {
            "family": self.family,
            "kernels": [f"paired_{self.kernel.removeprefix('difference_')}"],
            "arithmetic": self.dtype,
            "shape": "large",
            "variant": f"{self.stages} stages",
        }

    def run(self, place: Place) -> dict[str, Any]:
        """The line: how many elements differ in the worst repeat, and in how many repeats any does.

        Whether the form that ships is right is a test, where this triton lets it have several stages. All else is a
        question, whose ``ok`` is None.
        """
        start = time.perf_counter()
        row = self.facts() | {"why": None}
        if (reason := self.why_not_asked(place.target)) is not None:
            return row | {"ok": None, "why": reason}
        try:
            if self.form == UNGUARDED:
                leave_unguarded()
            differences = self._differences(place)
        except Exception as error:
            row["why"], row["raised"] = first_line(error), True
        else:
            row |= differences
            if row["wrong_elements"]:
                row["why"] = f"{row['wrong_elements']} of {row['elements']} elements differ from those of one stage"
            is_test = self.form == SHIPPED and why_not_pipelined(self.dtype, place.target) is None
            row["ok"] = not row["wrong_elements"] if is_test else None
        row["seconds"] = round(time.perf_counter() - start, 3)
        return row

    def _differences(self, place: Place) -> dict[str, Any]:
        unit = self.unit(EMULATED if place.is_emulated else ON_A_GPU, place.target)
        trial = Trial(unit, place.device)
        configs = self.configs(unit, place.target)
        one, several = map(trial.call, configs)
        repeats = 1 if place.is_emulated else REPEATS
        # In the emulator products read their operands as late as they may.
        options = {"mode": emulator().MODES["latest"], "is_strict": False} if place.is_emulated else {}
        with place.running(**options) as emulation, torch.no_grad():
            expected = one()["output"]
            counts = torch.stack([(several()["output"] != expected).sum() for _ in range(repeats)]).tolist()
        return {
            "size": str(unit.shape),
            "elements": expected.numel(),
            "repeats": repeats,
            "wrong_repeats": sum(count > 0 for count in counts),
            "wrong_elements": max(counts),
            "hazards_in_machine_code": hazards_in_code(unit, configs[1], place.target),
        } | ({"findings": sorted(emulation.findings.kinds)} if place.is_emulated else {})

    def variants(self, place: Place) -> Iterable[HazardTask]:
        return ()


def hazards_in_code(unit: Unit, config: KernelConfig, target: Target) -> int:
    """How many instructions of a kernel's machine code use registers of unfinished products."""
    with pretended(target), recorded_launches() as launches:
        Trial(unit, torch.device("meta")).call(config)()
    codes = [compile_launch(launch, target) for launch in launches if launch.tuned_as == unit.kernel]
    hazards_of_each = [hazards.find_hazards(read_code(code, config.num_warps, unit.work.arithmetic)) for code in codes]
    return sum(map(hazards.count_hazards, hazards_of_each))


def hazard_tasks() -> tuple[HazardTask, ...]:
    """Both forms of every kernel, in every number of stages."""
    return tuple(
        HazardTask(kernel, form, stages) for form in (SHIPPED, UNGUARDED) for kernel in SHAPES for stages in STAGES
    )
