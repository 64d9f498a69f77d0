"""The sum over pixels that makes a bias gradient."""

import triton
import triton.language as tl

from sdn_triton.kernels.pixels import load_tile, tile_origin, tile_pixels


@triton.jit
def sum_over_pixels(
    gradient_ptr,
    outputs,
    o_mask,
    split,
    splits,
    tiles,
    H,
    W,
    strides,
    INT64: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """``sum_p G[o,p]`` over every splits-th tile, [1, BLOCK_O]."""
    total = tl.zeros((BLOCK_H * BLOCK_W, outputs.shape[0]), tl.float32)
    for tile in range(split, tiles, splits):
        n, first_row, first_column = tile_origin(tile, H, W, BLOCK_H, BLOCK_W)
        rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)
        mask = ((rows < H) & (columns < W))[:, None] & o_mask[None, :]
        total += load_tile(gradient_ptr, n, rows, columns, outputs, mask, strides, INT64).to(tl.float32)
    return tl.sum(total, axis=0, keep_dims=True)
