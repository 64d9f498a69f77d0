"""What a configuration takes of a multiprocessor, before anything is compiled; and what therefore cannot run.

Shared memory is bounded from above, for the memory layout that needs most: the factors of the matrix product, once for
every stage of the pipeline, and with them what the loop loads to make them of. Registers are bounded from below: the
float32 sums that live through the loop; all else is the compiler's affair. ``tests/aot/test_resources.py`` holds both
against the compiler.
"""

from __future__ import annotations

from dataclasses import dataclass

from sdn_triton.tuning.configs import KernelConfig, Target
from sdn_triton.tuning.defaults import (
    FUSED_BYTES,
    GROUP_PRODUCTS,
    LARGEST_TAP_SUMS,
    TENSOR_MEMORY,
    depthwise_tap_pairs,
    tap_pairs,
)
from sdn_triton.tuning.kernels import KERNELS
from sdn_triton.tuning.pipelining import why_not_pipelined

ITEM_BYTES = {"fp16": 2, "bf16": 2, "tf32": 4, "ieee": 4}
SMALLEST_FACTOR = 16
"""No side of a matrix product may be shorter."""
LARGEST_TILE = 1 << 20
"""Numbers in one tile, by Triton's own limit."""
LARGEST_BLOCK = 1024
"""Threads of a block."""
REGISTERS = 65_536
"""Registers of a multiprocessor, of 32 bits; CDNA has four times as many with those that sums alone can use."""
LARGEST_REGISTERS = 255
"""Registers of a thread; CDNA has twice as many."""
OTHER_REGISTERS = 24
"""What a thread needs at least beside the sums: addresses, masks, loop counters."""
THREADS = {80: 2048, 86: 1536, 87: 1536, 89: 1536, 90: 2048, 100: 2048, 103: 2048, 120: 1536}
FEWEST_THREADS = 1536
RESERVED_SHARED_BYTES = 1024
"""Shared memory that the driver takes for every block."""
TENSOR_ROWS, TENSOR_COLUMNS = 128, 512
"""Tensor memory has so many rows and columns of 32 bits."""
SCRATCH_BYTES = 4096
"""Barriers, and sums that pass from warp to warp."""
EXCHANGE_BYTES = 32_768
"""What threads exchange of a result before it is stored, at a time; of tiles of products, four times that."""
TAPS = 9
"""Of the kernel whose needs are the greatest."""


@dataclass(frozen=True)
class Estimate:
    """What one block takes at most of shared memory, at least of registers, and how many fit at most."""

    shared_bytes: int
    registers: int
    threads: int
    blocks: int


