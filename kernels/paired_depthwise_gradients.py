"""The gradients of a depthwise convolution in half types, two channels at a time; see ``paired_depthwise.py``."""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import Contrast, Steps, Strides
from sdn_triton.kernels.difference import edge_fluxes
from sdn_triton.kernels.paired_depthwise import (
    QUAD,
    contrast_of_channels,
    first_tap,
    flows_of_tap,
    load_weights,
    next_tap,
    word_offsets,
)
from sdn_triton.kernels.pairs import packed, side_by_side, wide
from sdn_triton.kernels.pixels import (
    centres_of,
    geometry_of,
    inside,
    next_tile,
    output_of_centre,
    pixel_offsets,
    tap_position,
    tile_origin,
    tile_pixels,
)


@triton.jit
def edge_of_tap(
    u_words, v_words, g_words, offsets, x_lower, x_upper, rows, columns, words, wanted, weights, opposites, dy, dx,
    at, u_quads, g_quads,
    dtype: tl.constexpr, ZERO_FLUX: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """Words of both images at the far ends q of edges, and ``K[tap] G[x] - K[opposite] G[q]`` in float32.

    Where a pixel is no output centre G is 0; ``x_lower`` and ``x_upper`` are those of x.
    """
    offsets += pixel_offsets(dy, dx, u_quads, False) * QUAD
    q_inside = inside(rows + dy, columns + dx, at.H, at.W)[:, None]
    u_q = tl.load(u_words + offsets, mask=q_inside & wanted, other=0)
    v_q = tl.load(v_words + offsets, mask=q_inside & wanted, other=0)
    i, j, q_is_centre = output_of_centre(rows + dy, columns + dx, at)
    q_outputs = word_offsets(i, j, words, g_quads)
    g_q = tl.load(g_words + q_outputs, mask=q_is_centre[:, None] & wanted, other=0)
    q_lower, q_upper = wide(g_q, dtype, PTX)
    t_lower = weights[0] * x_lower - opposites[0] * q_lower
    t_upper = weights[1] * x_upper - opposites[1] * q_upper
    if ZERO_FLUX:
        t_lower = tl.where(q_inside, t_lower, 0.0)
        t_upper = tl.where(q_inside, t_upper, 0.0)
    return u_q, v_q, t_lower, t_upper


@triton.jit(do_not_specialize=["H", "HO", "origin_h", "origin_w"])
def paired_depthwise_data_gradient_kernel(
    du_ptr,  # or None
    dv_ptr,  # or None
    gradient_ptr,
    u_ptr,
    v_ptr,
    weight_ptr,  # [TAPS, quads of all blocks, 2, QUAD] in float32
    contrast: Contrast,
    C,
    H,
    W,
    HO,
    WO,
    origin_h,
    origin_w,
    steps: Steps,
    du_quads: Strides,  # of both gradients, in 16 bytes; so are those below
    g_quads: Strides,
    u_quads: Strides,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    UNIT_CONTRAST: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    PTX: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Every edge of the pixel graph, gathered from the end x that is differentiated, as in the unpaired kernel.

    One program: a tile of BLOCK_H x BLOCK_W input pixels by BLOCK_C channels. Grid: (tiles * cdiv(C, BLOCK_C),).
    """
    TAPS: tl.constexpr = KERNEL_H * KERNEL_W
    WORDS: tl.constexpr = BLOCK_C // 2
    dtype: tl.constexpr = u_ptr.dtype.element_ty
    at = geometry_of(H, W, HO, WO, origin_h, origin_w, steps)
    c_blocks = tl.cdiv(C, BLOCK_C)
    c_block = tl.program_id(0) % c_blocks
    n, first_row, first_column = tile_origin(tl.program_id(0) // c_blocks, H, W, BLOCK_H, BLOCK_W)
    rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [PIXELS]
    x_inside = inside(rows, columns, H, W)
    i, j, x_is_centre = output_of_centre(rows, columns, at)
    words = c_block * WORDS + tl.arange(0, WORDS)
    w_mask = (words // QUAD < C // (2 * QUAD))[None, :]  # the same for all words of a load
    x_mask = x_inside[:, None] & w_mask

    u_words = u_ptr.to(tl.pointer_type(tl.int32)) + n * u_quads.n * QUAD
    v_words = v_ptr.to(tl.pointer_type(tl.int32)) + n * u_quads.n * QUAD
    g_words = gradient_ptr.to(tl.pointer_type(tl.int32)) + n * g_quads.n * QUAD
    offsets = word_offsets(rows, columns, words, u_quads)
    x_outputs = word_offsets(i, j, words, g_quads)
    u_lower, u_upper = wide(tl.load(u_words + offsets, mask=x_mask, other=0), dtype, PTX)
    v_lower, v_upper = wide(tl.load(v_words + offsets, mask=x_mask, other=0), dtype, PTX)
    g_x = tl.load(g_words + x_outputs, mask=x_is_centre[:, None] & x_mask, other=0)
    x_lower, x_upper = wide(g_x, dtype, PTX)
    inverse = contrast_of_channels(contrast, words, C)

    zero = tl.zeros((BLOCK_H * BLOCK_W, WORDS), tl.float32)
    du_lower, du_upper, dv_lower, dv_upper = zero, zero, zero, zero
    dy, dx, position = first_tap(at, KERNEL_H, KERNEL_W)
    for _ in range(TAPS - 1):
        weights = load_weights(weight_ptr, position, words, c_blocks * BLOCK_C)
        opposites = load_weights(weight_ptr, TAPS - 1 - position, words, c_blocks * BLOCK_C)
        u_q, v_q, t_lower, t_upper = edge_of_tap(
            u_words, v_words, g_words, offsets, x_lower, x_upper, rows, columns, words, x_mask, weights, opposites,
            dy, dx, at, u_quads, g_quads,
            dtype, ZERO_FLUX, PTX,
        )  # fmt: skip
        e_lower, e_upper = wide(u_q, dtype, PTX)
        d_lower, d_upper = wide(v_q, dtype, PTX)
        e_lower -= u_lower
        e_upper -= u_upper
        d_lower -= v_lower
        d_upper -= v_upper
        if not UNIT_CONTRAST:
            d_lower *= inverse[0]
            d_upper *= inverse[1]
        u_flux, v_flux = edge_fluxes(e_lower, d_lower, t_lower, DIFFUSIVITY)
        du_lower -= u_flux
        dv_lower -= v_flux
        u_flux, v_flux = edge_fluxes(e_upper, d_upper, t_upper, DIFFUSIVITY)
        du_upper -= u_flux
        dv_upper -= v_flux
        dy, dx, position = next_tap(dy, dx, position, at, KERNEL_H, KERNEL_W)

    out_offsets = word_offsets(rows, columns, words, du_quads)
    if du_ptr is not None:
        du_words = du_ptr.to(tl.pointer_type(tl.int32)) + n * du_quads.n * QUAD
        tl.store(du_words + out_offsets, packed(du_lower, du_upper, dtype, PTX), mask=x_mask)
    if dv_ptr is not None:
        dv_words = dv_ptr.to(tl.pointer_type(tl.int32)) + n * du_quads.n * QUAD
        dv = packed(dv_lower * inverse[0], dv_upper * inverse[1], dtype, PTX)
        tl.store(dv_words + out_offsets, dv, mask=x_mask)


@triton.jit
def products_of_taps(
    u_words, v_words, near, g_lower, g_upper, offsets, rows, columns, wanted, inverse, first_pair,
    at, u_quads, dtype: tl.constexpr, TAP_PAIRS: tl.constexpr,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, DIFFUSIVITY: tl.constexpr, UNIT_CONTRAST: tl.constexpr,
    ZERO_FLUX: tl.constexpr, PTX: tl.constexpr,
):  # fmt: skip
    """``G s (u[q] - u[p])`` of TAP_PAIRS taps, each followed by its opposite, [PIXELS, 2 * TAP_PAIRS * WORDS]."""
    if TAP_PAIRS == 1:
        dy, dx = tap_position(first_pair, at, KERNEL_H, KERNEL_W)
        first_lower, first_upper = flows_of_tap(
            u_words, v_words, near, offsets, rows, columns, wanted, inverse, dy, dx, at, u_quads,
            dtype, DIFFUSIVITY, UNIT_CONTRAST, ZERO_FLUX, PTX,
        )  # fmt: skip
        second_lower, second_upper = flows_of_tap(
            u_words, v_words, near, offsets, rows, columns, wanted, inverse, -dy, -dx, at, u_quads,
            dtype, DIFFUSIVITY, UNIT_CONTRAST, ZERO_FLUX, PTX,
        )  # fmt: skip
        first_lower *= g_lower
        first_upper *= g_upper
        second_lower *= g_lower
        second_upper *= g_upper
    else:
        HALF: tl.constexpr = TAP_PAIRS // 2
        first_lower, first_upper = products_of_taps(
            u_words, v_words, near, g_lower, g_upper, offsets, rows, columns, wanted, inverse, first_pair,
            at, u_quads, dtype, HALF, KERNEL_H, KERNEL_W,
            DIFFUSIVITY, UNIT_CONTRAST, ZERO_FLUX, PTX,
        )  # fmt: skip
        second_lower, second_upper = products_of_taps(
            u_words, v_words, near, g_lower, g_upper, offsets, rows, columns, wanted, inverse, first_pair + HALF,
            at, u_quads, dtype, HALF, KERNEL_H, KERNEL_W,
            DIFFUSIVITY, UNIT_CONTRAST, ZERO_FLUX, PTX,
        )  # fmt: skip
    return side_by_side(first_lower, second_lower), side_by_side(first_upper, second_upper)


@triton.jit(do_not_specialize=["tiles", "H", "HO", "origin_h", "origin_w"])
def paired_depthwise_weight_gradient_kernel(
    dweight_ptr,  # [splits, O, TAPS] in float32, or None
    dbias_ptr,  # [splits, O] in float32, or None
    gradient_ptr,
    u_ptr,
    v_ptr,
    contrast: Contrast,
    tiles,  # of all images
    O,  # as many as channels
    H,
    W,
    HO,
    WO,
    origin_h,
    origin_w,
    steps: Steps,
    g_quads: Strides,  # in 16 bytes; so are those below
    u_quads: Strides,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    UNIT_CONTRAST: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    PTX: tl.constexpr,
    TAP_PAIRS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """``dL/dK[o,tap] = sum_p G[o,p] s (u[o,q] - u[o,p])`` and ``dL/db[o] = sum_p G[o,p]``, over a run of tiles.

    Each thread sums up its own pixels; threads are summed at the end.
    One program: BLOCK_O outputs, TAP_PAIRS taps of the first half of the kernel and their opposites, one split. Those
    of the first taps write the zeros of the centre and the bias gradient, too.
    Grid: (cdiv(O, BLOCK_O), TAPS // 2 / TAP_PAIRS, splits).
    """
    TAPS: tl.constexpr = KERNEL_H * KERNEL_W
    WORDS: tl.constexpr = BLOCK_O // 2
    PIXELS: tl.constexpr = BLOCK_H * BLOCK_W
    dtype: tl.constexpr = u_ptr.dtype.element_ty
    at = geometry_of(H, W, HO, WO, origin_h, origin_w, steps)
    o_block = tl.program_id(0)
    first_pair = tl.program_id(1) * TAP_PAIRS
    split = tl.program_id(2)
    words = o_block * WORDS + tl.arange(0, WORDS)
    w_mask = (words // QUAD < O // (2 * QUAD))[None, :]  # the same for all words of a load
    inverse = contrast_of_channels(contrast, words, O)

    lower_sums = tl.zeros((PIXELS, 2 * TAP_PAIRS * WORDS), tl.float32)
    upper_sums = tl.zeros((PIXELS, 2 * TAP_PAIRS * WORDS), tl.float32)
    lower_bias = tl.zeros((PIXELS, WORDS), tl.float32)
    upper_bias = tl.zeros((PIXELS, WORDS), tl.float32)
    run = tl.cdiv(tiles, tl.num_programs(2))
    n, first_row, first_column = tile_origin(split * run, HO, WO, BLOCK_H, BLOCK_W)
    for _ in range(split * run, tl.minimum(split * run + run, tiles)):
        rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [PIXELS]
        # Positions past the output read nothing: it might be NaN, and NaN times a zero gradient is NaN.
        wanted = ((rows < HO) & (columns < WO))[:, None] & w_mask
        g_words = gradient_ptr.to(tl.pointer_type(tl.int32)) + n * g_quads.n * QUAD
        g_offsets = word_offsets(rows, columns, words, g_quads)
        g_lower, g_upper = wide(tl.load(g_words + g_offsets, mask=wanted, other=0), dtype, PTX)
        if dbias_ptr is not None:
            lower_bias += g_lower
            upper_bias += g_upper
        if dweight_ptr is not None:
            u_words = u_ptr.to(tl.pointer_type(tl.int32)) + n * u_quads.n * QUAD
            v_words = v_ptr.to(tl.pointer_type(tl.int32)) + n * u_quads.n * QUAD
            centre_rows, centre_columns = centres_of(rows, columns, at)
            offsets = word_offsets(centre_rows, centre_columns, words, u_quads)
            p_mask = inside(centre_rows, centre_columns, H, W)[:, None] & wanted
            u_lower, u_upper = wide(tl.load(u_words + offsets, mask=p_mask, other=0), dtype, PTX)
            near = u_lower, u_upper, tl.load(v_words + offsets, mask=p_mask, other=0)
            lower, upper = products_of_taps(
                u_words, v_words, near, g_lower, g_upper, offsets, centre_rows, centre_columns, wanted,
                inverse, first_pair, at, u_quads, dtype, TAP_PAIRS,
                KERNEL_H, KERNEL_W, DIFFUSIVITY, UNIT_CONTRAST, ZERO_FLUX, PTX,
            )  # fmt: skip
            lower_sums += lower
            upper_sums += upper
        n, first_row, first_column = next_tile(n, first_row, first_column, HO, WO, BLOCK_H, BLOCK_W)

    first_output = split.to(tl.int64) * O
    if dweight_ptr is not None:
        place = tl.arange(0, 2 * TAP_PAIRS * WORDS)
        tap = first_pair + place // (2 * WORDS)
        tap = tl.where(place // WORDS % 2 == 1, TAPS - 1 - tap, tap)
        word = o_block * WORDS + place % WORDS
        dweight_ptr += first_output * TAPS
        tl.store(dweight_ptr + 2 * word * TAPS + tap, tl.sum(lower_sums, axis=0), mask=word < O // 2)
        tl.store(dweight_ptr + (2 * word + 1) * TAPS + tap, tl.sum(upper_sums, axis=0), mask=word < O // 2)
    if first_pair == 0:
        if dweight_ptr is not None:
            outputs = o_block * BLOCK_O + tl.arange(0, BLOCK_O)
            tl.store(dweight_ptr + outputs * TAPS + TAPS // 2, tl.zeros((BLOCK_O,), tl.float32), mask=outputs < O)
        if dbias_ptr is not None:
            dbias_ptr += first_output
            tl.store(dbias_ptr + 2 * words, tl.sum(lower_bias, axis=0), mask=words < O // 2)
            tl.store(dbias_ptr + 2 * words + 1, tl.sum(upper_bias, axis=0), mask=words < O // 2)
