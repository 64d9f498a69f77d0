"""The weight and bias gradients of a dense difference convolution, with channels in words."""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import Contrast, Steps, Strides
from sdn_triton.kernels.difference import load_inverse_contrast
from sdn_triton.kernels.pairs import WORD_BITS, WORDS, precise_weighted_differences, side_by_side, unpacked
from sdn_triton.kernels.pixels import (
    geometry_of,
    image_offsets,
    inside,
    next_tile,
    pixel_offsets,
    tap_position,
    tile_origin,
    tile_pixels,
)
from sdn_triton.kernels.products import finished
from sdn_triton.kernels.reduction import sum_over_pixels


@triton.jit
def load_words(u_words, v_words, offsets, mask):
    """Words of input and guidance; zeros where they are not wanted."""
    u = tl.load(u_words + offsets, mask=mask[:, None], other=0)
    v = tl.load(v_words + offsets, mask=mask[:, None], other=0)
    return u, v


@triton.jit
def flow_of_tap(
    u_words,
    v_words,
    u_p,
    v_p,
    offsets,  # [PIXELS, WORDS]
    rows,  # [PIXELS]
    columns,
    wanted,
    dy,
    dx,
    at,
    u_strides,
    inverse_lower,
    inverse_upper,
    dtype: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    UNIT_CONTRAST: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    PTX: tl.constexpr,
):
    """Words of ``s(p,q) (u[q] - u[p])`` with ``q = p + (dy, dx)``, [PIXELS, WORDS]."""
    q_inside = inside(rows + dy, columns + dx, at.H, at.W)
    u_q, v_q = load_words(u_words, v_words, offsets + pixel_offsets(dy, dx, u_strides, False), q_inside & wanted)
    flow = precise_weighted_differences(
        u_p, u_q, v_p, v_q, inverse_lower, inverse_upper, dtype, DIFFUSIVITY, UNIT_CONTRAST, PTX
    )
    if ZERO_FLUX:
        flow = tl.where((inside(rows, columns, at.H, at.W) & q_inside)[:, None], flow, 0)
    return flow


@triton.jit
def flows_of_taps(
    u_words,
    v_words,
    u_p,
    v_p,
    offsets,
    rows,
    columns,
    wanted,
    first_pair,
    at,
    u_strides,
    inverse_lower,
    inverse_upper,
    dtype: tl.constexpr,
    TAP_PAIRS: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    UNIT_CONTRAST: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    PTX: tl.constexpr,
):
    """Those of TAP_PAIRS taps, each followed by its opposite, [PIXELS, 2 * TAP_PAIRS * WORDS]."""
    if TAP_PAIRS == 1:
        dy, dx = tap_position(first_pair, at, KERNEL_H, KERNEL_W)
        first = flow_of_tap(
            u_words, v_words, u_p, v_p, offsets, rows, columns, wanted, dy, dx, at, u_strides,
            inverse_lower, inverse_upper, dtype, DIFFUSIVITY, UNIT_CONTRAST, ZERO_FLUX, PTX,
        )  # fmt: skip
        second = flow_of_tap(
            u_words, v_words, u_p, v_p, offsets, rows, columns, wanted, -dy, -dx, at, u_strides,
            inverse_lower, inverse_upper, dtype, DIFFUSIVITY, UNIT_CONTRAST, ZERO_FLUX, PTX,
        )  # fmt: skip
    else:
        HALF: tl.constexpr = TAP_PAIRS // 2
        first = flows_of_taps(
            u_words, v_words, u_p, v_p, offsets, rows, columns, wanted, first_pair, at, u_strides,
            inverse_lower, inverse_upper,
            dtype, HALF, KERNEL_H, KERNEL_W, DIFFUSIVITY, UNIT_CONTRAST, ZERO_FLUX, PTX,
        )  # fmt: skip
        second = flows_of_taps(
            u_words, v_words, u_p, v_p, offsets, rows, columns, wanted, first_pair + HALF, at, u_strides,
            inverse_lower, inverse_upper,
            dtype, HALF, KERNEL_H, KERNEL_W, DIFFUSIVITY, UNIT_CONTRAST, ZERO_FLUX, PTX,
        )  # fmt: skip
    return side_by_side(first, second)


