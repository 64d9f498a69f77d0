"""The depthwise difference convolution and its weight gradient: nothing in them is a matrix product."""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import Contrast, Steps, Strides
from sdn_triton.kernels.difference import load_far_ends, load_inverse_contrast, weighted_difference
from sdn_triton.kernels.pixels import (
    centres_of,
    geometry_of,
    image_offsets,
    inside,
    load_tile,
    skip_centre,
    tap_position,
    tile_origin,
    tile_pixels,
)
from sdn_triton.kernels.response import store_response


@triton.jit(do_not_specialize=["H", "HO", "origin_h", "origin_w"])
def depthwise_forward_kernel(
    y_ptr,
    moments_ptr,  # [tiles, 2, all outputs] in float32, see kernels/moments.py, or None
    u_ptr,
    v_ptr,
    weight_ptr,  # [O, TAPS], contiguous
    bias_ptr,  # or None
    contrast: Contrast,
    O,
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
    MULTIPLIER: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
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
    at = geometry_of(H, W, HO, WO, origin_h, origin_w, steps)
    o_blocks = tl.cdiv(O, BLOCK_O)
    tile = tl.program_id(0) // o_blocks
    n, first_row, first_column = tile_origin(tile, HO, WO, BLOCK_H, BLOCK_W)
    outputs = tl.program_id(0) % o_blocks * BLOCK_O + tl.arange(0, BLOCK_O)
    o_mask = outputs < O
    channels = outputs // MULTIPLIER
    rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [BLOCK_P]
    centre_rows, centre_columns = centres_of(rows, columns, at)
    p_inside = inside(centre_rows, centre_columns, H, W)
    p_mask = p_inside[:, None] & o_mask[None, :]

    u_image = u_ptr + n * u_strides.n
    v_image = v_ptr + n * v_strides.n
    u_offsets = image_offsets(centre_rows, centre_columns, channels, u_strides, INT64)  # [BLOCK_P, BLOCK_O]
    v_offsets = image_offsets(centre_rows, centre_columns, channels, v_strides, INT64)
    u_p = tl.load(u_image + u_offsets, mask=p_mask, other=0.0)
    v_p = tl.load(v_image + v_offsets, mask=p_mask, other=0.0)
    inverse = load_inverse_contrast(contrast, 0, channels, o_mask)

    sums = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_O), tl.float32)
    for tap in range(TAPS - 1):
        position = skip_centre(tap, KERNEL_H, KERNEL_W)
        dy, dx = tap_position(position, at, KERNEL_H, KERNEL_W)
        u_q, v_q, q_inside = load_far_ends(
            u_image, v_image, u_offsets, v_offsets, centre_rows, centre_columns, dy, dx, True, o_mask, at,
            u_strides, v_strides, INT64,
        )  # fmt: skip
        weight = tl.load(weight_ptr + outputs * TAPS + position, mask=o_mask, other=0.0)
        sums += weight.to(tl.float32)[None, :] * weighted_difference(
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
    store_response(
        y_ptr, moments_ptr, bias_ptr, sums, n, tile, rows, columns, outputs, 0, 1, O, at, y_strides, INT64
    )  # fmt: skip


@triton.jit(do_not_specialize=["tiles", "H", "HO", "origin_h", "origin_w"])
def depthwise_weight_gradient_kernel(
    dweight_ptr,  # [splits, O, TAPS] in float32, or None
    dbias_ptr,  # [splits, O] in float32, or None
    gradient_ptr,
    u_ptr,
    v_ptr,
    contrast: Contrast,
    tiles,  # of all images
    O,
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
    MULTIPLIER: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
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
    at = geometry_of(H, W, HO, WO, origin_h, origin_w, steps)
    split = tl.program_id(1)
    splits = tl.num_programs(1)
    outputs = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    o_mask = outputs < O
    channels = outputs // MULTIPLIER
    positions = tl.arange(0, BLOCK_T)[:, None]  # [BLOCK_T, 1]
    inverse = load_inverse_contrast(contrast, 0, channels, o_mask)

    sums = tl.zeros((BLOCK_T, BLOCK_O), tl.float32)
    for tile in range(split, tiles, splits):
        n, first_row, first_column = tile_origin(tile, HO, WO, BLOCK_H, BLOCK_W)
        rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [BLOCK_P]
        valid = (rows < HO) & (columns < WO)
        centre_rows, centre_columns = centres_of(rows, columns, at)
        # Positions past the output read nothing: it might be NaN, and NaN times a zero gradient is NaN.
        p_inside = inside(centre_rows, centre_columns, H, W) & valid
        p_mask = p_inside[:, None] & o_mask[None, :]
        u_offsets = image_offsets(centre_rows, centre_columns, channels, u_strides, INT64)
        v_offsets = image_offsets(centre_rows, centre_columns, channels, v_strides, INT64)
        g_mask = valid[:, None] & o_mask[None, :]
        gradient = load_tile(gradient_ptr, n, rows, columns, outputs, g_mask, g_strides, INT64)
        gradient = gradient.to(tl.float32)  # [BLOCK_P, BLOCK_O]
        if dbias_ptr is not None:
            sums += tl.where(positions == TAPS // 2, tl.sum(gradient, axis=0, keep_dims=True), 0.0)
        if dweight_ptr is not None:
            u_image = u_ptr + n * u_strides.n
            v_image = v_ptr + n * v_strides.n
            u_p = tl.load(u_image + u_offsets, mask=p_mask, other=0.0)
            v_p = tl.load(v_image + v_offsets, mask=p_mask, other=0.0)
            for tap in range(TAPS - 1):
                position = skip_centre(tap, KERNEL_H, KERNEL_W)
                dy, dx = tap_position(position, at, KERNEL_H, KERNEL_W)
                u_q, v_q, q_inside = load_far_ends(
                    u_image, v_image, u_offsets, v_offsets, centre_rows, centre_columns, dy, dx, valid, o_mask, at,
                    u_strides, v_strides, INT64,
                )  # fmt: skip
                flow = weighted_difference(
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
                # Every thread of a warp ends up with a copy of the sum and stores it. Adding nothing keeps the compiler
                # from fusing the product with the first addition, which would round the copies differently.
                product = gradient * flow + 0.0
                sums += tl.where(positions == position, tl.sum(product, axis=0, keep_dims=True), 0.0)

    row = split.to(tl.int64) * O + outputs[None, :]
    if dbias_ptr is not None:
        bias_row = tl.sum(tl.where(positions == TAPS // 2, sums, 0.0), axis=0, keep_dims=True)
        tl.store(dbias_ptr + row, bias_row, mask=o_mask[None, :])
    if dweight_ptr is not None:
        weight_rows = tl.where(positions == TAPS // 2, 0.0, sums)
        tl.store(dweight_ptr + row * TAPS + positions, weight_rows, mask=o_mask[None, :] & (positions < TAPS))
