"""The default configuration of every kernel: one heuristic, in one place, by magnitudes only.

Nothing here was timed on a device yet. What is known, from compiling ahead of time: everything returned here fits into
shared memory and keeps to its registers on the architectures it is returned for.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from sdn_triton.tuning.configs import KernelConfig, Target
from sdn_triton.tuning.kernels import KERNELS
from sdn_triton.tuning.pipelining import why_not_pipelined
from sdn_triton.tuning.tiles import (
    CONTIGUOUS_TILES,
    FLOAT32_TILES,
    HIP_FUSION_TILE,
    HIP_PRODUCTS_TILE,
    PAIRED_TILES,
    TENSOR_MEMORY_FLOAT32_TILES,
    TENSOR_MEMORY_PRODUCTS_TILE,
    TENSOR_MEMORY_TILES,
    TILES,
    UNALIGNED_TILES,
    WARP_PAIRED_TILES,
    WARP_PRODUCTS_CONTIGUOUS_TILES,
    WARP_PRODUCTS_TILES,
)

FUSED_BYTES = 128
"""Of a pixel's outputs a block's kernel forms so much at a time, next to all responses of the tile."""
TILE_WIDTH = 16
BLOCKS_PER_MULTIPROCESSOR = 4
NARROWEST_CHANNELS = 32
LARGEST_TAP_SUMS = 4096
NARROWEST_OUTPUTS = 64
ALIGNED_CHANNELS = 8
FEW_COLUMNS = 64
"""Of products of all taps where there are no more than 128: what needs fewer registers than the widest tile and more
than this one, compilers squeeze into the registers of one block more, and spill."""

EDGE_CHANNELS = 128
"""What divides the channels of a layer whose edges have products: a tile of them has one tap, and no empty columns."""

PAIRED_KERNELS = tuple(PAIRED_TILES)
"""The kernels that have a form for packed channels (``KernelConfig.pairs``)."""
TENSOR_MEMORY = (100, 103)
"""Architectures that keep the sums of a matrix product in a memory of their own."""
GROUP_PRODUCTS = (90, *TENSOR_MEMORY)
"""Architectures with products that a group of warps starts and does not wait for."""
PAIRED_ARCHITECTURES = (90, *TENSOR_MEMORY)
"""Where every kernel takes that form."""
PACKED_ARCHITECTURES = (80, 86, 87, 89, *PAIRED_ARCHITECTURES, 120)
"""Where a kernel takes it whose differences are no left operand of a product. That is kept in registers: where warps
make products by themselves, each would compute all of it."""
LEFT_OPERANDS = ("difference_forward", "block_forward")
"""The kernels whose differences are that."""
PAIRED_IN_FLOAT32 = tuple(FLOAT32_TILES)
"""The kernels that have it for TF32, too."""
FLOAT32_ARCHITECTURES = PAIRED_ARCHITECTURES
"""Where they take it."""
SUMS_OF_A_WARP = 4096
"""Float32 sums for which a warp has the registers, with all else that it holds: 128 in each of its threads."""


class Work(NamedTuple):
    """The size of one launch: channels and outputs of one group, and the pixels that its tiles cover.

    ``can_pair`` says that the channels can be read packed.
    """

    arithmetic: str
    images: int
    rows: int
    columns: int
    channels: int
    outputs: int
    groups: int = 1
    taps: int = 1
    can_pair: bool = False
    channels_last: bool = True


def takes_pairs(kernel: str, arithmetic: str, target: Target) -> bool:
    """Whether ``kernel`` has a form for packed channels, and it is the faster one on ``target``.

    Example:
        >>> hopper, ampere = Target("cuda", 90, 132), Target("cuda", 80, 108)
        >>> takes_pairs("difference_forward", "tf32", hopper), takes_pairs("difference_forward", "tf32", ampere)
        (True, False)
        >>> takes_pairs("difference_data_gradient", "bf16", ampere), takes_pairs("difference_forward", "bf16", ampere)
        (True, False)
    """
    if arithmetic == "tf32":
        architectures: tuple[int, ...] = FLOAT32_ARCHITECTURES
    else:
        architectures = PAIRED_ARCHITECTURES if kernel in LEFT_OPERANDS else PACKED_ARCHITECTURES
    return has_pairs(kernel, arithmetic) and target.architecture in architectures


def edges_pay(channels: int) -> bool:
    """Whether products of edges, where they can be made, take less time than those of taps.

    They are half as many, and the gathering pass has half as much to read. But a tile has the channels of one tap only,
    and narrow tiles read factors too often, and find too many places for too few sums: with 64 channels on sm_90 4.1
    times a convolution's pass instead of 2.7 (``python -m sdn_triton.bench.machine_code``).

    Example:
        >>> edges_pay(256), edges_pay(320), edges_pay(64)
        (True, False, False)
    """
    return channels % EDGE_CHANNELS == 0


def has_pairs(kernel: str, arithmetic: str) -> bool:
    """Whether ``kernel`` has such a form at all."""
    kernels = {"ieee": (), "tf32": PAIRED_IN_FLOAT32}.get(arithmetic, PAIRED_KERNELS)
    return kernel in kernels


@lru_cache(maxsize=4096)
def default_config(kernel: str, work: Work, target: Target) -> KernelConfig:
    """The configuration that ``kernel`` runs ``work`` with on ``target`` where nobody says otherwise."""
    if target.kind == "interpreter":
        config = _interpreted(kernel, work)
    else:
        if work.can_pair and takes_pairs(kernel, work.arithmetic, target):
            config = _paired(kernel, work, target)
        else:
            config = _compiled(kernel, work, target)
        config = replace(config, block_w=tile_width(config.block_p, work.rows, work.columns))
    if kernel == "depthwise_weight_gradient":
        # The sums of all taps are held at once.
        config = replace(config, block_o=max(16, min(config.block_o, LARGEST_TAP_SUMS // _next_power(work.taps))))
    if KERNELS[kernel].is_split:
        config = replace(config, splits=count_splits(kernel, work, config, target))
    return config


def all_defaults(kernel: str, arithmetic: str, target: Target) -> tuple[KernelConfig, ...]:
    """Every combination of blocks, warps and stages that :func:`default_config` can return for ``target``."""
    sizes = (1, 32, 64, 65, 128, 256)
    works = [
        Work(arithmetic, images=1, rows=1, columns=w, channels=c, outputs=o, channels_last=channels_last)
        for w, c, o, channels_last in product((1, ALIGNED_CHANNELS), sizes, sizes, (True, False))
        if kernel != "edge_products" or edges_pay(c)
    ]
    configs = [_compiled(kernel, work, target) for work in works]
    if takes_pairs(kernel, arithmetic, target):
        tiles = _paired_tiles(kernel, arithmetic, target).values()
        configs += [_with_stages(_paired_config(*tile), arithmetic, target) for tile in tiles]
    return tuple(dict.fromkeys(configs))


def _compiled(kernel: str, work: Work, target: Target) -> KernelConfig:
    """Tiles as wide as channels and outputs make use of; how wide is bounded by registers, see the compile tests."""
    family = "half" if work.arithmetic in ("fp16", "bf16") else work.arithmetic
    tile = TILES[kernel][family]
    if target.kind == "cuda" and target.architecture not in GROUP_PRODUCTS:
        tiles = (*WARP_PRODUCTS_TILES.get((kernel, family), ()), tile)
        if not work.channels_last:
            tiles = (*WARP_PRODUCTS_CONTIGUOUS_TILES.get((kernel, family), ()), *tiles)
        filled = (tile for tile in tiles if max(work.outputs, NARROWEST_OUTPUTS) > tile[2] // 2)
        tile = next(filled, tiles[-1])
    if (kernel, family) in UNALIGNED_TILES and work.channels % ALIGNED_CHANNELS:
        # Loads of one channel at a time take more registers: more warps share them.
        tile = UNALIGNED_TILES[kernel, family]
    if not work.channels_last:
        tile = CONTIGUOUS_TILES.get(kernel, tile)
    spec = KERNELS[kernel]
    if spec.step == "products" and target.architecture in TENSOR_MEMORY and family == "half" and _is_aligned(work):
        tile = TENSOR_MEMORY_PRODUCTS_TILE
    if spec.step == "products" and target.kind == "hip" and family != "ieee":
        tile = HIP_PRODUCTS_TILE
    if spec.family == "fusion" and target.kind == "hip":
        tile = HIP_FUSION_TILE
    block_p, block_c, block_o, num_warps, num_stages = tile
    block_c = min(block_c, max(_next_power(work.channels), NARROWEST_CHANNELS))
    block_o = min(block_o, max(_next_power(work.outputs), NARROWEST_OUTPUTS))
    if kernel == "tap_products" and block_c < tile[1]:
        block_c, num_warps = FEW_COLUMNS, 4 if target.architecture in TENSOR_MEMORY else num_warps
    if kernel == "edge_products" and work.channels % block_c:
        block_c = EDGE_CHANNELS
    if kernel == "edge_products" and block_c < tile[1] and target.architecture in GROUP_PRODUCTS:
        block_p = tile[1]
    config = KernelConfig(block_p, TILE_WIDTH, block_c, block_o, num_warps, num_stages, source="heuristic")
    return _with_stages(config, work.arithmetic, target)


def _is_aligned(work: Work) -> bool:
    """Whether outputs and pixels can be read several at a time; else compilers may put them into tensor memory, too."""
    return work.outputs % ALIGNED_CHANNELS == 0 and work.rows * work.columns % ALIGNED_CHANNELS == 0


def _with_stages(config: KernelConfig, arithmetic: str, target: Target) -> KernelConfig:
    """The configuration with one stage where more would compute wrongly."""
    return config if why_not_pipelined(arithmetic, target) is None else replace(config, num_stages=1)


def _paired(kernel: str, work: Work, target: Target) -> KernelConfig:
    """Large tiles read weights less often; small ones are for images that would leave half the processors idle."""
    tiles = _paired_tiles(kernel, work.arithmetic, target)
    width = "narrow" if work.outputs <= NARROWEST_OUTPUTS else "wide"
    if ("many", "widest") in tiles and work.outputs > tiles["many", "wide"][2]:
        width = "widest"
    block_p, _, block_o, *_ = tiles["many", width]
    pixels = work.images * work.rows * work.columns
    blocks = -(-pixels // block_p) * -(-work.outputs // block_o) * work.groups
    config = _paired_config(*tiles["many" if 2 * blocks > target.multiprocessors else "few", width])
    return _with_stages(config, work.arithmetic, target)


def _paired_tiles(
    kernel: str, arithmetic: str, target: Target
) -> dict[tuple[str, str], tuple[int, int, int, int, int]]:
    tiles, in_tensor_memory = PAIRED_TILES[kernel], TENSOR_MEMORY_TILES
    if arithmetic == "tf32":
        tiles, in_tensor_memory = FLOAT32_TILES[kernel], TENSOR_MEMORY_FLOAT32_TILES
    if target.architecture not in GROUP_PRODUCTS:
        by_warps = {key: WARP_PAIRED_TILES.get((kernel, key[1]), tile) for key, tile in tiles.items()}
        return {key: tile for key, tile in by_warps.items() if key[1] != "widest"}
    has_memory = target.architecture in TENSOR_MEMORY
    return {key: in_tensor_memory.get((kernel, *key), tile) if has_memory else tile for key, tile in tiles.items()}


def _paired_config(block_p: int, block_c: int, block_o: int, num_warps: int, num_stages: int) -> KernelConfig:
    return KernelConfig(block_p, TILE_WIDTH, block_c, block_o, num_warps, num_stages, pairs=True, source="heuristic")


def _interpreted(kernel: str, work: Work) -> KernelConfig:
    """One tile for everything where it stays below some megabytes: the interpreter's cost is per operation."""
    block_w = min(_next_power(work.columns), 64)
    block_p = block_w * min(_next_power(work.rows), 1024 // block_w)
    block_c = min(max(_next_power(work.channels), 16), 128)
    block_o = min(max(_next_power(work.outputs), 16), 128)
    return KernelConfig(max(block_p, 16), block_w, block_c, block_o, 4, 1, source="interpreter")


def tile_width(block_p: int, rows: int, columns: int, wanted: int = TILE_WIDTH) -> int:
    """Columns of a tile: a compact tile where the image allows it, a run of pixels where it has few rows."""
    width = min(wanted, block_p, _next_power(columns))
    while width < min(block_p, _next_power(columns)) and block_p // width > _next_power(rows):
        width *= 2
    return width


def count_splits(kernel: str, work: Work, config: KernelConfig, target: Target) -> int:
    """Parts of the sum over pixels: as many as keep the device busy, but no part without a tile."""
    across = -(-work.columns // config.block_w)
    tiles = work.images * across * -(-work.rows // config.block_h)
    blocks = -(-work.outputs // config.block_o) * work.groups
    is_depthwise = KERNELS[kernel].family == "depthwise"
    if not is_depthwise:
        blocks *= -(-work.channels // config.block_c)
    if config.pairs and is_depthwise:
        # Two programs share a multiprocessor.
        wanted = 2 * target.multiprocessors // (blocks * (work.taps // 2 // depthwise_tap_pairs(config, work.taps)))
    elif config.pairs:
        # A program has a multiprocessor to itself.
        wanted = target.multiprocessors // (blocks * (work.taps // 2 // tap_pairs(config, work.taps)))
    else:
        blocks *= 1 if is_depthwise else work.taps
        wanted = _next_power(-(-BLOCKS_PER_MULTIPROCESSOR * target.multiprocessors // blocks))
    return max(1, min(wanted, tiles, 1024))


def tap_pairs(config: KernelConfig, taps: int) -> int:
    """Taps of a program of the paired weight gradient, each with its opposite: as many as there are registers for.

    Example:
        >>> tap_pairs(KernelConfig(64, 16, 32, 128, 8, 3, pairs=True), taps=9)
        4
    """
    most = SUMS_OF_A_WARP * config.num_warps // (2 * config.block_c * config.block_o)
    return _pairs_of_a_program(most, taps)


def depthwise_tap_pairs(config: KernelConfig, taps: int) -> int:
    """The same of the depthwise kernel, whose threads have sums of their own pixels.

    Example:
        >>> depthwise_tap_pairs(KernelConfig(32, 16, 32, 32, 4, 1, pairs=True), taps=9)
        4
    """
    most = SUMS_OF_A_WARP // 2 * config.num_warps // (2 * config.block_p * config.block_o)
    return _pairs_of_a_program(most, taps)


def _pairs_of_a_program(most: int, taps: int) -> int:
    return next((pairs for pairs in (4, 2, 1) if pairs <= most and taps // 2 % pairs == 0), 1)


def _next_power(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()
