"""One kernel, compiled for one device and taken apart: every figure that ``machine_code`` reports of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from sdn_triton.aot.assembler import assembler_version
from sdn_triton.aot.compile import TARGETS, Compiled, compile_launch
from sdn_triton.aot.examples import DTYPES, example_launches
from sdn_triton.launch.run import Launch
from sdn_triton.tuning.configs import PAIRED_CHANNELS, KernelConfig, Target
from sdn_triton.tuning.defaults import Work, default_config
from sdn_triton.tuning.kernels import KERNELS

from .control_flow import Code, UnreadableCodeError
from .hazards import count_hazards, find_hazards
from .kernel_cost import Block, Cost, hot_loop
from .kernel_work import COLUMNS, IMAGES, ROWS, TAPS, KernelWork, Shape, work_of
from .prediction import Prediction, Subject, predict
from .sass import bulk_copy_bytes, read_sass
from .throughput import MULTIPROCESSORS

MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


@dataclass(frozen=True)
class KernelCase:
    """What is compiled; ``overrides`` are the fields of the configuration that differ from the heuristic's."""

    kernel: str
    arch: str
    arithmetic: str
    channels: int
    outputs: int
    memory_format: str = "channels_last"
    overrides: tuple[tuple[str, int], ...] = ()
    images: int = IMAGES
    rows: int = ROWS
    columns: int = COLUMNS

    @property
    def target(self) -> Target:
        """The device."""
        return TARGETS[self.arch]

    @property
    def shape(self) -> Shape:
        """The layer as the kernel's work counts it."""
        item = DTYPES[self.arithmetic].itemsize
        return Shape(self.channels, self.outputs, item, self.images, self.rows, self.columns)

    def config(self) -> KernelConfig:
        """The heuristic's configuration with the overrides.

        Raises:
            ValueError: the overrides make an impossible configuration.
        """
        work = Work(
            arithmetic=self.arithmetic,
            images=self.images,
            rows=self.rows,
            columns=self.columns,
            # Products of every tap but the centre are formed at once: its configuration is chosen by as many columns.
            channels=TAPS * self.channels if self.kernel == "tap_products" else self.channels,
            outputs=self.outputs,
            taps=TAPS + 1,
            channels_last=self.memory_format == "channels_last",
            can_pair=(
                self.memory_format == "channels_last"
                and self.arithmetic != "ieee"
                and self.channels % PAIRED_CHANNELS == 0
            ),
        )
        config = default_config(self.kernel, work, self.target)
        return replace(config, **self._changes()) if self.overrides else config

    def _changes(self) -> Mapping[str, Any]:
        return {**dict(self.overrides), "source": "explicit"}

    def configured(self, config: KernelConfig) -> KernelCase:
        """The same with this configuration instead of the heuristic's."""
        assumed = asdict(replace(self, overrides=()).config())
        changes = tuple((name, value) for name, value in asdict(config).items() if value != assumed[name])
        return replace(self, overrides=changes)

    def identity(self) -> dict[str, Any]:
        """The fields of a row that say what it is of."""
        config = asdict(self.config())
        return {
            "kernel": self.kernel,
            "arch": self.arch,
            "dtype": self.arithmetic,
            "channels": self.channels,
            "outputs": self.outputs,
            "memory_format": self.memory_format,
            "config": config,
        }

    def launch(self) -> Launch:
        """The launch of the kernel, recorded on tensors without memory."""
        if self.kernel == "block_forward" and self.config().block_o < self.outputs:
            raise UnreadableCodeError(
                f"a tile of {self.config().block_o} outputs does not hold {self.outputs} responses: two kernels run"
            )
        launches = example_launches(
            self.kernel,
            self.arithmetic,
            self.config(),
            channels=self.channels,
            outputs=self.outputs,
            size=(self.rows, self.columns),
            images=self.images,
            memory_format=MEMORY_FORMATS[self.memory_format],
        )
        names = {launch.name for launch in launches}
        if len(names) != 1:
            raise UnreadableCodeError(f"one kernel was expected to use this configuration, not {sorted(names)}")
        # The weight gradient of the fusion is launched for the input and for the response, which has more to do.
        return launches[-1]


