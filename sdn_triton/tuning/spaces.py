"""The configurations that a kernel may be tried with, nearest to the heuristic's first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from itertools import product
from math import log2
from typing import Any

from sdn_triton.tuning.configs import BLOCK_WORDS, PAIRED_CHANNELS, KernelConfig, Target
from sdn_triton.tuning.defaults import (
    Work,
    default_config,
    has_pairs,
    takes_pairs,
    tile_width,
)
from sdn_triton.tuning.kernels import KERNELS
from sdn_triton.tuning.resources import used_blocks, why_not

Blocks = Mapping[str, tuple[int, ...]]
TENSOR_BLOCKS: Blocks = {"block_p": (32, 64, 128, 256), "block_c": (32, 64, 128), "block_o": (64, 128, 256)}
SCALAR_BLOCKS: Blocks = {"block_p": (32, 64, 128), "block_c": (16, 32, 64), "block_o": (32, 64)}
"""Without tensor cores a product is unrolled into one instruction a number: large tiles take minutes to compile."""
TILE_WIDTHS = (8, 16, 32)
WARPS = (4, 8)
STAGES = (1, 2, 3)
STAGES_WITHOUT_PRODUCTS = (1, 2)
SPLIT_FACTORS = (0.5, 1, 2)
"""Parts of a sum over pixels, as multiples of what the heuristic takes."""


def axes(kernel: str, arithmetic: str) -> dict[str, tuple[Any, ...]]:
    """The values that each field of a configuration takes for ``kernel``; a field that is not named keeps its own.

    A field of :class:`KernelConfig` whose metadata has ``choices`` is an axis for every kernel that ``kernels`` in its
    metadata names, or for all.
    """
    spec = KERNELS[kernel]
    blocks = TENSOR_BLOCKS if spec.has_products and arithmetic != "ieee" else SCALAR_BLOCKS
    choices_by_field: dict[str, tuple[Any, ...]] = {name: blocks[name] for name in used_blocks(kernel)}
    choices_by_field["block_w"] = TILE_WIDTHS
    choices_by_field["num_warps"] = WARPS
    choices_by_field["num_stages"] = STAGES if spec.has_products else STAGES_WITHOUT_PRODUCTS
    if spec.step == "products":
        choices_by_field["block_c"] = (*choices_by_field["block_c"], 256)
    if has_pairs(kernel, arithmetic):
        choices_by_field["pairs"] = (False, True)
        if arithmetic == "tf32":
            choices_by_field["block_c"] = (BLOCK_WORDS, *choices_by_field["block_c"])
    for field in fields(KernelConfig):
        choices = field.metadata.get("choices", ())
        if choices and kernel in field.metadata.get("kernels", (kernel,)):
            choices_by_field[field.name] = tuple(choices)
    return choices_by_field


def candidates(kernel: str, work: Work, target: Target) -> tuple[KernelConfig, ...]:
    """What is worth a trial for ``work``: the heuristic's configuration, then all that can run, by their distance.

    Tiles are not wider than channels, outputs and image; what the resource model rules out is left out. The order is
    the same everywhere.

    Example:
        >>> from sdn_triton.tuning.configs import Target
        >>> work = Work("bf16", images=2, rows=64, columns=64, channels=256, outputs=256, taps=9)
        >>> configs = candidates("difference_forward", work, Target("cuda", 90, 132))
        >>> configs[0].source, len(configs) > 100, len(configs) == len(set(configs))
        ('heuristic', True, True)
    """
    first = default_config(kernel, work, target)
    largest = {
        "block_p": work.images * work.rows * work.columns,
        "block_c": work.channels,
        "block_o": work.outputs,
    }
    space = axes(kernel, work.arithmetic)
    for name, size in largest.items():
        if name in space:
            kept = [value for value in space[name] if value < 2 * size]
            space[name] = tuple(kept) or space[name][:1]
    configs: dict[KernelConfig, None] = {}
    for values in product(*space.values()):
        config = _candidate(kernel, first, dict(zip(space, values)), work, target)
        if config is not None and why_not(kernel, work.arithmetic, config, target) is None:
            for splits in _splits(kernel, config, work):
                configs[replace(config, splits=splits)] = None
    ordered = sorted(configs, key=lambda config: (_distance(config, first), str(config)))
    return (first, *(config for config in ordered if replace(config, source=first.source) != first))


def _candidate(
    kernel: str, first: KernelConfig, values: dict[str, Any], work: Work, target: Target
) -> KernelConfig | None:
    if values["block_w"] > values["block_p"]:
        return None
    can_pair = work.can_pair and takes_pairs(kernel, work.arithmetic, target)
    block = BLOCK_WORDS if work.arithmetic == "tf32" else PAIRED_CHANNELS
    if values.get("pairs") and not (can_pair and values.get("block_c", first.block_c) == block):
        return None
    values["block_w"] = tile_width(values["block_p"], work.rows, work.columns, wanted=values["block_w"])
    return replace(first, **values, source="candidate")


def _splits(kernel: str, config: KernelConfig, work: Work) -> tuple[int, ...]:
    if not KERNELS[kernel].is_split:
        return (config.splits,)
    tiles = work.images * -(-work.rows // config.block_h) * -(-work.columns // config.block_w)
    return tuple(dict.fromkeys(max(1, min(int(config.splits * factor), tiles)) for factor in SPLIT_FACTORS))


def _distance(config: KernelConfig, first: KernelConfig) -> float:
    """Doublings and halvings between two configurations, and their other differences."""
    total = 0.0
    for field in fields(KernelConfig):
        a, b = getattr(config, field.name), getattr(first, field.name)
        if field.name == "source" or a == b:
            continue
        is_size = type(a) is int and type(b) is int and a > 0 and b > 0 and field.name != "num_stages"
        total += abs(log2(a / b)) if is_size else 1
    return total
