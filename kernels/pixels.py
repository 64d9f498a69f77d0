"""Where things are: spatial tiles of pixels, their memory offsets, the taps, and the mask of the image border.

Kernels walk over images in tiles of ``BLOCK_H`` x ``BLOCK_W`` pixels: neighbouring taps of one tile then share most of
what they read, and the columns of a tile are contiguous whatever the width of the image is.
"""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import Geometry

FORCE_MASKS = tl.constexpr(-(2**30))
"""How far a tile can be moved where every tap needs its masks: a margin so negative that no tap is inside it."""


@triton.jit
def geometry_of(H, W, HO, WO, origin_h, origin_w, steps):
    """Sizes and steps as one argument for the functions below, by names: Triton's cache knows no order of members."""
    return Geometry(
        H=H,
        W=W,
        HO=HO,
        WO=WO,
        origin_h=origin_h,
        origin_w=origin_w,
        step_h=steps.step_h,
        step_w=steps.step_w,
        dilation_h=steps.dilation_h,
        dilation_w=steps.dilation_w,
    )


@triton.jit
def centres_of(rows, columns, at):
    """The positions in the input of the centres of outputs."""
    return rows * at.step_h + at.origin_h, columns * at.step_w + at.origin_w


@triton.jit
def tile_origin(tile, rows, columns, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr):
    """Image (64-bit), first row and first column of a tile; tiles go along the row, down, then to the next image."""
    across = tl.cdiv(columns, BLOCK_W)
    down = tl.cdiv(rows, BLOCK_H)
    n = tile // (across * down)
    return n.to(tl.int64), tile // across % down * BLOCK_H, tile % across * BLOCK_W


@triton.jit
def next_tile(n, row, column, HO, WO, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr):
    """Image, first row and first column of the tile that follows; see :func:`tile_origin` for the order."""
    column += BLOCK_W
    is_past_row = column >= WO
    column = tl.where(is_past_row, 0, column)
    row = tl.where(is_past_row, row + BLOCK_H, row)
    is_past_image = row >= HO
    row = tl.where(is_past_image, 0, row)
    n = tl.where(is_past_image, n + 1, n)
    return n, row, column


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
def pixel_offsets(rows, columns, strides, INT64: tl.constexpr):
    """Memory offsets of positions, in 64 bits where an image is too large for 32."""
    if INT64:
        rows = rows.to(tl.int64)
        columns = columns.to(tl.int64)
    return rows * strides.h + columns * strides.w


@triton.jit
def channel_offsets(channels, stride_c, INT64: tl.constexpr):
    """Memory offsets of channels, in 64 bits where an image is too large for 32."""
    if INT64:
        channels = channels.to(tl.int64)
    return channels * stride_c


@triton.jit
def image_offsets(rows, columns, channels, strides, INT64: tl.constexpr):
    """Memory offsets of positions by channels, [BLOCK_P, BLOCK_C]."""
    pixels = pixel_offsets(rows, columns, strides, INT64)
    return pixels[:, None] + channel_offsets(channels, strides.c, INT64)[None, :]


@triton.jit
def pixel_pointers(ptr, n, rows, columns, strides, INT64: tl.constexpr):
    """Pointers to the first channel of pixels of image ``n``, [BLOCK_P, 1]: what a loop over channels loads from."""
    return ptr + (n * strides.n + pixel_offsets(rows, columns, strides, INT64)[:, None])


@triton.jit
def load_channels(pixels, channels, mask, strides, INT64: tl.constexpr):
    """Some channels of the pixels of ``pixel_pointers``, [BLOCK_P, BLOCK_C], and 0 where the mask is not."""
    return tl.load(pixels + channel_offsets(channels, strides.c, INT64)[None, :], mask=mask, other=0.0)


@triton.jit
def load_tile(ptr, n, rows, columns, channels, mask, strides, INT64: tl.constexpr):
    """Pixels of image ``n`` by channels, [BLOCK_P, BLOCK_C], and 0 where the mask is not."""
    return tl.load(ptr + n * strides.n + image_offsets(rows, columns, channels, strides, INT64), mask=mask, other=0.0)


@triton.jit
def store_tile(ptr, values, n, rows, columns, channels, mask, strides, INT64: tl.constexpr):
    """Write pixels of image ``n`` by channels in the type that the image has."""
    places = ptr + n * strides.n + image_offsets(rows, columns, channels, strides, INT64)
    tl.store(places, values.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def tap_position(tap, steps, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr):
    """The displacement (dy, dx) from the centre of a kernel position; positions are counted row by row."""
    dy = (tap // KERNEL_W - KERNEL_H // 2) * steps.dilation_h
    dx = (tap % KERNEL_W - KERNEL_W // 2) * steps.dilation_w
    return dy, dx


@triton.jit
def skip_centre(tap, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr):
    """The kernel position of tap ``tap`` when taps are counted without the centre."""
    return tl.cast(tap, tl.int32) + tl.cast(tap >= KERNEL_H * KERNEL_W // 2, tl.int32)


@triton.jit
def output_of_centre(rows, columns, at):
    """Output positions whose centres are the given input positions, and whether there are such outputs.

    ``centre = output * step + origin``; positions off the grid of steps, or past the output, are nobody's centre.
    """
    i = (rows - at.origin_h) // at.step_h
    j = (columns - at.origin_w) // at.step_w
    on_grid = (i * at.step_h == rows - at.origin_h) & (j * at.step_w == columns - at.origin_w)
    is_output = inside(rows - at.origin_h, columns - at.origin_w, at.HO * at.step_h, at.WO * at.step_w)
    return i, j, on_grid & is_output


@triton.jit
def room_to_move(tile_row, tile_column, last_row, at, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr):
    """How far a tile can be moved up, down, left and right and still all of it is inside and an output centre."""
    up = tl.minimum(tile_row, tile_row - at.origin_h)
    left = tl.minimum(tile_column, tile_column - at.origin_w)
    down = tl.minimum(at.H, at.HO + at.origin_h) - BLOCK_H - tile_row
    right = tl.minimum(at.W, at.WO + at.origin_w) - BLOCK_W - tile_column
    has_gaps = (at.step_h != 1) | (at.step_w != 1)
    if has_gaps | ((up | left | down | right | (last_row - BLOCK_H - tile_row)) < 0):
        down = FORCE_MASKS
    return up, down, left, right
