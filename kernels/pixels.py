"""Where things are: spatial tiles of pixels, their memory offsets, the taps, and the mask of the image border.

Kernels walk over images in tiles of ``BLOCK_H`` x ``BLOCK_W`` pixels: neighbouring taps of one tile then share most of
what they read, and the columns of a tile are contiguous whatever the width of the image is.
"""

import triton
import triton.language as tl

NO_ROOM = tl.constexpr(-(2**30))
"""How far a tile can be moved where every tap needs its masks: less than no way at all."""


@triton.jit
def tile_origin(tile, rows, columns, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr):
    """Image (64-bit), first row and first column of a tile; tiles go along the row, down, then to the next image."""
    across = tl.cdiv(columns, BLOCK_W)
    down = tl.cdiv(rows, BLOCK_H)
    n = tile // (across * down)
    return n.to(tl.int64), tile // across % down * BLOCK_H, tile % across * BLOCK_W


@triton.jit
def tile_pixels(row, column, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr):
    """Rows and columns of the pixels of a tile, [BLOCK_H * BLOCK_W] each."""
    index = tl.arange(0, BLOCK_H * BLOCK_W)
    return row + index // BLOCK_W, column + index % BLOCK_W


@triton.jit
def inside(rows, columns, H, W):
    """The mask of the image border: whether positions lie in an image of H x W."""
    return (rows >= 0) & (rows < H) & (columns >= 0) & (columns < W)


@triton.jit
def pixel_offsets(rows, columns, stride_h, stride_w, INT64: tl.constexpr):
    """Memory offsets of positions, in 64 bits where an image is too large for 32."""
    if INT64:
        rows = rows.to(tl.int64)
        columns = columns.to(tl.int64)
    return rows * stride_h + columns * stride_w


@triton.jit
def channel_offsets(channels, stride_c, INT64: tl.constexpr):
    """Memory offsets of channels, in 64 bits where an image is too large for 32."""
    if INT64:
        channels = channels.to(tl.int64)
    return channels * stride_c


@triton.jit
def tap_position(tap, dilation_h, dilation_w, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr):
    """The displacement (dy, dx) from the centre of a kernel position; positions are counted row by row."""
    dy = (tap // KERNEL_W - KERNEL_H // 2) * dilation_h
    dx = (tap % KERNEL_W - KERNEL_W // 2) * dilation_w
    return dy, dx


@triton.jit
def skip_centre(tap, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr):
    """The kernel position of tap ``tap`` when taps are counted without the centre."""
    return tl.cast(tap, tl.int32) + tl.cast(tap >= KERNEL_H * KERNEL_W // 2, tl.int32)


@triton.jit
def output_of_centre(rows, columns, origin_h, origin_w, step_h, step_w, HO, WO):
    """Output positions whose centres are the given input positions, and whether there are such outputs.

    ``centre = output * step + origin``; positions off the grid of steps, or past the output, are nobody's centre.
    """
    i = (rows - origin_h) // step_h
    j = (columns - origin_w) // step_w
    on_grid = (i * step_h == rows - origin_h) & (j * step_w == columns - origin_w)
    return i, j, on_grid & inside(rows - origin_h, columns - origin_w, HO * step_h, WO * step_w)


@triton.jit
def room_to_move(
    tile_row, tile_column, last_row, H, W, HO, WO, origin_h, origin_w, step_h, step_w,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """How far a tile can be moved up, down, left and right and still all of it is inside and an output centre."""
    up = tl.minimum(tile_row, tile_row - origin_h)
    left = tl.minimum(tile_column, tile_column - origin_w)
    down = tl.minimum(H, HO + origin_h) - BLOCK_H - tile_row
    right = tl.minimum(W, WO + origin_w) - BLOCK_W - tile_column
    has_gaps = (step_h != 1) | (step_w != 1)
    if has_gaps | ((up | left | down | right | (last_row - BLOCK_H - tile_row)) < 0):
        down = NO_ROOM
    return up, down, left, right
