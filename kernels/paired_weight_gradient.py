"""The weight and bias gradients of a dense difference convolution of half types, two channels at a time."""

import triton
import triton.language as tl

from sdn_triton.kernels.difference import load_inverse_contrast
from sdn_triton.kernels.pairs import WORDS, precise_weighted_differences, side_by_side, unpacked
from sdn_triton.kernels.pixels import (
    channel_offsets,
    inside,
    pixel_offsets,
    tap_position,
    tile_origin,
    tile_pixels,
)
from sdn_triton.kernels.products import finished
from sdn_triton.kernels.reduction import sum_over_pixels


@triton.jit
def side_by_side_times(x, HALF: tl.constexpr, LOAD_CONTRAST: tl.constexpr):
    if LOAD_CONTRAST:
        x = side_by_side(x, x)
        if HALF == 2:
            x = side_by_side(x, x)
    return x


@triton.jit
def next_tile(n, row, column, HO, WO, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr):
    column += BLOCK_W
    end_of_row = column >= WO
    column = tl.where(end_of_row, 0, column)
    row = tl.where(end_of_row, row + BLOCK_H, row)
    end_of_image = row >= HO
    row = tl.where(end_of_image, 0, row)
    n = tl.where(end_of_image, n + 1, n)
    return n, row, column


@triton.jit
def centres_of_tile(image, pixels, n, row, column, wanted):
    u_group, v_group, H, W, HO, WO, origin_h, origin_w, step_h, step_w, stride_un, stride_h, stride_w = image
    tile_offsets, tile_rows, tile_columns = pixels
    u_words = u_group + n * stride_un
    v_words = v_group + n * stride_un
    up = row * step_h + origin_h
    left = column * step_w + origin_w
    rows = up + tile_rows * step_h
    columns = left + tile_columns * step_w
    valid = (tile_rows < HO - row) & (tile_columns < WO - column) & wanted
    offsets = tile_offsets + (up * stride_h + left * stride_w)
    mask = (inside(rows, columns, H, W) & valid)[:, None]
    u = tl.load(u_words + offsets, mask=mask, other=0)
    v = tl.load(v_words + offsets, mask=mask, other=0)
    return (u_words, v_words, offsets, rows, columns, valid, H, W, stride_h, stride_w), u, v


@triton.jit
def load_tap(place, u_p, v_p, dy, dx, ZERO_FLUX: tl.constexpr):
    u_words, v_words, offsets, rows, columns, valid, H, W, stride_h, stride_w = place
    mask = inside(rows + dy, columns + dx, H, W) & valid
    offsets += dy * stride_h + dx * stride_w
    if ZERO_FLUX:
        mask = mask & inside(rows, columns, H, W)
        u = tl.load(u_words + offsets, mask=mask[:, None], other=u_p)
        v = tl.load(v_words + offsets, mask=mask[:, None], other=v_p)
    else:
        u = tl.load(u_words + offsets, mask=mask[:, None], other=0)
        v = tl.load(v_words + offsets, mask=mask[:, None], other=0)
    return u, v


@triton.jit
def load_taps(
    place, u_p, v_p, first_pair, dilation_h, dilation_w,
    TAP_PAIRS: tl.constexpr, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, ZERO_FLUX: tl.constexpr,
):
    """Those of TAP_PAIRS taps, each followed by its opposite, [PIXELS, 2 * TAP_PAIRS * WORDS]."""
    if TAP_PAIRS == 1:
        dy, dx = tap_position(first_pair, dilation_h, dilation_w, KERNEL_H, KERNEL_W)
        u_a, v_a = load_tap(place, u_p, v_p, dy, dx, ZERO_FLUX)
        u_b, v_b = load_tap(place, u_p, v_p, -dy, -dx, ZERO_FLUX)
    else:
        HALF: tl.constexpr = TAP_PAIRS // 2
        u_a, v_a = load_taps(place, u_p, v_p, first_pair, dilation_h, dilation_w, HALF, KERNEL_H, KERNEL_W, ZERO_FLUX)
        u_b, v_b = load_taps(place, u_p, v_p, first_pair + HALF, dilation_h, dilation_w, HALF, KERNEL_H, KERNEL_W, ZERO_FLUX)
    return side_by_side(u_a, u_b), side_by_side(v_a, v_b)


