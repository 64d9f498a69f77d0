"""The gradients of input and guidance of half types, two channels at a time, from the products of all taps.

That of a contrast has its dtype, mostly float32, which products in half precision would fall short of.
"""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import Contrast, Steps, Strides
from sdn_triton.kernels.difference import edge_fluxes, load_edge, load_inverse_contrast
from sdn_triton.kernels.pairs import WORDS, float32_differences, packed, unpacked, wide
from sdn_triton.kernels.pixels import (
    geometry_of,
    output_of_centre,
    pixel_offsets,
    room_to_move,
    skip_centre,
    tap_position,
    tile_origin,
    tile_pixels,
)


@triton.jit
def store_channels(
    ptr,
    lower,  # [PIXELS, WORDS] in float32
    upper,
    n,
    rows,  # [PIXELS]
    columns,
    x_inside,
    first_word,
    channels_there,
    strides,
    IN_WORDS: tl.constexpr,
    dtype: tl.constexpr,
    PTX: tl.constexpr,
):
    """Write channels to an image in words, or in any strides, which then may have fewer channels."""
    words = packed(lower, upper, dtype, PTX)
    offsets = pixel_offsets(rows, columns, strides, False)[:, None]
    if IN_WORDS:
        place = first_word + tl.arange(0, WORDS)
        image = ptr.to(tl.pointer_type(tl.int32)) + n * strides.n
        tl.store(image + offsets + place[None, :], words, mask=x_inside[:, None])
    else:
        channels = 2 * first_word + tl.arange(0, 2 * WORDS)
        mask = x_inside[:, None] & (channels < channels_there)[None, :]
        tl.store(ptr + n * strides.n + offsets + (channels * strides.c)[None, :], unpacked(words, dtype), mask=mask)


