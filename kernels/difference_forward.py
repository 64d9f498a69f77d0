"""The semantic difference convolution, dense or grouped: an implicit GEMM over the weighted differences."""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import Ratio, Strides
from sdn_triton.kernels.difference import load_inverse_contrast, weighted_difference
from sdn_triton.kernels.moments import store_tile_moments
from sdn_triton.kernels.pixels import (
    channel_offsets,
    flat_offsets,
    flat_tap,
    inside,
    skip_centre,
    tile_origin,
    tile_pixels,
)
from sdn_triton.kernels.products import finished
from sdn_triton.kernels.resize import resized_at


@triton.jit
def response_of_tile(
    u_ptr,  # of the first channel of the group, as are those below
    v_ptr,  # guidance, or with VECTOR the similarity maps [N, TAPS - 1, HO, WO]
    weight_ptr,  # [O, TAPS, C], contiguous
    contrast_ptr,
    inverse_contrast,
    n,
    rows,  # of the outputs, [BLOCK_P]
    columns,
    outputs,  # [BLOCK_O]
    C,
    O,
    H,
    W,
    HO,
    WO,
    HV,  # of the guidance, where it is resized
    WV,
    ratio_h,  # HV / H
    ratio_w,
    origin_h,
    origin_w,
    step_h,
    step_w,
    dilation_h,
    dilation_w,
    stride_un,
    stride_uc,
    stride_uh,
    stride_uw,
    stride_vn,
    stride_vc,
    stride_vh,
    stride_vw,
    stride_contrast,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    LOAD_CONTRAST: tl.constexpr,
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
    centre_rows = rows * step_h + origin_h
    centre_columns = columns * step_w + origin_w
    p_inside = inside(centre_rows, centre_columns, H, W)

    u_ptr += n * stride_un
    u_pixels = flat_offsets(centre_rows, centre_columns, stride_uh, stride_uw, INT64)
    v_ptr += n * stride_vn
    if VECTOR:
        v_pixels = flat_offsets(rows, columns, stride_vh, stride_vw, INT64)
        v_mask = (rows < HO) & (columns < WO)
    else:
        v_pixels = flat_offsets(centre_rows, centre_columns, stride_vh, stride_vw, INT64)

    accumulator = tl.zeros((rows.shape[0], outputs.shape[0]), tl.float32)
    for c in range(0, C, BLOCK_C):
        channels = c + tl.arange(0, BLOCK_C)
        c_mask = channels < C
        u_offsets = u_pixels[:, None] + channel_offsets(channels, stride_uc, INT64)[None, :]  # [BLOCK_P, BLOCK_C]
        p_mask = p_inside[:, None] & c_mask[None, :]
        u_p = tl.load(u_ptr + u_offsets, mask=p_mask, other=0.0)
        if VECTOR:
            v_p = u_p
        elif RESIZED:
            v_channels = channel_offsets(channels, stride_vc, INT64)[None, :]
            v_p = resized_at(
                v_ptr, centre_rows, centre_columns, v_channels, p_mask, HV, WV, Ratio(ratio_h, ratio_w),
                Strides(stride_vn, stride_vc, stride_vh, stride_vw), INT64,
            )  # fmt: skip
        else:
            v_offsets = v_pixels[:, None] + channel_offsets(channels, stride_vc, INT64)[None, :]
            v_p = tl.load(v_ptr + v_offsets, mask=p_mask, other=0.0)
        inverse = load_inverse_contrast(
            contrast_ptr, inverse_contrast, stride_contrast, channels, c_mask, LOAD_CONTRAST
        )
        weight_offsets = channels[:, None] + (outputs * (TAPS * C))[None, :]  # [BLOCK_C, BLOCK_O]
        weight_mask = c_mask[:, None] & o_mask[None, :]

        for tap in range(TAPS - 1):
            position = skip_centre(tap, KERNEL_H, KERNEL_W)
            dy, dx = flat_tap(position, dilation_h, dilation_w, KERNEL_H, KERNEL_W)
            q_inside = inside(centre_rows + dy, centre_columns + dx, H, W)
            q_mask = q_inside[:, None] & c_mask[None, :]
            u_tap = u_ptr + flat_offsets(dy, dx, stride_uh, stride_uw, INT64)
            u_q = tl.load(u_tap + u_offsets, mask=q_mask, other=0.0)
            if VECTOR:
                v_tap = v_ptr + channel_offsets(tap, stride_vc, INT64)
                v_q = tl.load(v_tap + v_pixels, mask=v_mask, other=0.0)[:, None]  # [BLOCK_P, 1]
            elif RESIZED:
                v_q = resized_at(
                    v_ptr, centre_rows + dy, centre_columns + dx, v_channels, q_mask, HV, WV, Ratio(ratio_h, ratio_w),
                Strides(stride_vn, stride_vc, stride_vh, stride_vw), INT64,
                )  # fmt: skip
            else:
                v_tap = v_ptr + flat_offsets(dy, dx, stride_vh, stride_vw, INT64)
                v_q = tl.load(v_tap + v_offsets, mask=q_mask, other=0.0)
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
    moments_ptr,  # [tiles, 2, all outputs] in float32, see kernels/moments.py
    u_ptr,
    v_ptr,  # guidance, or with VECTOR the similarity maps [N, TAPS - 1, HO, WO]
    weight_ptr,  # [groups * O, TAPS, C], contiguous
    bias_ptr,
    contrast_ptr,
    inverse_contrast,
    C,  # channels of one group
    O,  # outputs of one group
    H,
    W,
    HO,
    WO,
    origin_h,
    origin_w,
    step_h,
    step_w,
    dilation_h,
    dilation_w,
    stride_yn,
    stride_yc,
    stride_yh,
    stride_yw,
    stride_un,
    stride_uc,
    stride_uh,
    stride_uw,
    stride_vn,
    stride_vc,
    stride_vh,
    stride_vw,
    stride_contrast,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_MOMENTS: tl.constexpr,
    LOAD_CONTRAST: tl.constexpr,
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
    TAPS: tl.constexpr = KERNEL_H * KERNEL_W
    o_blocks = tl.cdiv(O, BLOCK_O)
    group = tl.program_id(1).to(tl.int64)
    n, first_row, first_column = tile_origin(tl.program_id(0) // o_blocks, HO, WO, BLOCK_H, BLOCK_W)
    outputs = tl.program_id(0) % o_blocks * BLOCK_O + tl.arange(0, BLOCK_O)
    o_mask = outputs < O
    rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [BLOCK_P]

    u_ptr += group * C * stride_uc
    if not VECTOR:
        v_ptr += group * C * stride_vc
    if LOAD_CONTRAST:
        contrast_ptr += group * C * stride_contrast
    weight_ptr += group * O * TAPS * C
    accumulator = response_of_tile(
        u_ptr, v_ptr, weight_ptr, contrast_ptr, inverse_contrast, n, rows, columns, outputs, C, O, H, W, HO, WO,
        H, W, 1.0, 1.0, origin_h, origin_w, step_h, step_w, dilation_h, dilation_w,
        stride_un, stride_uc, stride_uh, stride_uw, stride_vn, stride_vc, stride_vh, stride_vw, stride_contrast,
        KERNEL_H, KERNEL_W, LOAD_CONTRAST, DIFFUSIVITY, VECTOR, False, ZERO_FLUX, PRECISION, INT64, BLOCK_C,
    )  # fmt: skip

    if HAS_BIAS:
        bias = tl.load(bias_ptr + group * O + outputs, mask=o_mask, other=0.0)
        accumulator += bias.to(tl.float32)[None, :]
    y_ptr += n * stride_yn + group * O * stride_yc
    y_pixels = flat_offsets(rows, columns, stride_yh, stride_yw, INT64)
    y_offsets = y_pixels[:, None] + channel_offsets(outputs, stride_yc, INT64)[None, :]
    p_mask = (rows < HO) & (columns < WO)
    y = accumulator.to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + y_offsets, y, mask=p_mask[:, None] & o_mask[None, :])
    if HAS_MOMENTS:
        store_tile_moments(
            moments_ptr,
            y.to(tl.float32),
            p_mask,
            tile=tl.program_id(0) // o_blocks,
            outputs=group * O + outputs,
            o_mask=o_mask,
            O=tl.num_programs(1) * O,
        )
