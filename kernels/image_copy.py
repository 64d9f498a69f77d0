"""An image brought to other strides: read along the axis that its own lie along, written along that of the copy."""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import Strides
from sdn_triton.kernels.pixels import load_tile, store_tile, tile_origin, tile_pixels


@triton.jit
def image_copy_kernel(
    target_ptr,
    source_ptr,
    target_channels,
    source_channels,
    H,
    W,
    target_strides: Strides,
    source_strides: Strides,
    INT64: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``target[n,c,p] = source[n,c,p]``, and 0 in channels that the source does not have.

    Loads and stores each take the layout that suits their strides; in between a tile goes through shared memory.
    One program: a tile of BLOCK_H x BLOCK_W pixels by BLOCK_C channels of the target.
    Grid: (tiles * cdiv(target_channels, BLOCK_C),).
    """
    c_blocks = tl.cdiv(target_channels, BLOCK_C)
    n, first_row, first_column = tile_origin(tl.program_id(0) // c_blocks, H, W, BLOCK_H, BLOCK_W)
    channels = tl.program_id(0) % c_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [BLOCK_P]
    mask = ((rows < H) & (columns < W))[:, None]

    source_mask = mask & (channels < source_channels)[None, :]
    values = load_tile(source_ptr, n, rows, columns, channels, source_mask, source_strides, INT64)
    target_mask = mask & (channels < target_channels)[None, :]
    store_tile(target_ptr, values, n, rows, columns, channels, target_mask, target_strides, INT64)