@triton.jit
def flows(u_p, u_q, v_p, v_q, inverse, dtype: tl.constexpr, TAP_PAIRS: tl.constexpr, DIFFUSIVITY: tl.constexpr, UNIT_CONTRAST: tl.constexpr, PTX: tl.constexpr):
    u_p = side_by_side(u_p, u_p)
    v_p = side_by_side(v_p, v_p)
    if TAP_PAIRS == 2:
        u_p = side_by_side(u_p, u_p)
        v_p = side_by_side(v_p, v_p)
    lower, upper = inverse
    return precise_weighted_differences(
        u_p, u_q, v_p, v_q, lower, upper, dtype, DIFFUSIVITY, UNIT_CONTRAST, PTX
    )


@triton.jit(do_not_specialize=["tiles", "H", "HO", "origin_h", "origin_w"])
def paired_weight_gradient_kernel(
    dweight_ptr,  # [splits, groups * O, TAPS, C] in float32
    dbias_ptr,  # [splits, groups * O] in float32
    gradient_ptr,
    u_ptr,
    v_ptr,
    contrast_ptr,
    inverse_contrast,
    tiles,  # of all images
    C,  # channels of one group, a multiple of 32
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
    stride_gn,
    stride_gc,
    stride_gh,
    stride_gw,
    stride_un,  # of u and of v, in words; the words of a pixel lie together
    stride_uh,
    stride_uw,
    stride_contrast,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    NEEDS_WEIGHT: tl.constexpr,
    NEEDS_BIAS: tl.constexpr,
    LOAD_CONTRAST: tl.constexpr,
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

    One program: BLOCK_O outputs by 32 channels of TAP_PAIRS taps of the first half of the kernel and their opposites,
    and one split. The programs past the last taps write the zeros of the centre, and those of the first channels among
    them sum the bias gradient. Grid: (cdiv(O, BLOCK_O) * C / 32 * groups, TAPS // 2 / TAP_PAIRS + 1, splits).
    """
    TAPS: tl.constexpr = KERNEL_H * KERNEL_W
    CHANNELS: tl.constexpr = 2 * WORDS
    dtype: tl.constexpr = u_ptr.dtype.element_ty
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
    gradient_ptr += group * O * stride_gc

    if first_pair == TAPS // 2:
        if NEEDS_BIAS:  # noqa: SIM102 (a compile-time condition is not to be mixed with one of run time)
            if c_block == 0:
                dbias = sum_over_pixels(
                    gradient_ptr,
                    outputs,
                    o_mask,
                    split,
                    splits,
                    tiles,
                    HO,
                    WO,
                    stride_gn,
                    stride_gc,
                    stride_gh,
                    stride_gw,
                    INT64=INT64,
                    BLOCK_H=BLOCK_H,
                    BLOCK_W=BLOCK_W,
                )
                tl.store(dbias_ptr + first_output + outputs[None, :], dbias, mask=o_mask[None, :])
        if NEEDS_WEIGHT:
            centre_ptr = dweight_ptr + (first_output * TAPS + TAPS // 2) * C + c_block * CHANNELS
            centre_offsets = (outputs * (TAPS * C))[:, None] + tl.arange(0, CHANNELS)[None, :]
            tl.store(centre_ptr + centre_offsets, tl.zeros((BLOCK_O, CHANNELS), tl.float32), mask=o_mask[:, None])
    elif NEEDS_WEIGHT:
        if LOAD_CONTRAST:
            contrast_ptr += group * C * stride_contrast
        lower = c_block * CHANNELS + 2 * tl.arange(0, WORDS)
        inverse_lower = load_inverse_contrast(
            contrast_ptr, inverse_contrast, stride_contrast, lower, lower < C, LOAD_CONTRAST
        )
        inverse_upper = load_inverse_contrast(
            contrast_ptr, inverse_contrast, stride_contrast, lower + 1, lower < C, LOAD_CONTRAST
        )
        group_words = group * (C // 2) + c_block * WORDS
        u_group = u_ptr.to(tl.pointer_type(tl.int32)) + group_words
        v_group = v_ptr.to(tl.pointer_type(tl.int32)) + group_words
        tile_rows, tile_columns = tile_pixels(0, 0, BLOCK_H, BLOCK_W)  # [PIXELS]
        tile_offsets = pixel_offsets(tile_rows * step_h, tile_columns * step_w, stride_uh, stride_uw, False)
        tile_offsets = tile_offsets[:, None] + tl.arange(0, WORDS)[None, :]
        g_offsets = pixel_offsets(tile_rows, tile_columns, stride_gh, stride_gw, INT64)[:, None]
        g_offsets += channel_offsets(outputs, stride_gc, INT64)[None, :]

        run = tl.cdiv(tiles, splits)
        first_tile = split * run
        last_tile = tl.minimum(first_tile + run, tiles)
        n, row, column = tile_origin(first_tile, HO, WO, BLOCK_H, BLOCK_W)
        HALF: tl.constexpr = TAP_PAIRS // 2
        image = u_group, v_group, H, W, HO, WO, origin_h, origin_w, step_h, step_w, stride_un, stride_uh, stride_uw
        pixels = tile_offsets, tile_rows, tile_columns
        inverse = side_by_side_times(inverse_lower, HALF, LOAD_CONTRAST), side_by_side_times(inverse_upper, HALF, LOAD_CONTRAST)
        place, u_p, v_p = centres_of_tile(image, pixels, n, row, column, first_tile < last_tile)
        u_q, v_q = load_taps(place, u_p, v_p, first_pair, dilation_h, dilation_w, HALF, KERNEL_H, KERNEL_W, ZERO_FLUX)
        a = flows(u_p, u_q, v_p, v_q, inverse, dtype, HALF, DIFFUSIVITY, UNIT_CONTRAST, PTX)
        u_q, v_q = load_taps(place, u_p, v_p, first_pair + HALF, dilation_h, dilation_w, HALF, KERNEL_H, KERNEL_W, ZERO_FLUX)
        b = flows(u_p, u_q, v_p, v_q, inverse, dtype, HALF, DIFFUSIVITY, UNIT_CONTRAST, PTX)
        both = side_by_side(a, b)
        accumulator = tl.zeros((BLOCK_O, 2 * TAP_PAIRS * CHANNELS), tl.float32)
        for tile in range(first_tile, last_tile):
            valid = (tile_rows < HO - row) & (tile_columns < WO - column)
            g_image = gradient_ptr + n * stride_gn + pixel_offsets(row, column, stride_gh, stride_gw, INT64)
            gradient = tl.load(g_image + g_offsets, mask=valid[:, None] & o_mask[None, :], other=0.0)
            gradient = tl.trans(gradient)
            n, row, column = next_tile(n, row, column, HO, WO, BLOCK_H, BLOCK_W)
            place, u_p, v_p = centres_of_tile(image, pixels, n, row, column, tile + 1 < last_tile)
            accumulator = tl.dot(gradient, unpacked(both, dtype), accumulator)
            u_q, v_q = load_taps(place, u_p, v_p, first_pair, dilation_h, dilation_w, HALF, KERNEL_H, KERNEL_W, ZERO_FLUX)
            a = flows(u_p, u_q, v_p, v_q, inverse, dtype, HALF, DIFFUSIVITY, UNIT_CONTRAST, PTX)
            u_q, v_q = load_taps(place, u_p, v_p, first_pair + HALF, dilation_h, dilation_w, HALF, KERNEL_H, KERNEL_W, ZERO_FLUX)
            b = flows(u_p, u_q, v_p, v_q, inverse, dtype, HALF, DIFFUSIVITY, UNIT_CONTRAST, PTX)
            both = side_by_side(a, b)
            accumulator = finished(accumulator, dtype, "ieee")

        # Not the `outputs` from above: their places in this layout would be kept through the loop, in 32 registers.
        rows = tl.arange(0, BLOCK_O)
        dweight_ptr += (first_output + o_block * BLOCK_O) * (TAPS * C) + c_block * CHANNELS
        place = tl.arange(0, 2 * TAP_PAIRS * CHANNELS)
        tap = first_pair + place // (2 * CHANNELS)
        tap = tl.where(place // CHANNELS % 2 == 1, TAPS - 1 - tap, tap)
        dweight_offsets = (rows * (TAPS * C))[:, None] + (tap * C + place % CHANNELS)[None, :]
        tl.store(dweight_ptr + dweight_offsets, accumulator, mask=(rows < O - o_block * BLOCK_O)[:, None])
