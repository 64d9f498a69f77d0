"""Bilinear interpolation as ``torch.nn.functional.interpolate`` with ``align_corners=False``, where a kernel reads."""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import Ratio, Strides
from sdn_triton.kernels.pixels import image_offsets, pixel_offsets, store_tile, tile_origin, tile_pixels


@triton.jit
def source_lines(positions, size, ratio):
    """The two lines of ``size`` that each position of the larger image mixes, and the share of the second."""
    source = tl.maximum((positions.to(tl.float32) + 0.5) * ratio - 0.5, 0.0)
    low = tl.minimum(source.to(tl.int32), size - 1)
    return low, tl.minimum(low + 1, size - 1), source - low.to(tl.float32)


@triton.jit
def resized_at(
    v_ptr,
    rows,  # of the larger image, [BLOCK_P]
    columns,
    channels,  # offsets of the channels, [1, BLOCK_C]
    mask,  # [BLOCK_P, BLOCK_C]; elsewhere the result is 0
    HV,
    WV,
    ratio,
    strides,
    INT64: tl.constexpr,
):
    """A smaller image at positions of the larger one, in its own precision, [BLOCK_P, BLOCK_C]."""
    top, bottom, lower = source_lines(rows, HV, ratio.h)
    left, right, further = source_lines(columns, WV, ratio.w)
    lower = lower[:, None]
    further = further[:, None]
    top_left = v_ptr + pixel_offsets(top, left, strides, INT64)[:, None] + channels
    top_right = v_ptr + pixel_offsets(top, right, strides, INT64)[:, None] + channels
    bottom_left = v_ptr + pixel_offsets(bottom, left, strides, INT64)[:, None] + channels
    bottom_right = v_ptr + pixel_offsets(bottom, right, strides, INT64)[:, None] + channels
    above = (1.0 - further) * tl.load(top_left, mask=mask, other=0.0).to(tl.float32)
    above += further * tl.load(top_right, mask=mask, other=0.0).to(tl.float32)
    below = (1.0 - further) * tl.load(bottom_left, mask=mask, other=0.0).to(tl.float32)
    below += further * tl.load(bottom_right, mask=mask, other=0.0).to(tl.float32)
    return ((1.0 - lower) * above + lower * below).to(v_ptr.dtype.element_ty)


@triton.jit
def share_of_line(line, low, high, share):
    """How much of each position's mixture comes from ``line``."""
    return tl.where(low == line, 1.0 - share, 0.0) + tl.where(high == line, share, 0.0)


@triton.jit(do_not_specialize=["H", "HV", "reach_h", "reach_w"])
def resize_gradient_kernel(
    small_ptr,
    large_ptr,
    C,
    H,  # of the larger image
    W,
    HV,
    WV,
    ratio: Ratio,
    reach_h,  # lines of the larger image that may mix one of the smaller
    reach_w,
    small_strides: Strides,
    large_strides: Strides,
    INT64: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The adjoint of the interpolation: ``small[i, j] = sum_{r, s} share(r, i) share(s, j) large[r, s]``.

    Gathered, so that no two programs add to one number, and always in the same order. One program: a tile of BLOCK_H x
    BLOCK_W pixels of the smaller image by BLOCK_C channels. Grid: (tiles * cdiv(C, BLOCK_C),).
    """
    c_blocks = tl.cdiv(C, BLOCK_C)
    n, first_row, first_column = tile_origin(tl.program_id(0) // c_blocks, HV, WV, BLOCK_H, BLOCK_W)
    channels = tl.program_id(0) % c_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = (channels < C)[None, :]
    rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [BLOCK_P]
    # The first line of the larger image whose source is past the line before; one more for what rounding does.
    start_h = tl.floor((rows.to(tl.float32) - 0.5) / ratio.h - 0.5).to(tl.int32) - 1
    start_w = tl.floor((columns.to(tl.float32) - 0.5) / ratio.w - 0.5).to(tl.int32) - 1
    large_ptr += n * large_strides.n

    total = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32)
    for i in range(0, reach_h):
        r = start_h + i
        top, bottom, lower = source_lines(r, HV, ratio.h)
        share_h = tl.where((r >= 0) & (r < H), share_of_line(rows, top, bottom, lower), 0.0)
        for j in range(0, reach_w):
            s = start_w + j
            left, right, further = source_lines(s, WV, ratio.w)
            share_w = tl.where((s >= 0) & (s < W), share_of_line(columns, left, right, further), 0.0)
            share = (share_h * share_w)[:, None]
            offsets = image_offsets(r, s, channels, large_strides, INT64)
            total += share * tl.load(large_ptr + offsets, mask=(share > 0.0) & c_mask, other=0.0).to(tl.float32)
    mask = ((rows < HV) & (columns < WV))[:, None] & c_mask
    store_tile(small_ptr, total, n, rows, columns, channels, mask, small_strides, INT64)