@triton.jit
def flows_of_tile(
    u_group,  # the first word of the channels
    v_group,
    n,
    row,  # of the first output of the tile
    column,
    is_there,  # else nothing is read
    tile_offsets,  # [PIXELS, WORDS]
    tile_rows,  # [PIXELS]
    tile_columns,
    first_pair,
    at,
    u_strides,
    inverse_lower,
    inverse_upper,
    dtype: tl.constexpr,
    TAP_PAIRS: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    UNIT_CONTRAST: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    PTX: tl.constexpr,
):
    """Weighted differences of a tile, as a factor of a product: [PIXELS, channels of 2 * TAP_PAIRS taps].

    Loads have masks instead of branches, which arithmetic does not move past. Positions past the output read nothing:
    they might be NaN, and NaN times a zero gradient is NaN.
    """
    u_words = u_group + n * u_strides.n
    v_words = v_group + n * u_strides.n
    up = row * at.step_h + at.origin_h
    left = column * at.step_w + at.origin_w
    rows = up + tile_rows * at.step_h
    columns = left + tile_columns * at.step_w
    wanted = (tile_rows < at.HO - row) & (tile_columns < at.WO - column) & is_there
    offsets = tile_offsets + pixel_offsets(up, left, u_strides, False)
    u_p, v_p = load_words(u_words, v_words, offsets, inside(rows, columns, at.H, at.W) & wanted)
    flows = flows_of_taps(
        u_words, v_words, u_p, v_p, offsets, rows, columns, wanted, first_pair, at, u_strides,
        inverse_lower, inverse_upper,
        dtype, TAP_PAIRS, KERNEL_H, KERNEL_W, DIFFUSIVITY, UNIT_CONTRAST, ZERO_FLUX, PTX,
    )  # fmt: skip
    return unpacked(flows, dtype)


