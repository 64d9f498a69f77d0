"""The feature fusion: one matrix product over a concatenation that is never made."""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import Strides
from sdn_triton.kernels.factors import as_factor
from sdn_triton.kernels.fusion import activate, load_affine
from sdn_triton.kernels.pixels import load_channels, pixel_pointers, store_tile, tile_origin, tile_pixels
from sdn_triton.kernels.products import finished


@triton.jit(do_not_specialize=["H"])
def fusion_forward_kernel(
    z_ptr,
    u_ptr,
    y_ptr,
    weight_ptr,  # [O, C + R], contiguous
    bias_ptr,  # [O], or None
    scale_ptr,  # [R], or None, as the next one
    shift_ptr,
    C,
    R,
    O,
    H,
    W,
    z_strides: Strides,
    u_strides: Strides,
    y_strides: Strides,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    INT64: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """``z[n,o,p] = sum_c K[o,c] u[n,c,p] + sum_r K[o,C+r] act(scale[r] y[n,r,p] + shift[r]) + b[o]``.

    One program: a tile of BLOCK_H x BLOCK_W pixels by BLOCK_O outputs. Grid: (tiles * cdiv(O, BLOCK_O),).
    """
    o_blocks = tl.cdiv(O, BLOCK_O)
    n, first_row, first_column = tile_origin(tl.program_id(0) // o_blocks, H, W, BLOCK_H, BLOCK_W)
    outputs = tl.program_id(0) % o_blocks * BLOCK_O + tl.arange(0, BLOCK_O)
    o_mask = outputs < O
    rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [BLOCK_P]
    p_mask = ((rows < H) & (columns < W))[:, None]
    weight_rows = weight_ptr + (outputs * (C + R))[None, :]

    u_pixels = pixel_pointers(u_ptr, n, rows, columns, u_strides, INT64)
    y_pixels = pixel_pointers(y_ptr, n, rows, columns, y_strides, INT64)
    accumulator = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_O), tl.float32)
    for c in range(0, C, BLOCK_C):
        channels = c + tl.arange(0, BLOCK_C)
        c_mask = channels < C
        u = load_channels(u_pixels, channels, p_mask & c_mask[None, :], u_strides, INT64)  # [BLOCK_P, BLOCK_C]
        weight = tl.load(weight_rows + channels[:, None], mask=c_mask[:, None] & o_mask[None, :], other=0.0)
        accumulator = tl.dot(u, weight, accumulator, input_precision=PRECISION)
    for r in range(0, R, BLOCK_C):
        channels = r + tl.arange(0, BLOCK_C)
        r_mask = channels < R
        y = load_channels(y_pixels, channels, p_mask & r_mask[None, :], y_strides, INT64)
        scale, shift = load_affine(scale_ptr, shift_ptr, channels, r_mask)
        weight = tl.load(weight_rows + (C + channels)[:, None], mask=r_mask[:, None] & o_mask[None, :], other=0.0)
        a = as_factor(activate(y, scale, shift, ACTIVATION), weight.dtype, PRECISION)
        accumulator = tl.dot(a, weight, accumulator, input_precision=PRECISION)
        accumulator = finished(accumulator, weight.dtype, PRECISION)

    if bias_ptr is not None:
        accumulator += tl.load(bias_ptr + outputs, mask=o_mask, other=0.0).to(tl.float32)[None, :]
    store_tile(z_ptr, accumulator, n, rows, columns, outputs, p_mask & o_mask[None, :], z_strides, INT64)
