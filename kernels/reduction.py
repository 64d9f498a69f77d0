"""The sum over pixels that makes a bias gradient."""

import triton
import triton.language as tl

from sdn_triton.kernels.pixels import channel_offsets, pixel_offsets, tile_origin, tile_pixels


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
    stride_gn,
    stride_gc,
    stride_gh,
    stride_gw,
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
        pixels = pixel_offsets(rows, columns, stride_gh, stride_gw, INT64)
        offsets = pixels[:, None] + channel_offsets(outputs, stride_gc, INT64)[None, :]
        total += tl.load(gradient_ptr + n * stride_gn + offsets, mask=mask, other=0.0).to(tl.float32)
    return tl.sum(total, axis=0, keep_dims=True)
