"""The depthwise difference convolution and its weight gradient: nothing in them is a matrix product."""

import triton
import triton.language as tl

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


@triton.jit(do_not_specialize=["H", "HO", "origin_h", "origin_w"])
def depthwise_forward_kernel(
    y_ptr,
    moments_ptr,  # [tiles, 2, all outputs] in float32, see kernels/moments.py
    u_ptr,
    v_ptr,
    weight_ptr,  # [O, TAPS], contiguous
    bias_ptr,
    contrast_ptr,
    inverse_contrast,
    O,
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
    MULTIPLIER: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_MOMENTS: tl.constexpr,
    LOAD_CONTRAST: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    INT64: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """``y[n,o,p] = b[o] + sum_tap K[o,tap] s(n,c,p,q) (u[n,c,q] - u[n,c,p])`` with ``c = o // MULTIPLIER``.

    One program: a tile of BLOCK_H x BLOCK_W output pixels by BLOCK_O outputs. Grid: (tiles * cdiv(O, BLOCK_O),).
    """
    TAPS: tl.constexpr = KERNEL_H * KERNEL_W
    o_blocks = tl.cdiv(O, BLOCK_O)
    n, first_row, first_column = tile_origin(tl.program_id(0) // o_blocks, HO, WO, BLOCK_H, BLOCK_W)
    outputs = tl.program_id(0) % o_blocks * BLOCK_O + tl.arange(0, BLOCK_O)
    o_mask = outputs < O
    channels = outputs // MULTIPLIER
    rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [BLOCK_P]
    centre_rows = rows * step_h + origin_h
    centre_columns = columns * step_w + origin_w
    p_inside = inside(centre_rows, centre_columns, H, W)
    p_mask = p_inside[:, None] & o_mask[None, :]

    u_ptr += n * stride_un
    v_ptr += n * stride_vn
    u_pixels = flat_offsets(centre_rows, centre_columns, stride_uh, stride_uw, INT64)
    v_pixels = flat_offsets(centre_rows, centre_columns, stride_vh, stride_vw, INT64)
    u_offsets = u_pixels[:, None] + channel_offsets(channels, stride_uc, INT64)[None, :]  # [BLOCK_P, BLOCK_O]
    v_offsets = v_pixels[:, None] + channel_offsets(channels, stride_vc, INT64)[None, :]
    u_p = tl.load(u_ptr + u_offsets, mask=p_mask, other=0.0)
    v_p = tl.load(v_ptr + v_offsets, mask=p_mask, other=0.0)
    inverse = load_inverse_contrast(contrast_ptr, inverse_contrast, stride_contrast, channels, o_mask, LOAD_CONTRAST)

    y = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_O), tl.float32)
    for tap in range(TAPS - 1):
        position = skip_centre(tap, KERNEL_H, KERNEL_W)
        dy, dx = flat_tap(position, dilation_h, dilation_w, KERNEL_H, KERNEL_W)
        q_inside = inside(centre_rows + dy, centre_columns + dx, H, W)
        q_mask = q_inside[:, None] & o_mask[None, :]
        u_q = tl.load(u_ptr + flat_offsets(dy, dx, stride_uh, stride_uw, INT64) + u_offsets, mask=q_mask, other=0.0)
        v_q = tl.load(v_ptr + flat_offsets(dy, dx, stride_vh, stride_vw, INT64) + v_offsets, mask=q_mask, other=0.0)
        weight = tl.load(weight_ptr + outputs * TAPS + position, mask=o_mask, other=0.0)
        y += weight.to(tl.float32)[None, :] * weighted_difference(
            u_p,
            u_q,
            v_p,
            v_q,
            both_inside=(p_inside & q_inside)[:, None],
            inverse_contrast=inverse,
            DIFFUSIVITY=DIFFUSIVITY,
            VECTOR=False,
            ZERO_FLUX=ZERO_FLUX,
        )

    if HAS_BIAS:
        y += tl.load(bias_ptr + outputs, mask=o_mask, other=0.0).to(tl.float32)[None, :]
    y_ptr += n * stride_yn
    y_pixels = flat_offsets(rows, columns, stride_yh, stride_yw, INT64)
    y_offsets = y_pixels[:, None] + channel_offsets(outputs, stride_yc, INT64)[None, :]
    p_mask = (rows < HO) & (columns < WO)
    y = y.to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + y_offsets, y, mask=p_mask[:, None] & o_mask[None, :])
    if HAS_MOMENTS:
        tile = tl.program_id(0) // o_blocks
        store_tile_moments(moments_ptr, y.to(tl.float32), p_mask, tile, outputs, o_mask, O)


