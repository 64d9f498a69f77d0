"""The gradients of a difference convolution with respect to weight and bias, dense or grouped."""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import Contrast, Steps, Strides
from sdn_triton.kernels.difference import load_inverse_contrast, weighted_difference
from sdn_triton.kernels.factors import as_factor
from sdn_triton.kernels.pixels import (
    centres_of,
    channel_offsets,
    geometry_of,
    inside,
    load_tile,
    pixel_offsets,
    tap_position,
    tile_origin,
    tile_pixels,
)
from sdn_triton.kernels.reduction import sum_over_pixels


@triton.jit(do_not_specialize=["tiles", "H", "HO", "origin_h", "origin_w"])
def difference_weight_gradient_kernel(
    dweight_ptr,  # [splits, groups * O, TAPS, C] in float32, or None
    dbias_ptr,  # [splits, groups * O] in float32, or None
    gradient_ptr,
    u_ptr,
    v_ptr,  # guidance, or with VECTOR the similarity maps [N, TAPS - 1, HO, WO]
    contrast: Contrast,
    tiles,  # of all images
    C,  # channels of one group
    O,  # outputs of one group
    H,
    W,
    HO,
    WO,
    origin_h,
    origin_w,
    steps: Steps,
    g_strides: Strides,
    u_strides: Strides,
    v_strides: Strides,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    VECTOR: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    PRECISION: tl.constexpr,
    INT64: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """``dL/dK[o,c,tap] = sum_p G[o,p] s (u[c,q] - u[c,p])`` and ``dL/db[o] = sum_p G[o,p]``, over every splits-th tile.

    One program: BLOCK_O outputs by BLOCK_C channels of one kernel position and one split. The weight at the centre has
    no part in the convolution: its programs write zeros, and those of the first channels sum the bias gradient.
    Grid: (cdiv(O, BLOCK_O) * cdiv(C, BLOCK_C) * groups, TAPS, splits).
    """
    TAPS: tl.constexpr = KERNEL_H * KERNEL_W
    o_blocks = tl.cdiv(O, BLOCK_O)
    c_blocks = tl.cdiv(C, BLOCK_C)
    o_block = tl.program_id(0) % o_blocks
    c_block = tl.program_id(0) // o_blocks % c_blocks
    group = (tl.program_id(0) // (o_blocks * c_blocks)).to(tl.int64)
    position = tl.program_id(1)
    split = tl.program_id(2)
    splits = tl.num_programs(2)
    outputs = o_block * BLOCK_O + tl.arange(0, BLOCK_O)
    o_mask = outputs < O
    channels = c_block * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = channels < C
    gradient_ptr += group * O * g_strides.c
    groups = tl.num_programs(0) // (o_blocks * c_blocks)
    first_output = (split.to(tl.int64) * groups + group) * O  # of this split and group

    accumulator = tl.zeros((BLOCK_O, BLOCK_C), tl.float32)
    if position == TAPS // 2:
        if dbias_ptr is not None:  # noqa: SIM102 (a compile-time condition is not to be mixed with one of run time)
            if c_block == 0:
                dbias = sum_over_pixels(
                    gradient_ptr, outputs, o_mask, split, splits, tiles, HO, WO, g_strides, INT64, BLOCK_H, BLOCK_W
                )  # fmt: skip
                tl.store(dbias_ptr + first_output + outputs[None, :], dbias, mask=o_mask[None, :])
    elif dweight_ptr is not None:
        at = geometry_of(H, W, HO, WO, origin_h, origin_w, steps)
        dy, dx = tap_position(position, at, KERNEL_H, KERNEL_W)
        u_ptr += group * C * u_strides.c
        u_tap = u_ptr + pixel_offsets(dy, dx, u_strides, INT64)
        if VECTOR:
            tap = position - (position > TAPS // 2).to(tl.int32)
            v_tap = v_ptr + channel_offsets(tap, v_strides.c, INT64)
        else:
            v_ptr += group * C * v_strides.c
            v_tap = v_ptr + pixel_offsets(dy, dx, v_strides, INT64)
        inverse = load_inverse_contrast(contrast, group * C, channels, c_mask)

        for tile in range(split, tiles, splits):
            n, first_row, first_column = tile_origin(tile, HO, WO, BLOCK_H, BLOCK_W)
            rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [BLOCK_P]
            valid = (rows < HO) & (columns < WO)
            centre_rows, centre_columns = centres_of(rows, columns, at)
            # Positions past the output read nothing: it might be NaN, and NaN times a zero gradient is NaN.
            p_inside = inside(centre_rows, centre_columns, H, W) & valid
            q_inside = inside(centre_rows + dy, centre_columns + dx, H, W) & valid
            p_mask = p_inside[:, None] & c_mask[None, :]
            q_mask = q_inside[:, None] & c_mask[None, :]
            u_p = load_tile(u_ptr, n, centre_rows, centre_columns, channels, p_mask, u_strides, INT64)
            u_q = load_tile(u_tap, n, centre_rows, centre_columns, channels, q_mask, u_strides, INT64)
            if VECTOR:
                v_pixels = pixel_offsets(rows, columns, v_strides, INT64)
                v_p = u_p
                v_q = tl.load(v_tap + n * v_strides.n + v_pixels, mask=valid, other=0.0)[:, None]  # [BLOCK_P, 1]
            else:
                v_p = load_tile(v_ptr, n, centre_rows, centre_columns, channels, p_mask, v_strides, INT64)
                v_q = load_tile(v_tap, n, centre_rows, centre_columns, channels, q_mask, v_strides, INT64)
            flow = weighted_difference(
                u_p,
                u_q,
                v_p,
                v_q,
                both_inside=(p_inside & q_inside)[:, None],
                inverse_contrast=inverse,
                DIFFUSIVITY=DIFFUSIVITY,
                VECTOR=VECTOR,
                ZERO_FLUX=ZERO_FLUX,
            )
            g_mask = valid[:, None] & o_mask[None, :]
            gradient = load_tile(gradient_ptr, n, rows, columns, outputs, g_mask, g_strides, INT64)
            accumulator = tl.dot(
                tl.trans(gradient), as_factor(flow, gradient.dtype, PRECISION), accumulator, input_precision=PRECISION
            )  # [BLOCK_O, BLOCK_C]

    if dweight_ptr is not None:
        dweight_ptr += (first_output * TAPS + position) * C
        dweight_offsets = (outputs * (TAPS * C))[:, None] + channels[None, :]
        tl.store(dweight_ptr + dweight_offsets, accumulator, mask=o_mask[:, None] & c_mask[None, :])
