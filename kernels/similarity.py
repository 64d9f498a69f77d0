"""Vector similarity: one map per tap for all channels, computed once, and the gradients that pass through it."""

import triton
import triton.language as tl

from sdn_triton.kernels.difference import relative_difference
from sdn_triton.kernels.diffusivity import diffusivity
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
def similarity_kernel(
    s_ptr,  # [N, TAPS - 1, HO, WO] in float32, contiguous
    v_ptr,
    contrast_ptr,
    inverse_contrast,
    CG,  # channels of the guidance
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
    stride_sn,
    stride_sc,
    stride_sh,
    stride_sw,
    stride_vn,
    stride_vc,
    stride_vh,
    stride_vw,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    LOAD_CONTRAST: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    INT64: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``s[n,tap,p] = g(||v[n,:,q] - v[n,:,p]||_2)``.

    One program: a tile of BLOCK_H x BLOCK_W output pixels and one tap. Grid: (tiles, TAPS - 1).
    """
    n, first_row, first_column = tile_origin(tl.program_id(0), HO, WO, BLOCK_H, BLOCK_W)
    rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [BLOCK_P]
    tap = tl.program_id(1)
    dy, dx = flat_tap(skip_centre(tap, KERNEL_H, KERNEL_W), dilation_h, dilation_w, KERNEL_H, KERNEL_W)
    centre_rows = rows * step_h + origin_h
    centre_columns = columns * step_w + origin_w
    p_inside = inside(centre_rows, centre_columns, H, W)
    q_inside = inside(centre_rows + dy, centre_columns + dx, H, W)
    if LOAD_CONTRAST:
        inverse_contrast = 1.0 / tl.load(contrast_ptr).to(tl.float32)

    v_ptr += n * stride_vn
    v_tap = v_ptr + flat_offsets(dy, dx, stride_vh, stride_vw, INT64)
    v_pixels = flat_offsets(centre_rows, centre_columns, stride_vh, stride_vw, INT64)
    squares = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32)
    for c in range(0, CG, BLOCK_C):
        channels = c + tl.arange(0, BLOCK_C)
        c_mask = (channels < CG)[None, :]
        v_offsets = v_pixels[:, None] + channel_offsets(channels, stride_vc, INT64)[None, :]
        v_p = tl.load(v_ptr + v_offsets, mask=p_inside[:, None] & c_mask, other=0.0)
        v_q = tl.load(v_tap + v_offsets, mask=q_inside[:, None] & c_mask, other=0.0)
        t = relative_difference(v_p, v_q, inverse_contrast)
        squares += t * t
    s = diffusivity(tl.sum(squares, axis=1), DIFFUSIVITY)  # [BLOCK_P]
    s_tap = s_ptr + n * stride_sn + channel_offsets(tap, stride_sc, INT64)
    tl.store(s_tap + flat_offsets(rows, columns, stride_sh, stride_sw, INT64), s, mask=(rows < HO) & (columns < WO))


@triton.jit(do_not_specialize=["H"])
def similarity_gradient_kernel(
    dv_ptr,
    contrast_sums_ptr,  # [N * tiles * c_blocks] in float32
    edge_ptr,  # [N, TAPS - 1, H, W] in float32, from the data gradient kernel
    v_ptr,
    contrast_ptr,
    inverse_contrast,
    CG,  # channels of the guidance
    H,
    W,
    dilation_h,
    dilation_w,
    stride_dvn,
    stride_dvc,
    stride_dvh,
    stride_dvw,
    stride_edge_n,
    stride_edge_c,
    stride_edge_h,
    stride_edge_w,
    stride_vn,
    stride_vc,
    stride_vh,
    stride_vw,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    NEEDS_V: tl.constexpr,
    NEEDS_CONTRAST: tl.constexpr,
    LOAD_CONTRAST: tl.constexpr,
    INT64: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """With the edge coefficients ``E[tap,x] = (k^2 g'(r) / r) sum_c e_c T_c`` and ``d = v[x+delta] - v[x]``:

        dL/dv[x] = - 1/k^2 sum_delta E d      dL/dk = - 1/k^3 sum_{x, delta} w E d^2

    ``w`` is 1/2 where both ends lie inside the image, since such an edge is met from both, else 1.
    One program: a tile of BLOCK_H x BLOCK_W input pixels by BLOCK_C channels. Grid: (tiles * cdiv(CG, BLOCK_C),).
    """
    c_blocks = tl.cdiv(CG, BLOCK_C)
    n, first_row, first_column = tile_origin(tl.program_id(0) // c_blocks, H, W, BLOCK_H, BLOCK_W)
    rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [BLOCK_P]
    channels = tl.program_id(0) % c_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = (channels < CG)[None, :]
    x_inside = inside(rows, columns, H, W)
    x_mask = x_inside[:, None] & c_mask
    if LOAD_CONTRAST:
        inverse_contrast = 1.0 / tl.load(contrast_ptr).to(tl.float32)

    v_ptr += n * stride_vn
    v_pixels = flat_offsets(rows, columns, stride_vh, stride_vw, INT64)
    v_offsets = v_pixels[:, None] + channel_offsets(channels, stride_vc, INT64)[None, :]  # [BLOCK_P, BLOCK_C]
    v_x = tl.load(v_ptr + v_offsets, mask=x_mask, other=0.0)
    edge_ptr += n * stride_edge_n
    edge_pixels = flat_offsets(rows, columns, stride_edge_h, stride_edge_w, INT64)

    dv = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32)
    contrast_terms = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32)
    for tap in range(KERNEL_H * KERNEL_W - 1):
        dy, dx = flat_tap(skip_centre(tap, KERNEL_H, KERNEL_W), dilation_h, dilation_w, KERNEL_H, KERNEL_W)
        q_inside = x_inside & inside(rows + dy, columns + dx, H, W)
        v_tap = v_ptr + flat_offsets(dy, dx, stride_vh, stride_vw, INT64)
        v_q = tl.load(v_tap + v_offsets, mask=q_inside[:, None] & c_mask, other=0.0)
        edge_tap = edge_ptr + channel_offsets(tl.cast(tap, tl.int32), stride_edge_c, INT64)
        edge = tl.load(edge_tap + edge_pixels, mask=x_inside, other=0.0)[:, None]  # [BLOCK_P, 1]
        t = relative_difference(v_x, v_q, inverse_contrast)
        dv -= edge * t
        if NEEDS_CONTRAST:
            contrast_terms -= edge * t * t * tl.where(q_inside, 0.5, 1.0)[:, None]

    if NEEDS_V:
        dv_ptr += n * stride_dvn
        dv_pixels = flat_offsets(rows, columns, stride_dvh, stride_dvw, INT64)
        dv_offsets = dv_pixels[:, None] + channel_offsets(channels, stride_dvc, INT64)[None, :]
        tl.store(dv_ptr + dv_offsets, (dv * inverse_contrast).to(dv_ptr.dtype.element_ty), mask=x_mask)
    if NEEDS_CONTRAST:
        # Pixels past the image have no edge coefficients, so that their terms are zero.
        total = tl.sum(tl.sum(contrast_terms, axis=1), axis=0) * inverse_contrast
        tl.store(contrast_sums_ptr + tl.program_id(0).to(tl.int64), total)
