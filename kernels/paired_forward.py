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
    unpacked,
    weighted_differences,
)
from sdn_triton.kernels.pixels import channel_offsets, inside, pixel_offsets, tile_origin, tile_pixels
from sdn_triton.kernels.products import finished


@triton.jit
def load_words(
    u_words,
    v_words,
    offsets,  # [PIXELS // 2, WORDS], of the first of two pixels
    second,  # how much further the second is
    rows,  # [PIXELS // 2]
    columns,
    second_row,
    second_column,
    H,
    W,
    wanted,
):
    """Words of input and guidance at a tile of positions, [PIXELS // 2, WORDS, 2]; zeros outside the image.

    Nothing is read where the words are not ``wanted``: a mask, unlike a branch, lets arithmetic move past the loads.
    """
    first_mask = (inside(rows, columns, H, W) & wanted)[:, None]
    second_mask = (inside(rows + second_row, columns + second_column, H, W) & wanted)[:, None]
    u_first = tl.load(u_words + offsets, mask=first_mask, other=0)
    u_second = tl.load(u_words + offsets + second, mask=second_mask, other=0)
    v_first = tl.load(v_words + offsets, mask=first_mask, other=0)
    v_second = tl.load(v_words + offsets + second, mask=second_mask, other=0)
    return tl.join(u_first, u_second), tl.join(v_first, v_second)


@triton.jit
def pairs_inside(rows, columns, second_row, second_column, H, W):
    """The mask of the image border for the positions of :func:`load_words`, [PIXELS // 2, 1, 2]."""
    first = inside(rows, columns, H, W)
    second = inside(rows + second_row, columns + second_column, H, W)
    return tl.join(first, second)[:, None, :]


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
    second_row = APART // BLOCK_W * step_h
    second_column = APART % BLOCK_W * step_w
    p_inside = pairs_inside(rows, columns, second_row, second_column, H, W)
    offsets = pixel_offsets(rows, columns, stride_uh, stride_uw, False)[:, None] + tl.arange(0, WORDS)[None, :]
    second = second_row * stride_uh + second_column * stride_uw
    # [CHANNELS, BLOCK_O] of a tap; those of its opposite lie CHANNELS further.
    weight_offsets = tl.arange(0, CHANNELS)[:, None] + (tl.arange(0, BLOCK_O) * (2 * CHANNELS))[None, :]

    dy = -reach_h
    dx = -reach_w
    word = 0
    u_p, v_p = load_words(u_words, v_words, offsets, second, rows, columns, second_row, second_column, H, W, True)
    step = dy * stride_uh + dx * stride_uw
    u_q, v_q = load_words(
        u_words, v_words, offsets + step, second, rows + dy, columns + dx, second_row, second_column, H, W, True
    )
    u_o, v_o = load_words(
        u_words, v_words, offsets - step, second, rows - dy, columns - dx, second_row, second_column, H, W, True
    )
    inverse_lower, inverse_upper = contrast_of_words(
        contrast_ptr, inverse_contrast, stride_contrast, word, C, LOAD_CONTRAST
    )
    flow = weighted_differences(
        u_p, u_q, v_p, v_q, inverse_lower, inverse_upper, dtype, DIFFUSIVITY, UNIT_CONTRAST, PTX
    )
    if ZERO_FLUX:
        q_inside = pairs_inside(rows + dy, columns + dx, second_row, second_column, H, W)
        flow = tl.where(p_inside & q_inside, flow, 0)
    flow = in_fragment_order(flow, PIXELS)
    o_dy = -dy
    o_dx = -dx
    dy, dx, word, is_first = next_tap(dy, dx, word, reach_h, reach_w, dilation_h, dilation_w, C)
    u_q, v_q = load_words(
        u_words, v_words, offsets + (word + dy * stride_uh + dx * stride_uw), second,
        rows + dy, columns + dx, second_row, second_column, H, W, True,
    )  # fmt: skip

    accumulator = tl.zeros((PIXELS, BLOCK_O), tl.float32)
    for _ in range(0, C // CHANNELS * HALF_TAPS):
        u_next, v_next = load_words(
            u_words, v_words, offsets + word, second, rows, columns, second_row, second_column, H, W, is_first
        )
        weight = tl.load(weight_ptr + weight_offsets)
        accumulator = tl.dot(unpacked(flow, dtype), weight, accumulator)

        opposite = weighted_differences(
            u_p, u_o, v_p, v_o, inverse_lower, inverse_upper, dtype, DIFFUSIVITY, UNIT_CONTRAST, PTX
        )
        if ZERO_FLUX:
            o_inside = pairs_inside(rows + o_dy, columns + o_dx, second_row, second_column, H, W)
            opposite = tl.where(p_inside & o_inside, opposite, 0)
        o_dy = -dy
        o_dx = -dx
        u_o, v_o = load_words(
            u_words, v_words, offsets + (word - (dy * stride_uh + dx * stride_uw)), second,
            rows - dy, columns - dx, second_row, second_column, H, W, True,
        )  # fmt: skip
        weight = tl.load(weight_ptr + weight_offsets + CHANNELS)
        accumulator = tl.dot(unpacked(in_fragment_order(opposite, PIXELS), dtype), weight, accumulator)

        u_p = tl.where(is_first, u_next, u_p)
        v_p = tl.where(is_first, v_next, v_p)
        inverse_lower, inverse_upper = contrast_of_words(
            contrast_ptr, inverse_contrast, stride_contrast, word, C, LOAD_CONTRAST
        )
        flow = weighted_differences(
            u_p, u_q, v_p, v_q, inverse_lower, inverse_upper, dtype, DIFFUSIVITY, UNIT_CONTRAST, PTX
        )
        if ZERO_FLUX:
            q_inside = pairs_inside(rows + dy, columns + dx, second_row, second_column, H, W)
            flow = tl.where(p_inside & q_inside, flow, 0)
        flow = in_fragment_order(flow, PIXELS)
        dy, dx, word, is_first = next_tap(dy, dx, word, reach_h, reach_w, dilation_h, dilation_w, C)
        u_q, v_q = load_words(
            u_words, v_words, offsets + (word + dy * stride_uh + dx * stride_uw), second,
            rows + dy, columns + dx, second_row, second_column, H, W, True,
        )  # fmt: skip
        accumulator = finished(accumulator)
        weight_ptr += WEIGHT_TILE
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