@triton.jit(do_not_specialize=["tiles", "H", "HO", "origin_h", "origin_w"])
def paired_weight_gradient_kernel(
    dweight_ptr,  # [splits, groups * O, TAPS, C] in float32, or None
    dbias_ptr,  # [splits, groups * O] in float32, or None
    gradient_ptr,
    u_ptr,
    v_ptr,
    contrast: Contrast,
    tiles,  # of all images
    C,  # channels of one group, a multiple of 32
    O,  # outputs of one group
    H,
    W,
    HO,
    WO,
    origin_h,
    origin_w,
    steps: Steps,
    g_strides: Strides,
    u_strides: Strides,  # of u and of v, in words; the words of a pixel lie together
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    UNIT_CONTRAST: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    PTX: tl.constexpr,
    INT64: tl.constexpr,
    TAP_PAIRS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """``dL/dK[o,c,tap] = sum_p G[o,p] s (u[c,q] - u[c,p])`` and ``dL/db[o] = sum_p G[o,p]``, over a run of tiles.

    One program: BLOCK_O outputs by a block of channels (32, or 16 of float32) of TAP_PAIRS taps of the first half of
    the kernel and their opposites, and one split. The programs past the last taps write the zeros of the centre, and
    those of the first channels among them sum the bias gradient.
    Grid: (cdiv(O, BLOCK_O) * C / CHANNELS * groups, TAPS // 2 / TAP_PAIRS + 1, splits).
    """
    TAPS: tl.constexpr = KERNEL_H * KERNEL_W
    dtype: tl.constexpr = u_ptr.dtype.element_ty
    IN_WORD: tl.constexpr = WORD_BITS // dtype.primitive_bitwidth
    CHANNELS: tl.constexpr = IN_WORD * WORDS
    PRECISION: tl.constexpr = "tf32" if PTX else "ieee"
    o_blocks = tl.cdiv(O, BLOCK_O)
    c_blocks = C // CHANNELS
    o_block = tl.program_id(0) % o_blocks
    c_block = tl.program_id(0) // o_blocks % c_blocks
    group = (tl.program_id(0) // (o_blocks * c_blocks)).to(tl.int64)
    groups = tl.num_programs(0) // (o_blocks * c_blocks)
    first_pair = tl.program_id(1) * TAP_PAIRS
    split = tl.program_id(2)
    splits = tl.num_programs(2)
    outputs = o_block * BLOCK_O + tl.arange(0, BLOCK_O)
    o_mask = outputs < O
    first_output = (split.to(tl.int64) * groups + group) * O  # of this split and group
    gradient_ptr += group * O * g_strides.c

    if first_pair == TAPS // 2:
        if dbias_ptr is not None:  # noqa: SIM102 (a compile-time condition is not to be mixed with one of run time)
            if c_block == 0:
                dbias = sum_over_pixels(
                    gradient_ptr, outputs, o_mask, split, splits, tiles, HO, WO, g_strides, INT64, BLOCK_H, BLOCK_W
                )  # fmt: skip
                tl.store(dbias_ptr + first_output + outputs[None, :], dbias, mask=o_mask[None, :])
        if dweight_ptr is not None:
            centre_ptr = dweight_ptr + (first_output * TAPS + TAPS // 2) * C + c_block * CHANNELS
            centre_offsets = (outputs * (TAPS * C))[:, None] + tl.arange(0, CHANNELS)[None, :]
            tl.store(centre_ptr + centre_offsets, tl.zeros((BLOCK_O, CHANNELS), tl.float32), mask=o_mask[:, None])
    elif dweight_ptr is not None:
        if TAPS // 2 == TAP_PAIRS and dtype == tl.float32:
            # So the compiler knows where all taps are, which takes fewer registers. In half types it would make use of
            # that to move the differences in front of the product.
            first_pair = 0
        at = geometry_of(H, W, HO, WO, origin_h, origin_w, steps)
        lower = c_block * CHANNELS + IN_WORD * tl.arange(0, WORDS)
        inverse_lower = load_inverse_contrast(contrast, group * C, lower, lower < C)
        inverse_upper = load_inverse_contrast(contrast, group * C, lower + IN_WORD - 1, lower < C)
        group_words = group * (C // IN_WORD) + c_block * WORDS
        u_group = u_ptr.to(tl.pointer_type(tl.int32)) + group_words
        v_group = v_ptr.to(tl.pointer_type(tl.int32)) + group_words
        tile_rows, tile_columns = tile_pixels(0, 0, BLOCK_H, BLOCK_W)  # [PIXELS]
        tile_offsets = pixel_offsets(tile_rows * at.step_h, tile_columns * at.step_w, u_strides, False)
        tile_offsets = tile_offsets[:, None] + tl.arange(0, WORDS)[None, :]
        g_offsets = image_offsets(tile_rows, tile_columns, outputs, g_strides, INT64)

        run = tl.cdiv(tiles, splits)
        first_tile = split * run
        last_tile = tl.minimum(first_tile + run, tiles)
        n, row, column = tile_origin(first_tile, HO, WO, BLOCK_H, BLOCK_W)
        flows = flows_of_tile(
            u_group, v_group, n, row, column, first_tile < last_tile, tile_offsets, tile_rows, tile_columns, first_pair,
            at, u_strides, inverse_lower, inverse_upper,
            dtype, TAP_PAIRS, KERNEL_H, KERNEL_W, DIFFUSIVITY, UNIT_CONTRAST, ZERO_FLUX, PTX,
        )  # fmt: skip
        accumulator = tl.zeros((BLOCK_O, 2 * TAP_PAIRS * CHANNELS), tl.float32)
        # The product of a tile runs under the differences of the next one, and has ended with the trip.
        for tile in range(first_tile, last_tile):
            valid = (tile_rows < HO - row) & (tile_columns < WO - column)
            g_image = gradient_ptr + n * g_strides.n + pixel_offsets(row, column, g_strides, INT64)
            gradient = tl.load(g_image + g_offsets, mask=valid[:, None] & o_mask[None, :], other=0.0)
            accumulator = tl.dot(tl.trans(gradient), flows, accumulator, input_precision=PRECISION)
            n, row, column = next_tile(n, row, column, HO, WO, BLOCK_H, BLOCK_W)
            flows = flows_of_tile(
                u_group, v_group, n, row, column, tile + 1 < last_tile, tile_offsets, tile_rows, tile_columns,
                first_pair, at, u_strides, inverse_lower, inverse_upper,
                dtype, TAP_PAIRS, KERNEL_H, KERNEL_W, DIFFUSIVITY, UNIT_CONTRAST, ZERO_FLUX, PTX,
            )  # fmt: skip
            accumulator = finished(accumulator, dtype, PRECISION)

        # Not the `outputs` from above: their places in this layout would be kept through the loop, in 32 registers.
        rows = tl.arange(0, BLOCK_O)
        dweight_ptr += (first_output + o_block * BLOCK_O) * (TAPS * C) + c_block * CHANNELS
        place = tl.arange(0, 2 * TAP_PAIRS * CHANNELS)
        tap = first_pair + place // (2 * CHANNELS)
        tap = tl.where(place // CHANNELS % 2 == 1, TAPS - 1 - tap, tap)
        dweight_offsets = (rows * (TAPS * C))[:, None] + (tap * C + place % CHANNELS)[None, :]
        tl.store(dweight_ptr + dweight_offsets, accumulator, mask=(rows < O - o_block * BLOCK_O)[:, None])