def estimate(kernel: str, arithmetic: str, config: KernelConfig, target: Target) -> Estimate:
    """The resources of one block of ``kernel`` with ``config`` on ``target``.

    Example:
        >>> from sdn_triton.tuning.configs import KernelConfig, Target
        >>> config = KernelConfig(128, 16, 64, 128, num_warps=8, num_stages=3)
        >>> estimate("fusion_forward", "bf16", config, Target("cuda", 90, 132)).shared_bytes
        118784
    """
    threads = config.num_warps * lanes(target)
    registers = -(-_sums_in_registers(kernel, arithmetic, config, target) // threads) + OTHER_REGISTERS
    shared = _shared_bytes(kernel, arithmetic, config, target)
    limits = [
        _registers(target) // (registers * threads),
        THREADS.get(target.architecture, FEWEST_THREADS) // threads if isinstance(target.architecture, int) else 8,
        (target.shared_bytes + RESERVED_SHARED_BYTES) // (shared + RESERVED_SHARED_BYTES),
    ]
    return Estimate(shared, registers, threads, min(limits))


def why_not(kernel: str, arithmetic: str, config: KernelConfig, target: Target) -> str | None:
    """Why ``kernel`` cannot run with ``config`` on ``target``; None where nothing is known against it.

    Example:
        >>> from sdn_triton.tuning.configs import KernelConfig, Target
        >>> why_not("fusion_forward", "bf16", KernelConfig(128, 16, 64, 128, 8, 4), Target("cuda", 86, 84))
        'it needs up to 118784 bytes of shared memory, a block may have 101376'
    """
    if target.kind == "interpreter":
        return None
    if config.num_warps * lanes(target) > LARGEST_BLOCK:
        return f"its {config.num_warps} warps are more than the {LARGEST_BLOCK} threads of a block"
    sides = {name: getattr(config, name) for name in used_blocks(kernel)}
    if KERNELS[kernel].has_products and (short := [name for name, side in sides.items() if side < SMALLEST_FACTOR]):
        return f"its {short[0]} is below {SMALLEST_FACTOR}, the shortest side of a matrix product"
    if KERNELS[kernel].has_products and config.num_stages > 1 and (reason := why_not_pipelined(arithmetic, target)):
        return reason
    largest, second, *_ = sorted(sides.values(), reverse=True)
    if largest * second > LARGEST_TILE:
        return f"its tiles of {largest * second} numbers are larger than {LARGEST_TILE}"
    needed = estimate(kernel, arithmetic, config, target)
    if needed.shared_bytes > target.shared_bytes:
        return f"it needs up to {needed.shared_bytes} bytes of shared memory, a block may have {target.shared_bytes}"
    most = min(LARGEST_REGISTERS * _register_files(target), _registers(target) // needed.threads)
    if needed.registers > most:
        return f"it needs at least {needed.registers} registers a thread, a thread may have {most}"
    if _keeps_sums_in_tensor_memory(kernel, arithmetic, target):
        columns = _tensor_columns(kernel, config)
        if columns > TENSOR_COLUMNS:
            return f"its sums take up to {columns} columns of tensor memory, there are {TENSOR_COLUMNS}"
    return None


def lanes(target: Target) -> int:
    """Threads of a warp."""
    return 64 if target.kind == "hip" else 32


def _register_files(target: Target) -> int:
    return 2 if target.kind == "hip" else 1


def _registers(target: Target) -> int:
    return REGISTERS * (2 if target.kind == "hip" else 1)


def used_blocks(kernel: str) -> tuple[str, ...]:
    """The sides of its tiles that a kernel looks at."""
    if KERNELS[kernel].has_products:
        return "block_p", "block_c", "block_o"
    if kernel in ("depthwise_forward", "depthwise_weight_gradient"):
        return "block_p", "block_o"
    return "block_p", "block_c"


def _keeps_sums_in_tensor_memory(kernel: str, arithmetic: str, target: Target) -> bool:
    return target.architecture in TENSOR_MEMORY and arithmetic != "ieee" and KERNELS[kernel].has_products


def _tensor_columns(kernel: str, config: KernelConfig) -> int:
    """Columns of tensor memory that the sums take; those of the forward kernels may be there twice."""
    if config.pairs and kernel == "difference_weight_gradient":
        return 2 * tap_pairs(config, TAPS) * config.block_c * -(-config.block_o // TENSOR_ROWS)
    rows, columns = {
        "forward": (config.block_p, 2 * config.block_o),
        "data_gradient": (config.block_p, config.block_c),
        "weight_gradient": (config.block_o, config.block_c),
        "products": (config.block_p, config.block_c),
    }[KERNELS[kernel].step]
    return columns * -(-rows // TENSOR_ROWS)


def _sums_in_registers(kernel: str, arithmetic: str, config: KernelConfig, target: Target) -> int:
    """Float32 numbers that a block holds through its loop."""
    p, c, o = config.block_p, config.block_c, config.block_o
    spec = KERNELS[kernel]
    if config.pairs and spec.step != "forward":
        if spec.step == "data_gradient":
            return 2 * p * c
        if spec.family == "depthwise":
            return 2 * depthwise_tap_pairs(config, TAPS) * p * o
        return 0 if _keeps_sums_in_tensor_memory(kernel, arithmetic, target) else 2 * tap_pairs(config, TAPS) * o * c
    products, elementwise = {
        "difference_forward": (p * o, 0),
        "difference_data_gradient": (0, 2 * p * c),
        "difference_weight_gradient": (o * c, 0),
        "tap_products": (p * c, 0),
        "edge_products": (p * c, 0),
        "depthwise_forward": (0, p * o),
        "depthwise_data_gradient": (0, 2 * p * c),
        "depthwise_weight_gradient": (0, 0),
        "similarity": (0, p * c),
        "block_forward": (p * o, 0),
        "similarity_gradient": (0, p * c),
        "fusion_forward": (p * o, 0),
        "fusion_data_gradient": (p * c, 0),
        "fusion_weight_gradient": (o * c, 0),
    }[kernel]
    return elementwise + (0 if _keeps_sums_in_tensor_memory(kernel, arithmetic, target) else products)


def _shared_bytes(kernel: str, arithmetic: str, config: KernelConfig, target: Target) -> int:
    if not KERNELS[kernel].has_products:
        return 4 * max(LARGEST_TAP_SUMS, config.block_p * config.num_warps)  # sums pass from warp to warp
    item = ITEM_BYTES[arithmetic]
    pc, co, po = (
        first * second
        for first, second in (
            (config.block_p, config.block_c),
            (config.block_c, config.block_o),
            (config.block_p, config.block_o),
        )
    )
    # What a block holds once the differences are done: the responses, and the factors of the products that follow.
    z = FUSED_BYTES // item
    fused = po + config.block_o * z + config.num_stages * (pc + config.block_c * z)
    if config.pairs:
        # Forward: the weights of a tap and its opposite. Weight gradient: the differences of some taps, or their sums,
        # which change hands before they are stored where a group of warps makes them.
        taps = 2 * tap_pairs(config, TAPS)
        sums = 4 * taps * co if target.architecture in GROUP_PRODUCTS else 0
        held = {
            "difference_forward": item * config.num_stages * 2 * co,
            "block_forward": item * max(config.num_stages * 2 * co, fused),
            "difference_weight_gradient": max(sums, item * (config.num_stages * po + taps * pc)),
        }
        return held[kernel] + 2 * SCRATCH_BYTES
    # Numbers in factors that are loaded, in factors that are made in registers, and in what those are made of; bytes
    # of the result where it changes hands before it is stored. The fusion loads one part of its factor and makes the
    # other.
    is_pipelined = config.num_stages > 1
    factors, made, sources, result = {
        "difference_forward": ((co,), pc, 2 * pc, item * po),
        "block_forward": ((co,), pc, 2 * pc, item * po),
        "difference_weight_gradient": ((po,), pc, 4 * pc, 4 * co),
        "tap_products": ((po, co), 0, 0, item * pc),
        "edge_products": ((po, co), 0, 0, item * pc),
        "fusion_forward": ((co, pc), pc * is_pipelined, 0, item * po),
        "fusion_data_gradient": ((po, co), 0, 0, 4 * pc),
        "fusion_weight_gradient": ((po, pc), pc * is_pipelined, 0, 4 * co),
    }[kernel]
    loaded, after = sum(factors), fused if kernel == "block_forward" else 0
    exchanged = min(result, 4 * EXCHANGE_BYTES if KERNELS[kernel].step == "products" else EXCHANGE_BYTES)
    if target.kind == "hip":
        # Without a pipeline factors pass through one after the other; the sources stay in registers in any case.
        loaded, made, sources = (loaded, made, 0) if is_pipelined else (max(*factors, made), 0, 0)
        after = max(po, config.block_o * z) if after and not is_pipelined else after
    if not is_pipelined:
        return max(item * (loaded + made), exchanged, item * after) + SCRATCH_BYTES
    # Products that run on while the next stage is loaded take a buffer for every stage.
    runs_on = target.architecture in GROUP_PRODUCTS and arithmetic != "ieee"
    stages = config.num_stages if runs_on else config.num_stages - 1
    looped = item * (stages * (loaded + sources) + made)
    return max(looped, exchanged, item * after) + SCRATCH_BYTES