@triton.jit(do_not_specialize=["H", "HO", "origin_h", "origin_w", "first_row", "rows", "first_output_row"])
def paired_data_gradient_kernel(
    du_ptr,  # or None
    dv_ptr,  # or None
    h_ptr,  # [images, rows of output, WO, TAPS - 1, C], contiguous; with EDGES [.., TAPS // 2, C]
    u_ptr,
    v_ptr,
    contrast: Contrast,
    C,  # a multiple of 32
    gradient_channels,  # those of the gradients, which may lack the last ones
    H,
    W,
    HO,
    WO,
    first_row,  # of the rows of the input that are differentiated
    rows,
    first_output_row,  # of h
    origin_h,
    origin_w,
    steps: Steps,
    stride_hn,  # of h, in words
    u_strides: Strides,  # of u and of v, in words; the words of a pixel lie together
    du_strides: Strides,  # in words if gradients are written in words
    dv_strides: Strides,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    UNIT_CONTRAST: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    PTX: tl.constexpr,
    EDGES: tl.constexpr,
    WRITE_WORDS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Every edge of the pixel graph, gathered from the end x that is differentiated, as in the unpaired kernel.

    With ``T = h[x,tap] - h[x + delta,opposite]``, where a pixel that is no output centre has h = 0:

        dL/du[x] = - sum_delta s T      dL/dv[x] = - sum_delta g'(d) e T

    With EDGES h is T itself, of the taps of the first half of the kernel; an opposite has it from its other end.

    One program: a tile of BLOCK_H x BLOCK_W input pixels by 32 channels. Grid: (images * tiles * C / 32,).
    """
    TAPS: tl.constexpr = KERNEL_H * KERNEL_W
    dtype: tl.constexpr = u_ptr.dtype.element_ty
    at = geometry_of(H, W, HO, WO, origin_h, origin_w, steps)
    c_blocks = C // (2 * WORDS)
    tile = tl.program_id(0) // c_blocks
    c_block = tl.program_id(0) % c_blocks
    n, tile_row, tile_column = tile_origin(tile, rows, W, BLOCK_H, BLOCK_W)
    tile_row += first_row
    last_row = first_row + rows
    x_rows, x_columns = tile_pixels(tile_row, tile_column, BLOCK_H, BLOCK_W)  # [PIXELS]
    x_inside = (x_rows < last_row) & (x_columns < W)
    x_mask = x_inside[:, None]
    x_i, x_j, x_is_centre = output_of_centre(x_rows, x_columns, at)
    x_is_centre = x_is_centre & x_inside

    up, down, left, right = room_to_move(tile_row, tile_column, last_row, at, BLOCK_H, BLOCK_W)

    words = c_block * WORDS + tl.arange(0, WORDS)
    u_words = u_ptr.to(tl.pointer_type(tl.int32)) + n * u_strides.n
    v_words = v_ptr.to(tl.pointer_type(tl.int32)) + n * u_strides.n
    h_words = h_ptr.to(tl.pointer_type(tl.int32)) + n * stride_hn
    offsets = pixel_offsets(x_rows, x_columns, u_strides, False)[:, None] + words[None, :]
    SLOTS: tl.constexpr = TAPS // 2 if EDGES else TAPS - 1
    pixel_words = SLOTS * (C // 2)
    h_strides = Strides(n=stride_hn, c=1, h=WO * pixel_words, w=pixel_words)
    x_outputs = pixel_offsets(x_i - first_output_row, x_j, h_strides, False)[:, None] + words[None, :]
    u_x = tl.load(u_words + offsets, mask=x_mask, other=0)
    v_x = tl.load(v_words + offsets, mask=x_mask, other=0)
    channels = 2 * words
    inverse_lower = load_inverse_contrast(contrast, 0, channels, channels < C)
    inverse_upper = load_inverse_contrast(contrast, 0, channels + 1, channels < C)

    zero = tl.zeros((BLOCK_H * BLOCK_W, WORDS), tl.float32)
    du_lower, du_upper, dv_lower, dv_upper = zero, zero, zero, zero
    ENDS: tl.constexpr = 2 if EDGES else 1
    for slot in range(SLOTS):
        for end in tl.static_range(ENDS):
            tap = tl.cast(slot, tl.int32) if end == 0 else TAPS - 2 - tl.cast(slot, tl.int32)
            position = skip_centre(tap, KERNEL_H, KERNEL_W)
            dy, dx = tap_position(position, at, KERNEL_H, KERNEL_W)
            own = tap * (C // 2)
            moved = pixel_offsets(dy, dx, u_strides, False)
            u_q, v_q, h_x, h_q = load_edge(
                u_words + moved, v_words + moved, h_words + own, h_words + (TAPS - 2) * (C // 2) - own,
                offsets, offsets, x_outputs, words[None, :], x_rows, x_columns, x_inside, x_is_centre, words < C // 2,
                dy, dx, at, first_output_row, h_strides,
                ((up + dy) | (down - dy) | (left + dx) | (right - dx)) >= 0,
                not EDGES or end == 0, not EDGES or end == 1, ZERO_FLUX, False,
            )  # fmt: skip
            t_lower, t_upper = wide(h_x, dtype, PTX)
            if EDGES and end == 1:
                t_lower = -t_lower
                t_upper = -t_upper
            if not EDGES:
                q_lower, q_upper = wide(h_q, dtype, PTX)
                t_lower -= q_lower
                t_upper -= q_upper
            e_lower, e_upper = float32_differences(u_x, u_q, dtype, PTX)
            d_lower, d_upper = float32_differences(v_x, v_q, dtype, PTX)
            if not UNIT_CONTRAST:
                d_lower *= inverse_lower
                d_upper *= inverse_upper
            u_lower, v_lower = edge_fluxes(e_lower, d_lower, t_lower, DIFFUSIVITY)
            u_upper, v_upper = edge_fluxes(e_upper, d_upper, t_upper, DIFFUSIVITY)
            du_lower -= u_lower
            du_upper -= u_upper
            dv_lower -= v_lower
            dv_upper -= v_upper

    if du_ptr is not None:
        store_channels(
            du_ptr, du_lower, du_upper, n, x_rows, x_columns, x_inside, c_block * WORDS, gradient_channels, du_strides,
            WRITE_WORDS, dtype, PTX,
        )  # fmt: skip
    if dv_ptr is not None:
        store_channels(
            dv_ptr, dv_lower * inverse_lower, dv_upper * inverse_upper, n, x_rows, x_columns, x_inside,
            c_block * WORDS, gradient_channels, dv_strides, WRITE_WORDS, dtype, PTX,
        )  # fmt: skip
