"""Mean and variance of a response while it is made, and what they add to its gradient.

Every tile writes the mean of each channel and the sum of the squared deviations from it; these are merged in a fixed
order. Nothing is ever the difference of two large sums, however far the mean is from zero.
"""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import Strides
from sdn_triton.kernels.pixels import load_tile, store_tile, tile_origin, tile_pixels


@triton.jit
def store_tile_moments(
    moments_ptr,  # [tiles, 2, O] in float32
    response,  # [BLOCK_P, BLOCK_O] in float32, rounded to the type in which it is stored
    p_mask,  # [BLOCK_P]
    tile,
    outputs,  # [BLOCK_O], of all groups
    o_mask,
    O,  # of all groups
):
    """The mean over the pixels of a tile, and the sum of the squared deviations from it."""
    mask = p_mask[:, None]
    count = tl.sum(p_mask.to(tl.float32), axis=0)
    mean = tl.sum(tl.where(mask, response, 0.0), axis=0) / count  # [BLOCK_O]
    deviation = response - mean[None, :]
    offsets = tile.to(tl.int64) * (2 * O) + outputs
    tl.store(moments_ptr + offsets, mean, mask=o_mask)
    # Masked behind the product, which is then not fused with the first addition: every thread of a warp has a copy of
    # the sum, and fused ones would be rounded differently.
    squares = tl.where(mask, deviation * deviation, 0.0)
    tl.store(moments_ptr + offsets + O, tl.sum(squares, axis=0), mask=o_mask)


@triton.jit
def pixels_of_tiles(tiles, rows, columns, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr):
    """How many pixels of the image each tile has, in float32."""
    _, row, column = tile_origin(tiles, rows, columns, BLOCK_H, BLOCK_W)
    return (tl.minimum(rows - row, BLOCK_H) * tl.minimum(columns - column, BLOCK_W)).to(tl.float32)


@triton.jit(do_not_specialize=["tiles", "HO"])
def merge_moments_kernel(
    mean_ptr,  # [O] in float32
    variance_ptr,  # [O] in float32
    moments_ptr,  # [tiles, 2, O] in float32
    tiles,  # of all images
    O,
    HO,
    WO,
    count,  # pixels of all images
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """``mean = sum_t n_t mean_t / n`` and ``variance = (sum_t m2_t + n_t (mean_t - mean)^2) / n``.

    Means are taken relative to that of the first tile. One program: BLOCK_O channels, all tiles.
    Grid: (cdiv(O, BLOCK_O),).
    """
    outputs = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    o_mask = outputs < O
    first = tl.load(moments_ptr + outputs, mask=o_mask, other=0.0)
    total = tl.zeros((BLOCK_O,), tl.float32)
    for start in range(0, tiles, BLOCK_T):
        tile = start + tl.arange(0, BLOCK_T)
        mask = (tile < tiles)[:, None] & o_mask[None, :]
        offsets = tile.to(tl.int64)[:, None] * (2 * O) + outputs[None, :]
        mean_t = tl.load(moments_ptr + offsets, mask=mask, other=0.0)
        n_t = pixels_of_tiles(tile, HO, WO, BLOCK_H, BLOCK_W)[:, None]
        total += tl.sum(tl.where(mask, n_t * (mean_t - first[None, :]), 0.0), axis=0)
    shift = total / count
    squares = tl.zeros((BLOCK_O,), tl.float32)
    for start in range(0, tiles, BLOCK_T):
        tile = start + tl.arange(0, BLOCK_T)
        mask = (tile < tiles)[:, None] & o_mask[None, :]
        offsets = tile.to(tl.int64)[:, None] * (2 * O) + outputs[None, :]
        mean_t = tl.load(moments_ptr + offsets, mask=mask, other=0.0)
        m2_t = tl.load(moments_ptr + offsets + O, mask=mask, other=0.0)
        n_t = pixels_of_tiles(tile, HO, WO, BLOCK_H, BLOCK_W)[:, None]
        away = mean_t - first[None, :] - shift[None, :]
        squares += tl.sum(tl.where(mask, m2_t + n_t * away * away, 0.0), axis=0)
    tl.store(mean_ptr + outputs, first + shift, mask=o_mask)
    tl.store(variance_ptr + outputs, squares / count, mask=o_mask)


@triton.jit(do_not_specialize=["H"])
def moments_gradient_kernel(
    total_ptr,
    gradient_ptr,
    y_ptr,
    mean_ptr,  # [O] in float32, as the two below
    by_mean_ptr,
    by_variance_ptr,
    count,
    O,
    H,
    W,
    total_strides: Strides,
    g_strides: Strides,
    y_strides: Strides,
    INT64: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """``G + (dL/dmean + 2 (y - mean) dL/dvariance) / n``: all that leads back to a response.

    One program: a tile of BLOCK_H x BLOCK_W pixels by BLOCK_O channels. Grid: (tiles * cdiv(O, BLOCK_O),).
    """
    o_blocks = tl.cdiv(O, BLOCK_O)
    n, first_row, first_column = tile_origin(tl.program_id(0) // o_blocks, H, W, BLOCK_H, BLOCK_W)
    outputs = tl.program_id(0) % o_blocks * BLOCK_O + tl.arange(0, BLOCK_O)
    o_mask = outputs < O
    rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [BLOCK_P]
    mask = ((rows < H) & (columns < W))[:, None] & o_mask[None, :]
    mean = tl.load(mean_ptr + outputs, mask=o_mask, other=0.0)[None, :]
    offset = tl.load(by_mean_ptr + outputs, mask=o_mask, other=0.0)[None, :] / count
    slope = 2.0 * tl.load(by_variance_ptr + outputs, mask=o_mask, other=0.0)[None, :] / count

    gradient = load_tile(gradient_ptr, n, rows, columns, outputs, mask, g_strides, INT64).to(tl.float32)
    y = load_tile(y_ptr, n, rows, columns, outputs, mask, y_strides, INT64).to(tl.float32)  # [BLOCK_P, BLOCK_O]
    total = gradient + offset + slope * (y - mean)
    store_tile(total_ptr, total, n, rows, columns, outputs, mask, total_strides, INT64)
