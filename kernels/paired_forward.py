"""The semantic difference convolution of half types, two channels at a time: the fast path of dense convolutions."""

import triton
import triton.language as tl

from sdn_triton.kernels.difference import load_inverse_contrast
from sdn_triton.kernels.moments import store_tile_moments
from sdn_triton.kernels.pairs import (
    APART,
    WORDS,
    first_pixels,
    in_fragment_order,
    side_by_side,
    unpacked,
    weighted_differences,
)
from sdn_triton.kernels.pixels import channel_offsets, inside, pixel_offsets, tile_origin, tile_pixels
from sdn_triton.kernels.products import finished, products_run_on


@triton.jit
def load_words(u_words, v_words, tile, word, dy, dx, wanted):
    """Words of input and guidance at a tile moved by a tap, [PIXELS // 2, WORDS, 2]; zeros outside the image.

    Where they are not ``wanted`` nothing is read: a mask, since arithmetic does not move past a branch.
    """
    offsets, rows, columns, second_row, second_column, H, W, stride_h, stride_w = tile
    offsets += word + dy * stride_h + dx * stride_w
    second = second_row * stride_h + second_column * stride_w
    rows += dy
    columns += dx
    first_mask = (inside(rows, columns, H, W) & wanted)[:, None]
    second_mask = (inside(rows + second_row, columns + second_column, H, W) & wanted)[:, None]
    u_first = tl.load(u_words + offsets, mask=first_mask, other=0)
    u_second = tl.load(u_words + offsets + second, mask=second_mask, other=0)
    v_first = tl.load(v_words + offsets, mask=first_mask, other=0)
    v_second = tl.load(v_words + offsets + second, mask=second_mask, other=0)
    return tl.join(u_first, u_second), tl.join(v_first, v_second)


@triton.jit
def pairs_inside(tile, dy, dx):
    """The mask of the image border for the positions of :func:`load_words`, [PIXELS // 2, 1, 2]."""
    _, rows, columns, second_row, second_column, H, W, _, _ = tile
    first = inside(rows + dy, columns + dx, H, W)
    second = inside(rows + (dy + second_row), columns + (dx + second_column), H, W)
    return tl.join(first, second)[:, None, :]


@triton.jit
def flow_of_tap(
    u_p,
    u_q,
    v_p,
    v_q,
    inverse,
    tile,
    dy,
    dx,
    dtype: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    UNIT_CONTRAST: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    PTX: tl.constexpr,
):
    """Words of ``s(p,q) (u[q] - u[p])`` with ``q = p + (dy, dx)`` in fragment order, [PIXELS, WORDS]."""
    lower, upper = inverse
    flow = weighted_differences(u_p, u_q, v_p, v_q, lower, upper, dtype, DIFFUSIVITY, UNIT_CONTRAST, PTX)
    if ZERO_FLUX:
        flow = tl.where(pairs_inside(tile, 0, 0) & pairs_inside(tile, dy, dx), flow, 0)
    return in_fragment_order(flow, 2 * u_p.shape[0])


@triton.jit
def contrast_of_words(contrast_ptr, inverse_contrast, stride_contrast, word, C, LOAD_CONTRAST: tl.constexpr):
    """1 / k of lower and of upper channels, as :func:`load_inverse_contrast`, for words [PIXELS // 2, WORDS, 2]."""
    channels = 2 * (word + tl.arange(0, WORDS))
    lower = load_inverse_contrast(
        contrast_ptr, inverse_contrast, stride_contrast, channels, channels < C, LOAD_CONTRAST
    )
    upper = load_inverse_contrast(
        contrast_ptr, inverse_contrast, stride_contrast, channels + 1, channels < C, LOAD_CONTRAST
    )
    if LOAD_CONTRAST:
        lower = lower[:, :, None]
        upper = upper[:, :, None]
    return lower, upper