def examine(case: KernelCase, with_range: bool = True, launch: Launch | None = None) -> dict[str, Any]:
    """The row of one case; where something cannot be found, ``error`` says what and the figures behind it are None.

    ``with_range`` has the simulation played under all alternatives, which takes five times as long. A ``launch`` of the
    case's kernel and configuration is compiled as it is, on tensors of any layout.
    """
    row: dict[str, Any] = {**case.identity(), **dict.fromkeys(FIGURES), "error": None}
    try:
        launch = case.launch() if launch is None else launch
        compiled = compile_launch(launch, case.target)
        row |= _resources(case, compiled)
        code = read_code(compiled, case.config().num_warps, case.arithmetic)
        row["hazards"] = count_hazards(find_hazards(code))
        shape = replace(
            case.shape,
            taps=2 * launch.arguments.get("TAP_PAIRS", TAPS // 2),
            edges=launch.arguments.get("EDGES", False),
        )
        work = work_of(case.kernel, shape, case.config())
        cost, prediction = _analyse(case, work, compiled, code, row["blocks_per_sm"], with_range)
        row |= _figures(cost, prediction) | _bytes(case, work, cost)
    except UnreadableCodeError as error:
        row["error"] = f"not understood: {error}"
    except Exception as error:
        # Whatever a compiler raises for a kernel that it cannot compile belongs into the report.
        row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return row


FIGURES = (
    "assembler",
    "registers",
    "spill_bytes",
    "shared_bytes",
    "shared_limit",
    "fits",
    "blocks_per_sm",
    "threads",
    "hazards",
    "tensor_instructions",
    "load_bits",
    "elements_per_trip",
    "instructions_per_trip",
    "issued_per_element",
    "outside_per_element",
    "arithmetic_per_element",
    "integer_per_element",
    "memory_per_element",
    "special_per_element",
    "tensor_per_element",
    "other_per_element",
    "l1_bytes_per_element",
    "l2_bytes_per_element",
    "shared_bytes_per_element",
    "least_bytes_per_pixel",
    "l2_bytes_per_pixel",
    "clocks_per_element",
    "bound",
    "ratio",
    "ratio_is",
    "ratio_range",
    "ratio_reason",
    "floor_ratio",
)
"""What a row holds besides what it is of."""


def _resources(case: KernelCase, compiled: Compiled) -> dict[str, Any]:
    """Registers, memory and the blocks that share a multiprocessor."""
    resources = compiled.resources()
    columns = re.search(r"tcgen05\.alloc\S*\s+\[[^\]]*\],\s*(\d+);", compiled.assembly.get("ptx", ""))
    blocks = MULTIPROCESSORS[case.arch].blocks_resident(
        resources.threads,
        resources.registers,
        resources.shared_bytes,
        int(columns[1]) if columns else 0,
    )
    return {
        "assembler": assembler_version(case.target),
        "registers": resources.registers,
        "spill_bytes": resources.local_bytes,
        "shared_bytes": resources.shared_bytes,
        "shared_limit": case.target.shared_bytes,
        "fits": resources.shared_bytes <= case.target.shared_bytes and blocks > 0,
        "blocks_per_sm": blocks,
        "threads": resources.threads,
    }


def _analyse(
    case: KernelCase, work: KernelWork, compiled: Compiled, code: Code, blocks: int, with_range: bool
) -> tuple[Cost, Prediction]:
    config = case.config()
    block = Block(compiled.threads, config.block_p, work.block, config.block_o)
    hot = hot_loop(code, work, block)
    tile = (config.block_h, config.block_w)
    subject = Subject(case.arch, case.arithmetic, hot, code, work, tile, config.num_warps, blocks)
    return hot.cost, predict(subject, with_range)


def read_code(compiled: Compiled, warps: int, arithmetic: str) -> Code:
    """The instructions of a compiled kernel."""
    text = compiled.machine_code()
    ptx = compiled.assembly["ptx"]
    threads = re.search(r"\.(?:max|req)ntid\s+(\d+)", ptx)
    if threads is not None and int(threads[1]) != compiled.threads:
        raise UnreadableCodeError("its warps run different programs")
    return read_sass(text, warps, bulk_copy_bytes(ptx), products_in_fp32=arithmetic == "ieee")


def _bytes(case: KernelCase, work: KernelWork, cost: Cost) -> dict[str, float]:
    """Of a pixel: the least that device memory must move, and what the kernel moves past the first-level cache."""
    channels = 2 * case.channels if KERNELS[case.kernel].family == "fusion" else case.channels  # concatenated: C + R
    past = max(cost.l2_bytes, work.streamed) * work.elements * work.repeats
    return {"least_bytes_per_pixel": work.memory * channels, "l2_bytes_per_pixel": past * channels}


def _figures(cost: Cost, prediction: Prediction) -> dict[str, Any]:
    counts = cost.counts
    return {
        "tensor_instructions": round(counts["tensor"] * cost.elements_per_trip),
        "load_bits": {str(bits): count for bits, count in cost.loads.items()},
        "elements_per_trip": cost.elements_per_trip,
        "instructions_per_trip": cost.instructions_per_trip,
        "issued_per_element": cost.issued,
        "outside_per_element": sum(cost.outside.values()),
        "arithmetic_per_element": counts["fp"] + counts["pair"] + counts["half"],
        "integer_per_element": counts["integer"] + counts["multiply"],
        "memory_per_element": counts["memory"],
        "special_per_element": counts["special"],
        "tensor_per_element": counts["tensor"],
        "other_per_element": counts["other"],
        "l1_bytes_per_element": cost.l1_bytes,
        "l2_bytes_per_element": cost.l2_bytes,
        "shared_bytes_per_element": cost.scratchpad_bytes,
        "clocks_per_element": prediction.floor.clocks,
        "bound": prediction.floor.bound,
        "ratio": prediction.ratio,
        "ratio_is": prediction.method,
        "ratio_range": None if prediction.low is None else [prediction.low, prediction.high],
        "ratio_reason": prediction.reason,
        "floor_ratio": prediction.floor.ratio,
    }