@triton.jit(do_not_specialize=["tiles", "H", "HO", "origin_h", "origin_w"])
def depthwise_weight_gradient_kernel(
    dweight_ptr,  # [splits, O, TAPS] in float32
    dbias_ptr,  # [splits, O] in float32
    gradient_ptr,
    u_ptr,
    v_ptr,
    contrast_ptr,
    inverse_contrast,
    tiles,  # of all images
    O,
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
    stride_gn,
    stride_gc,
    stride_gh,
    stride_gw,
    stride_un,
    stride_uc,
    stride_uh,
    stride_uw,
    stride_vn,
    stride_vc,
    stride_vh,
    stride_vw,
    stride_contrast,
    MULTIPLIER: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    NEEDS_WEIGHT: tl.constexpr,
    NEEDS_BIAS: tl.constexpr,
    LOAD_CONTRAST: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    INT64: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """``dL/dK[o,tap] = sum_p G[o,p] s (u[c,q] - u[c,p])`` and ``dL/db[o] = sum_p G[o,p]``, over every splits-th tile.

    One program: BLOCK_O outputs, all taps (BLOCK_T >= TAPS), one split. A tile is read once; its sums go to the row of
    their tap, and the sum of G alone to the row of the centre, whose weight has no part in the convolution.
    Grid: (cdiv(O, BLOCK_O), splits).
    """
    TAPS: tl.constexpr = KERNEL_H * KERNEL_W
    split = tl.program_id(1)
    splits = tl.num_programs(1)
    outputs = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    o_mask = outputs < O
    channels = outputs // MULTIPLIER
    positions = tl.arange(0, BLOCK_T)[:, None]  # [BLOCK_T, 1]
    inverse = load_inverse_contrast(contrast_ptr, inverse_contrast, stride_contrast, channels, o_mask, LOAD_CONTRAST)
    g_channels = channel_offsets(outputs, stride_gc, INT64)[None, :]
    u_channels = channel_offsets(channels, stride_uc, INT64)[None, :]
    v_channels = channel_offsets(channels, stride_vc, INT64)[None, :]

    sums = tl.zeros((BLOCK_T, BLOCK_O), tl.float32)
    for tile in range(split, tiles, splits):
        n, first_row, first_column = tile_origin(tile, HO, WO, BLOCK_H, BLOCK_W)
        rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [BLOCK_P]
        valid = (rows < HO) & (columns < WO)
        centre_rows = rows * step_h + origin_h
        centre_columns = columns * step_w + origin_w
        # Positions past the output read nothing: it might be NaN, and NaN times a zero gradient is NaN.
        p_inside = inside(centre_rows, centre_columns, H, W) & valid
        p_mask = p_inside[:, None] & o_mask[None, :]
        u_offsets = flat_offsets(centre_rows, centre_columns, stride_uh, stride_uw, INT64)[:, None] + u_channels
        v_offsets = flat_offsets(centre_rows, centre_columns, stride_vh, stride_vw, INT64)[:, None] + v_channels
        g_offsets = flat_offsets(rows, columns, stride_gh, stride_gw, INT64)[:, None] + g_channels
        gradient = tl.load(
            gradient_ptr + n * stride_gn + g_offsets, mask=valid[:, None] & o_mask[None, :], other=0.0
        ).to(tl.float32)  # [BLOCK_P, BLOCK_O]
        if NEEDS_BIAS:
            sums += tl.where(positions == TAPS // 2, tl.sum(gradient, axis=0, keep_dims=True), 0.0)
        if NEEDS_WEIGHT:
            u_image = u_ptr + n * stride_un
            v_image = v_ptr + n * stride_vn
            u_p = tl.load(u_image + u_offsets, mask=p_mask, other=0.0)
            v_p = tl.load(v_image + v_offsets, mask=p_mask, other=0.0)
            for tap in range(TAPS - 1):
                position = skip_centre(tap, KERNEL_H, KERNEL_W)
                dy, dx = flat_tap(position, dilation_h, dilation_w, KERNEL_H, KERNEL_W)
                q_inside = inside(centre_rows + dy, centre_columns + dx, H, W) & valid
                q_mask = q_inside[:, None] & o_mask[None, :]
                u_tap = u_image + flat_offsets(dy, dx, stride_uh, stride_uw, INT64)
                v_tap = v_image + flat_offsets(dy, dx, stride_vh, stride_vw, INT64)
                flow = weighted_difference(
                    u_p,
                    tl.load(u_tap + u_offsets, mask=q_mask, other=0.0),
                    v_p,
                    tl.load(v_tap + v_offsets, mask=q_mask, other=0.0),
                    both_inside=(p_inside & q_inside)[:, None],
                    inverse_contrast=inverse,
                    DIFFUSIVITY=DIFFUSIVITY,
                    VECTOR=False,
                    ZERO_FLUX=ZERO_FLUX,
                )
                # Every thread of a warp ends up with a copy of the sum and stores it. Adding nothing keeps the compiler
                # from fusing the product with the first addition, which would round the copies differently.
                product = gradient * flow + 0.0
                sums += tl.where(positions == position, tl.sum(product, axis=0, keep_dims=True), 0.0)

    row = split.to(tl.int64) * O + outputs[None, :]
    if NEEDS_BIAS:
        bias_row = tl.sum(tl.where(positions == TAPS // 2, sums, 0.0), axis=0, keep_dims=True)
        tl.store(dbias_ptr + row, bias_row, mask=o_mask[None, :])
    if NEEDS_WEIGHT:
        weight_rows = tl.where(positions == TAPS // 2, 0.0, sums)
        tl.store(dweight_ptr + row * TAPS + positions, weight_rows, mask=o_mask[None, :] & (positions < TAPS))
