"""The semantic difference convolution, dense or grouped: an implicit GEMM over the weighted differences."""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import Contrast, Ratio, Steps, Strides
from sdn_triton.kernels.difference import load_inverse_contrast, weighted_difference
from sdn_triton.kernels.pixels import (
    centres_of,
    channel_offsets,
    geometry_of,
    inside,
    pixel_offsets,
    skip_centre,
    tap_position,
    tile_origin,
    tile_pixels,
)
from sdn_triton.kernels.products import finished
from sdn_triton.kernels.resize import resized_at
from sdn_triton.kernels.response import store_response


@triton.jit
def response_of_tile(
    u_ptr,  # of the first channel of the group, as are v and the weight
    v_ptr,  # guidance, or with VECTOR the similarity maps [N, TAPS - 1, HO, WO]
    weight_ptr,  # [O, TAPS, C], contiguous
    contrast,
    first_channel,  # of the group
    n,
    rows,  # of the outputs, [BLOCK_P]
    columns,
    outputs,  # [BLOCK_O]
    C,
    O,
    HV,  # of the guidance, where it is resized
    WV,
    ratio,
    at,
    u_strides,
    v_strides,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    VECTOR: tl.constexpr,
    RESIZED: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    PRECISION: tl.constexpr,
    INT64: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``sum_{c, tap} K[o,c,tap] s(n,c,p,q) (u[n,c,q] - u[n,c,p])`` of a tile of outputs, [BLOCK_P, BLOCK_O].

    The centre of a pixel stays in registers while the taps go by.
    """
    TAPS: tl.constexpr = KERNEL_H * KERNEL_W
    o_mask = outputs < O
    centre_rows, centre_columns = centres_of(rows, columns, at)
    p_inside = inside(centre_rows, centre_columns, at.H, at.W)

    u_ptr += n * u_strides.n
    u_pixels = pixel_offsets(centre_rows, centre_columns, u_strides, INT64)
    v_ptr += n * v_strides.n
    if VECTOR:
        v_pixels = pixel_offsets(rows, columns, v_strides, INT64)
        v_mask = (rows < at.HO) & (columns < at.WO)
    else:
        v_pixels = pixel_offsets(centre_rows, centre_columns, v_strides, INT64)

    accumulator = tl.zeros((rows.shape[0], outputs.shape[0]), tl.float32)
    for c in range(0, C, BLOCK_C):
        channels = c + tl.arange(0, BLOCK_C)
        c_mask = channels < C
        u_offsets = u_pixels[:, None] + channel_offsets(channels, u_strides.c, INT64)[None, :]  # [BLOCK_P, BLOCK_C]
        v_channels = channel_offsets(channels, v_strides.c, INT64)[None, :]
        p_mask = p_inside[:, None] & c_mask[None, :]
        u_p = tl.load(u_ptr + u_offsets, mask=p_mask, other=0.0)
        if VECTOR:
            v_p = u_p
        elif RESIZED:
            v_p = resized_at(
                v_ptr, centre_rows, centre_columns, v_channels, p_mask, HV, WV, ratio, v_strides, INT64
            )  # fmt: skip
        else:
            v_offsets = v_pixels[:, None] + v_channels
            v_p = tl.load(v_ptr + v_offsets, mask=p_mask, other=0.0)
        inverse = load_inverse_contrast(contrast, first_channel, channels, c_mask)
        weight_offsets = channels[:, None] + (outputs * (TAPS * C))[None, :]  # [BLOCK_C, BLOCK_O]
        weight_mask = c_mask[:, None] & o_mask[None, :]

        for tap in range(TAPS - 1):
            position = skip_centre(tap, KERNEL_H, KERNEL_W)
            dy, dx = tap_position(position, at, KERNEL_H, KERNEL_W)
            q_inside = inside(centre_rows + dy, centre_columns + dx, at.H, at.W)
            q_mask = q_inside[:, None] & c_mask[None, :]
            u_q = tl.load(u_ptr + pixel_offsets(dy, dx, u_strides, INT64) + u_offsets, mask=q_mask, other=0.0)
            if VECTOR:
                v_tap = v_ptr + channel_offsets(tap, v_strides.c, INT64)
                v_q = tl.load(v_tap + v_pixels, mask=v_mask, other=0.0)[:, None]  # [BLOCK_P, 1]
            elif RESIZED:
                v_q = resized_at(
                    v_ptr, centre_rows + dy, centre_columns + dx, v_channels, q_mask, HV, WV, ratio, v_strides, INT64
                )  # fmt: skip
            else:
                v_q = tl.load(v_ptr + pixel_offsets(dy, dx, v_strides, INT64) + v_offsets, mask=q_mask, other=0.0)
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
            weight = tl.load(weight_ptr + position * C + weight_offsets, mask=weight_mask, other=0.0)
            accumulator = tl.dot(flow.to(weight.dtype), weight, accumulator, input_precision=PRECISION)
            accumulator = finished(accumulator, weight.dtype, PRECISION)
    return accumulator


@triton.jit(do_not_specialize=["H", "HO", "origin_h", "origin_w"])
def difference_forward_kernel(
    y_ptr,
    moments_ptr,  # [tiles, 2, all outputs] in float32, see kernels/moments.py, or None
    u_ptr,
    v_ptr,  # guidance, or with VECTOR the similarity maps [N, TAPS - 1, HO, WO]
    weight_ptr,  # [groups * O, TAPS, C], contiguous
    bias_ptr,  # or None
    contrast: Contrast,
    C,  # channels of one group
    O,  # outputs of one group
    H,
    W,
    HO,
    WO,
    origin_h,
    origin_w,
    steps: Steps,
    y_strides: Strides,
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
    """``y[n,o,p] = b[o] + sum_{c, tap} K[o,c,tap] s(n,c,p,q) (u[n,c,q] - u[n,c,p])``.

    One program: a tile of BLOCK_H x BLOCK_W output pixels by BLOCK_O outputs of one group.
    Grid: (tiles * cdiv(O, BLOCK_O), groups).
    """
    at = geometry_of(H, W, HO, WO, origin_h, origin_w, steps)
    o_blocks = tl.cdiv(O, BLOCK_O)
    tile = tl.program_id(0) // o_blocks
    group = tl.program_id(1).to(tl.int64)
    n, first_row, first_column = tile_origin(tile, HO, WO, BLOCK_H, BLOCK_W)
    outputs = tl.program_id(0) % o_blocks * BLOCK_O + tl.arange(0, BLOCK_O)
    rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [BLOCK_P]

    u_ptr += group * C * u_strides.c
    if not VECTOR:
        v_ptr += group * C * v_strides.c
    weight_ptr += group * O * (KERNEL_H * KERNEL_W) * C
    sums = response_of_tile(
        u_ptr, v_ptr, weight_ptr, contrast, group * C, n, rows, columns, outputs, C, O, H, W, Ratio(1.0, 1.0), at,
        u_strides, v_strides, KERNEL_H, KERNEL_W, DIFFUSIVITY, VECTOR, False, ZERO_FLUX, PRECISION, INT64, BLOCK_C,
    )  # fmt: skip
    store_response(
        y_ptr, moments_ptr, bias_ptr, sums, n, tile, rows, columns, outputs, group, tl.num_programs(1), O, at,
        y_strides, INT64,
    )  # fmt: skip