@triton.jit
def next_tap(dy, dx, word, reach_h, reach_w, dilation_h, dilation_w, C):
    """The tap after ``(dy, dx)`` in the first half of the kernel, and whether it is the first one of the next words.

    After the last words come the first ones again: what is loaded of them then is not used.
    """
    dx += dilation_w
    end_of_row = dx > reach_w
    dx = tl.where(end_of_row, -reach_w, dx)
    dy = tl.where(end_of_row, dy + dilation_h, dy)
    is_first = (dy == 0) & (dx == 0)
    dy = tl.where(is_first, -reach_h, dy)
    dx = tl.where(is_first, -reach_w, dx)
    word = tl.where(is_first, word + WORDS, word)
    word = tl.where(word < C // 2, word, 0)
    return dy, dx, word, is_first


@triton.jit
def paired_response_of_tile(
    u_words,  # of the first channel of the group, as are those below
    v_words,
    weight_ptr,  # [C / 32, TAPS // 2, BLOCK_O, 2, 32] of these outputs, see launch/paired_weight.py
    contrast_ptr,
    inverse_contrast,
    first_row,
    first_column,
    C,
    H,
    W,
    origin_h,
    origin_w,
    step_h,
    step_w,
    dilation_h,
    dilation_w,
    stride_uh,
    stride_uw: tl.constexpr,
    stride_contrast,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    LOAD_CONTRAST: tl.constexpr,
    UNIT_CONTRAST: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    PTX: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_O: tl.constexpr,
    dtype: tl.constexpr,
):
    """``sum_{c, tap} K[o,c,tap] s(n,c,p,q) (u[n,c,q] - u[n,c,p])`` of a tile of outputs, [PIXELS, BLOCK_O].

    A trip of the loop is a tap of the first half of the kernel and its opposite. The centres of 32 channels stay in
    registers while taps go by.

    The loop is rotated, so that tensor cores have something to do while differences are made: a trip begins with the
    differences of its tap at hand and with all else that it needs loaded, and ends with those of the next tap. On
    Hopper the product of the tap runs under the differences of its opposite, and that of the opposite under those of
    the next tap; both have ended with the trip (see ``products.py``). Where sums are kept in tensor memory two
    products would copy them from one place to another: there it is one for both.
    """
    HALF_TAPS: tl.constexpr = KERNEL_H * KERNEL_W // 2
    PIXELS: tl.constexpr = BLOCK_H * BLOCK_W
    CHANNELS: tl.constexpr = 2 * WORDS
    WEIGHT_TILE: tl.constexpr = BLOCK_O * 2 * CHANNELS
    reach_h = KERNEL_H // 2 * dilation_h
    reach_w = KERNEL_W // 2 * dilation_w

    pixels = first_pixels(PIXELS)
    rows = (first_row + pixels // BLOCK_W) * step_h + origin_h
    columns = (first_column + pixels % BLOCK_W) * step_w + origin_w
    offsets = pixel_offsets(rows, columns, stride_uh, stride_uw, False)[:, None] + tl.arange(0, WORDS)[None, :]
    second_row = APART // BLOCK_W * step_h
    second_column = APART % BLOCK_W * step_w
    tile = offsets, rows, columns, second_row, second_column, H, W, stride_uh, stride_uw
    # [2 * CHANNELS, BLOCK_O]: the channels of the tap, then those of its opposite
    tap_weights = weight_ptr + tl.arange(0, CHANNELS)[:, None] + (tl.arange(0, BLOCK_O) * (2 * CHANNELS))[None, :]
    both_weights = weight_ptr + tl.arange(0, 2 * CHANNELS)[:, None] + (tl.arange(0, BLOCK_O) * (2 * CHANNELS))[None, :]

    dy = -reach_h
    dx = -reach_w
    u_p, v_p = load_words(u_words, v_words, tile, 0, 0, 0, True)
    u_q, v_q = load_words(u_words, v_words, tile, 0, dy, dx, True)
    u_opposite, v_opposite = load_words(u_words, v_words, tile, 0, -dy, -dx, True)
    inverse = contrast_of_words(contrast_ptr, inverse_contrast, stride_contrast, 0, C, LOAD_CONTRAST)
    flow = flow_of_tap(
        u_p, u_q, v_p, v_q, inverse, tile, dy, dx, dtype, DIFFUSIVITY, UNIT_CONTRAST, ZERO_FLUX, PTX
    )
    next_dy, next_dx, word, is_first = next_tap(dy, dx, 0, reach_h, reach_w, dilation_h, dilation_w, C)
    u_q, v_q = load_words(u_words, v_words, tile, word, next_dy, next_dx, True)

    accumulator = tl.zeros((PIXELS, BLOCK_O), tl.float32)
    for _ in range(0, C // CHANNELS * HALF_TAPS):
        u_next, v_next = load_words(u_words, v_words, tile, word, 0, 0, is_first)
        if products_run_on():
            accumulator = tl.dot(unpacked(flow, dtype), tl.load(tap_weights), accumulator)
        opposite = flow_of_tap(
            u_p, u_opposite, v_p, v_opposite, inverse, tile, -dy, -dx,
            dtype, DIFFUSIVITY, UNIT_CONTRAST, ZERO_FLUX, PTX,
        )  # fmt: skip
        u_opposite, v_opposite = load_words(u_words, v_words, tile, word, -next_dy, -next_dx, True)
        if products_run_on():
            accumulator = tl.dot(unpacked(opposite, dtype), tl.load(tap_weights + CHANNELS), accumulator)
        else:
            both = side_by_side(flow, opposite)
            accumulator = tl.dot(unpacked(both, dtype), tl.load(both_weights), accumulator)

        u_p = tl.where(is_first, u_next, u_p)
        v_p = tl.where(is_first, v_next, v_p)
        inverse = contrast_of_words(contrast_ptr, inverse_contrast, stride_contrast, word, C, LOAD_CONTRAST)
        dy = next_dy
        dx = next_dx
        flow = flow_of_tap(
            u_p, u_q, v_p, v_q, inverse, tile, dy, dx, dtype, DIFFUSIVITY, UNIT_CONTRAST, ZERO_FLUX, PTX
        )
        next_dy, next_dx, word, is_first = next_tap(dy, dx, word, reach_h, reach_w, dilation_h, dilation_w, C)
        u_q, v_q = load_words(u_words, v_words, tile, word, next_dy, next_dx, True)
        accumulator = finished(accumulator)
        tap_weights += WEIGHT_TILE
        both_weights += WEIGHT_TILE
    return accumulator


@triton.jit(do_not_specialize=["H", "HO", "origin_h", "origin_w"])
def paired_forward_kernel(
    y_ptr,
    moments_ptr,  # [tiles, 2, all outputs] in float32, see kernels/moments.py
    u_ptr,
    v_ptr,
    weight_ptr,  # [groups, cdiv(O, BLOCK_O), C / 32, TAPS // 2, BLOCK_O, 2, 32], see launch/paired_weight.py
    bias_ptr,
    contrast_ptr,
    inverse_contrast,
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
    stride_yn,
    stride_yc,
    stride_yh,
    stride_yw,
    stride_un,  # of u and of v, in words; the words of a pixel lie together
    stride_uh,
    stride_uw: tl.constexpr,  # so that two pixels of a row are a constant apart, which takes no register
    stride_contrast,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_MOMENTS: tl.constexpr,
    LOAD_CONTRAST: tl.constexpr,
    UNIT_CONTRAST: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    PTX: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """``y[n,o,p] = b[o] + sum_{c, tap} K[o,c,tap] s(n,c,p,q) (u[n,c,q] - u[n,c,p])``.

    One program: a tile of BLOCK_H x BLOCK_W output pixels by BLOCK_O outputs of one group.
    Grid: (tiles * cdiv(O, BLOCK_O), groups).
    """
    dtype: tl.constexpr = u_ptr.dtype.element_ty
    o_blocks = tl.cdiv(O, BLOCK_O)
    o_block = tl.program_id(0) % o_blocks
    group = tl.program_id(1).to(tl.int64)
    n, first_row, first_column = tile_origin(tl.program_id(0) // o_blocks, HO, WO, BLOCK_H, BLOCK_W)

    image = n * stride_un + group * (C // 2)
    if LOAD_CONTRAST:
        contrast_ptr += group * C * stride_contrast
    accumulator = paired_response_of_tile(
        u_ptr.to(tl.pointer_type(tl.int32)) + image, v_ptr.to(tl.pointer_type(tl.int32)) + image,
        weight_ptr + (group * o_blocks + o_block) * (C * (KERNEL_H * KERNEL_W // 2) * 2 * BLOCK_O),
        contrast_ptr, inverse_contrast, first_row, first_column, C, H, W, origin_h, origin_w, step_h, step_w,
        dilation_h, dilation_w, stride_uh, stride_uw, stride_contrast, KERNEL_H, KERNEL_W,
        LOAD_CONTRAST, UNIT_CONTRAST, DIFFUSIVITY, ZERO_FLUX, PTX, BLOCK_H, BLOCK_W, BLOCK_O, dtype,
    )  # fmt: skip

    outputs = o_block * BLOCK_O + tl.arange(0, BLOCK_O)
    o_mask = outputs < O
    if HAS_BIAS:
        bias = tl.load(bias_ptr + group * O + outputs, mask=o_mask, other=0.0)
        accumulator += bias.to(tl.float32)[None, :]
    y_rows, y_columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [PIXELS]
    y_ptr += n * stride_yn + group * O * stride_yc
    y_pixels = pixel_offsets(y_rows, y_columns, stride_yh, stride_yw, False)
    y_offsets = y_pixels[:, None] + channel_offsets(outputs, stride_yc, False)[None, :]
    p_mask = (y_rows < HO) & (y_columns < WO)
    y = accumulator.to(dtype)
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
