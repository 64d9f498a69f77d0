"""Vector similarity: one map per tap for all channels, computed once, and the gradients that pass through it."""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import Contrast, Steps, Strides
from sdn_triton.kernels.difference import relative_difference
from sdn_triton.kernels.diffusivity import diffusivity
from sdn_triton.kernels.pixels import (
    centres_of,
    channel_offsets,
    geometry_of,
    image_offsets,
    inside,
    load_channels,
    pixel_offsets,
    pixel_pointers,
    skip_centre,
    store_tile,
    tap_position,
    tile_origin,
    tile_pixels,
)


@triton.jit
def load_inverse_number(contrast):
    """1 / k of a contrast that is one number for all channels."""
    inverse = contrast.inverse
    if contrast.ptr is not None:
        inverse = 1.0 / tl.load(contrast.ptr).to(tl.float32)
    return inverse


@triton.jit(do_not_specialize=["H", "HO", "origin_h", "origin_w"])
def similarity_kernel(
    s_ptr,  # [N, TAPS - 1, HO, WO] in float32, contiguous
    v_ptr,
    contrast: Contrast,
    CG,  # channels of the guidance
    H,
    W,
    HO,
    WO,
    origin_h,
    origin_w,
    steps: Steps,
    s_strides: Strides,
    v_strides: Strides,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
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
    at = geometry_of(H, W, HO, WO, origin_h, origin_w, steps)
    dy, dx = tap_position(skip_centre(tap, KERNEL_H, KERNEL_W), at, KERNEL_H, KERNEL_W)
    centre_rows, centre_columns = centres_of(rows, columns, at)
    p_inside = inside(centre_rows, centre_columns, H, W)
    q_inside = inside(centre_rows + dy, centre_columns + dx, H, W)
    inverse_contrast = load_inverse_number(contrast)

    v_near = pixel_pointers(v_ptr, n, centre_rows, centre_columns, v_strides, INT64)
    v_far = v_near + pixel_offsets(dy, dx, v_strides, INT64)
    squares = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32)
    for c in range(0, CG, BLOCK_C):
        channels = c + tl.arange(0, BLOCK_C)
        c_mask = (channels < CG)[None, :]
        v_p = load_channels(v_near, channels, p_inside[:, None] & c_mask, v_strides, INT64)
        v_q = load_channels(v_far, channels, q_inside[:, None] & c_mask, v_strides, INT64)
        t = relative_difference(v_p, v_q, inverse_contrast)
        squares += t * t
    s = diffusivity(tl.sum(squares, axis=1), DIFFUSIVITY)  # [BLOCK_P]
    s_tap = s_ptr + n * s_strides.n + channel_offsets(tap, s_strides.c, INT64)
    tl.store(s_tap + pixel_offsets(rows, columns, s_strides, INT64), s, mask=(rows < HO) & (columns < WO))


@triton.jit(do_not_specialize=["H"])
def similarity_gradient_kernel(
    dv_ptr,  # None where nobody needs it
    contrast_sums_ptr,  # [N * tiles * c_blocks] in float32, or None
    edge_ptr,  # [N, TAPS - 1, H, W] in float32, from the data gradient kernel
    v_ptr,
    contrast: Contrast,
    CG,  # channels of the guidance
    H,
    W,
    steps: Steps,  # from pixel to pixel, and of the taps
    dv_strides: Strides,
    edge_strides: Strides,
    v_strides: Strides,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
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
    inverse_contrast = load_inverse_number(contrast)

    v_ptr += n * v_strides.n
    v_offsets = image_offsets(rows, columns, channels, v_strides, INT64)  # [BLOCK_P, BLOCK_C]
    v_x = tl.load(v_ptr + v_offsets, mask=x_mask, other=0.0)
    edge_ptr += n * edge_strides.n
    edge_pixels = pixel_offsets(rows, columns, edge_strides, INT64)

    dv = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32)
    contrast_terms = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32)
    for tap in range(KERNEL_H * KERNEL_W - 1):
        dy, dx = tap_position(skip_centre(tap, KERNEL_H, KERNEL_W), steps, KERNEL_H, KERNEL_W)
        q_inside = x_inside & inside(rows + dy, columns + dx, H, W)
        v_tap = v_ptr + pixel_offsets(dy, dx, v_strides, INT64)
        v_q = tl.load(v_tap + v_offsets, mask=q_inside[:, None] & c_mask, other=0.0)
        edge_tap = edge_ptr + channel_offsets(tl.cast(tap, tl.int32), edge_strides.c, INT64)
        edge = tl.load(edge_tap + edge_pixels, mask=x_inside, other=0.0)[:, None]  # [BLOCK_P, 1]
        t = relative_difference(v_x, v_q, inverse_contrast)
        dv -= edge * t
        if contrast_sums_ptr is not None:
            contrast_terms -= edge * t * t * tl.where(q_inside, 0.5, 1.0)[:, None]

    if dv_ptr is not None:
        store_tile(dv_ptr, dv * inverse_contrast, n, rows, columns, channels, x_mask, dv_strides, INT64)
    if contrast_sums_ptr is not None:
        # Pixels past the image have no edge coefficients, so that their terms are zero.
        total = tl.sum(tl.sum(contrast_terms, axis=1), axis=0) * inverse_contrast
        tl.store(contrast_sums_ptr + tl.program_id(0).to(tl.int64), total)
