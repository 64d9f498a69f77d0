"""What the paired kernels of the forward pass share: the response of a tile of pixels, two channels at a time.

There are two loops. Where products run on while other instructions do (Hopper), the loop is rotated, so that they have
something to run under. Where sums are kept in tensor memory, products run by themselves and instructions bind: there
the plain loop is the better one, which takes a quarter less of them.
"""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import TwoPixelTile
from sdn_triton.kernels.difference import load_inverse_contrast
from sdn_triton.kernels.pairs import (
    APART,
    WORD_BITS,
    WORDS,
    first_pixels,
    in_fragment_order,
    side_by_side,
    unpacked,
    weighted_differences,
)
from sdn_triton.kernels.pixels import FORCE_MASKS, centres_of, inside, pixel_offsets
from sdn_triton.kernels.products import finished, sums_in_tensor_memory


@triton.jit
def masks_inside(tile, dy, dx):
    """Which first and which second pixels of a tile moved by a tap lie in the image, [PIXELS // 2, 1] each."""
    rows = tile.rows + dy
    columns = tile.columns + dx
    first = inside(rows, columns, tile.H, tile.W)
    second = inside(rows + tile.second_row, columns + tile.second_column, tile.H, tile.W)
    return first[:, None], second[:, None]


@triton.jit
def load_wanted_words(u_words, v_words, tile, word, dy, dx, wanted):
    """Words of input and guidance at a tile moved by a tap, [PIXELS // 2, WORDS, 2]; zeros outside the image.

    Where they are not ``wanted`` nothing is read: a mask, since arithmetic does not move past a branch.
    """
    offsets = tile.offsets + (word + (dy * tile.stride_h + dx * tile.stride_w))
    second = tile.second_row * tile.stride_h + tile.second_column * tile.stride_w
    first_mask, second_mask = masks_inside(tile, dy, dx)
    first_mask = first_mask & wanted
    second_mask = second_mask & wanted
    u_first = tl.load(u_words + offsets, mask=first_mask, other=0)
    u_second = tl.load(u_words + offsets + second, mask=second_mask, other=0)
    v_first = tl.load(v_words + offsets, mask=first_mask, other=0)
    v_second = tl.load(v_words + offsets + second, mask=second_mask, other=0)
    return tl.join(u_first, u_second), tl.join(v_first, v_second)


@triton.jit
def load_words(u_words, v_words, tile, word, dy, dx, all_inside):
    """The same of all words, without masks where the whole tile is inside: few taps of few tiles reach outside.

    Triton does not prefetch loads inside a branch through shared memory, which would bypass the first-level cache: a
    tap finds there what the taps before it have read.
    """
    offsets = tile.offsets + (word + (dy * tile.stride_h + dx * tile.stride_w))
    second = tile.second_row * tile.stride_h + tile.second_column * tile.stride_w
    if all_inside:
        u_first = tl.load(u_words + offsets)
        u_second = tl.load(u_words + offsets + second)
        v_first = tl.load(v_words + offsets)
        v_second = tl.load(v_words + offsets + second)
    else:
        first, last = masks_inside(tile, dy, dx)
        u_first = tl.load(u_words + offsets, mask=first, other=0)
        u_second = tl.load(u_words + offsets + second, mask=last, other=0)
        v_first = tl.load(v_words + offsets, mask=first, other=0)
        v_second = tl.load(v_words + offsets + second, mask=last, other=0)
    return tl.join(u_first, u_second), tl.join(v_first, v_second)


@triton.jit
def pairs_inside(tile, dy, dx):
    """The mask of the image border for the positions of :func:`load_words`, [PIXELS // 2, 1, 2]."""
    first, second = masks_inside(tile, dy, dx)
    return tl.join(first, second)


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
def contrast_of_words(contrast, first_channel, word, C, dtype: tl.constexpr):
    """1 / k of lower and of upper channels, as :func:`load_inverse_contrast`, for words [PIXELS // 2, WORDS, 2]."""
    IN_WORD: tl.constexpr = WORD_BITS // dtype.primitive_bitwidth
    channels = IN_WORD * (word + tl.arange(0, WORDS))
    lower = load_inverse_contrast(contrast, first_channel, channels, channels < C)
    upper = load_inverse_contrast(contrast, first_channel, channels + IN_WORD - 1, channels < C)
    if contrast.ptr is not None:
        lower = lower[:, :, None]
        upper = upper[:, :, None]
    return lower, upper


@triton.jit
def next_tap(dy, dx, word, reach_h, reach_w, at, all_words):
    """The tap after ``(dy, dx)`` in the first half of the kernel, and whether it is the first one of the next words.

    After the last words come the first ones again: what is loaded of them then is not used.
    """
    dx += at.dilation_w
    end_of_row = dx > reach_w
    dx = tl.where(end_of_row, -reach_w, dx)
    dy = tl.where(end_of_row, dy + at.dilation_h, dy)
    is_first = (dy == 0) & (dx == 0)
    dy = tl.where(is_first, -reach_h, dy)
    dx = tl.where(is_first, -reach_w, dx)
    word = tl.where(is_first, word + WORDS, word)
    word = tl.where(word < all_words, word, 0)
    return dy, dx, word, is_first


@triton.jit
def rotated_response(
    u_words,
    v_words,
    weight_ptr,
    contrast,
    first_channel,
    tile,
    C,
    reach_h,
    reach_w,
    at,
    HALF_TAPS: tl.constexpr,
    UNIT_CONTRAST: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    PTX: tl.constexpr,
    BLOCK_O: tl.constexpr,
    dtype: tl.constexpr,
):
    """The response by a loop whose products run under the differences of those that follow.

    A trip begins with the differences of its tap at hand and with all else that it needs loaded, and ends with those of
    the next tap. The product of the tap runs under the differences of its opposite, and that of the opposite under
    those of the next tap; both have ended with the trip. Loads have masks instead of branches, which arithmetic does
    not move past. They are carried from trip to trip, so that Triton does not prefetch them through shared memory, past
    the first-level cache: a tap finds there what the taps before it have read.
    """
    PIXELS: tl.constexpr = 2 * tile.rows.shape[0]
    IN_WORD: tl.constexpr = WORD_BITS // dtype.primitive_bitwidth
    CHANNELS: tl.constexpr = IN_WORD * WORDS
    PRECISION: tl.constexpr = "tf32" if PTX else "ieee"
    WEIGHT_TILE: tl.constexpr = BLOCK_O * 2 * CHANNELS
    # [CHANNELS, BLOCK_O] of a tap; those of its opposite lie CHANNELS further.
    weight_offsets = tl.arange(0, CHANNELS)[:, None] + (tl.arange(0, BLOCK_O) * (2 * CHANNELS))[None, :]

    dy = -reach_h
    dx = -reach_w
    u_p, v_p = load_wanted_words(u_words, v_words, tile, 0, 0, 0, True)
    u_q, v_q = load_wanted_words(u_words, v_words, tile, 0, dy, dx, True)
    u_opposite, v_opposite = load_wanted_words(u_words, v_words, tile, 0, -dy, -dx, True)
    inverse = contrast_of_words(contrast, first_channel, 0, C, dtype)
    flow = flow_of_tap(u_p, u_q, v_p, v_q, inverse, tile, dy, dx, dtype, DIFFUSIVITY, UNIT_CONTRAST, ZERO_FLUX, PTX)
    next_dy, next_dx, word, is_first = next_tap(dy, dx, 0, reach_h, reach_w, at, C // IN_WORD)
    u_q, v_q = load_wanted_words(u_words, v_words, tile, word, next_dy, next_dx, True)

    accumulator = tl.zeros((PIXELS, BLOCK_O), tl.float32)
    for _ in range(0, C // CHANNELS * HALF_TAPS):
        u_next, v_next = load_wanted_words(u_words, v_words, tile, word, 0, 0, is_first)
        accumulator = tl.dot(
            unpacked(flow, dtype), tl.load(weight_ptr + weight_offsets), accumulator, input_precision=PRECISION
        )
        opposite = flow_of_tap(
            u_p, u_opposite, v_p, v_opposite, inverse, tile, -dy, -dx,
            dtype, DIFFUSIVITY, UNIT_CONTRAST, ZERO_FLUX, PTX,
        )  # fmt: skip
        u_opposite, v_opposite = load_wanted_words(u_words, v_words, tile, word, -next_dy, -next_dx, True)
        accumulator = tl.dot(
            unpacked(opposite, dtype),
            tl.load(weight_ptr + weight_offsets + CHANNELS),
            accumulator,
            input_precision=PRECISION,
        )

        u_p = tl.where(is_first, u_next, u_p)
        v_p = tl.where(is_first, v_next, v_p)
        inverse = contrast_of_words(contrast, first_channel, word, C, dtype)
        dy = next_dy
        dx = next_dx
        flow = flow_of_tap(u_p, u_q, v_p, v_q, inverse, tile, dy, dx, dtype, DIFFUSIVITY, UNIT_CONTRAST, ZERO_FLUX, PTX)
        next_dy, next_dx, word, is_first = next_tap(dy, dx, word, reach_h, reach_w, at, C // IN_WORD)
        u_q, v_q = load_wanted_words(u_words, v_words, tile, word, next_dy, next_dx, True)
        accumulator = finished(accumulator, dtype, PRECISION)
        weight_ptr += WEIGHT_TILE
    return accumulator


@triton.jit
def plain_response(
    u_words,
    v_words,
    weight_ptr,
    contrast,
    first_channel,
    tile,
    room,
    C,
    reach_h,
    reach_w,
    at,
    HALF_TAPS: tl.constexpr,
    UNIT_CONTRAST: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    PTX: tl.constexpr,
    BLOCK_O: tl.constexpr,
    dtype: tl.constexpr,
):
    """The response by a loop that makes the differences of a tap and its opposite, then forms their product."""
    PIXELS: tl.constexpr = 2 * tile.rows.shape[0]
    IN_WORD: tl.constexpr = WORD_BITS // dtype.primitive_bitwidth
    CHANNELS: tl.constexpr = IN_WORD * WORDS
    PRECISION: tl.constexpr = "tf32" if PTX else "ieee"
    WEIGHT_TILE: tl.constexpr = BLOCK_O * 2 * CHANNELS
    # [2 * CHANNELS, BLOCK_O]: the channels of the tap, then those of its opposite
    weight_offsets = tl.arange(0, 2 * CHANNELS)[:, None] + (tl.arange(0, BLOCK_O) * (2 * CHANNELS))[None, :]
    up, down, left, right = room

    accumulator = tl.zeros((PIXELS, BLOCK_O), tl.float32)
    u_p = tl.zeros((PIXELS // 2, WORDS, 2), tl.int32)
    v_p = tl.zeros((PIXELS // 2, WORDS, 2), tl.int32)
    dy = -reach_h
    dx = -reach_w
    word = 0
    is_first = True
    for _ in range(0, C // CHANNELS * HALF_TAPS):
        if is_first:
            u_p, v_p = load_wanted_words(u_words, v_words, tile, word, 0, 0, True)
        inverse = contrast_of_words(contrast, first_channel, word, C, dtype)
        # One comparison for three: none of the sums is negative. dy is not positive; dx may be either.
        u_q, v_q = load_words(
            u_words, v_words, tile, word, dy, dx, all_inside=((up + dy) | (left + dx) | (right - dx)) >= 0
        )
        flow = flow_of_tap(u_p, u_q, v_p, v_q, inverse, tile, dy, dx, dtype, DIFFUSIVITY, UNIT_CONTRAST, ZERO_FLUX, PTX)
        u_q, v_q = load_words(
            u_words, v_words, tile, word, -dy, -dx, all_inside=((down + dy) | (left - dx) | (right + dx)) >= 0
        )
        opposite = flow_of_tap(
            u_p, u_q, v_p, v_q, inverse, tile, -dy, -dx, dtype, DIFFUSIVITY, UNIT_CONTRAST, ZERO_FLUX, PTX
        )
        both = side_by_side(flow, opposite)
        accumulator = tl.dot(
            unpacked(both, dtype), tl.load(weight_ptr + weight_offsets), accumulator, input_precision=PRECISION
        )
        accumulator = finished(accumulator, dtype, PRECISION)

        weight_ptr += WEIGHT_TILE
        dx += at.dilation_w
        if dx > reach_w:
            dx = -reach_w
            dy += at.dilation_h
        is_first = (dy == 0) & (dx == 0)
        if is_first:
            dy = -reach_h
            dx = -reach_w
            word += WORDS
    return accumulator


@triton.jit
def paired_response_of_tile(
    u_words,  # of the first channel of the group, as are v and the weight
    v_words,
    weight_ptr,  # [C / 32, TAPS // 2, BLOCK_O, 2, 32] of these outputs, see launch/paired_weight.py
    contrast,
    first_channel,  # of the group
    first_row,
    first_column,
    C,
    at,
    u_strides,  # of u and of v, in words
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
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

    A trip of either loop is a tap of the first half of the kernel and its opposite. The centres of 32 channels stay in
    registers while taps go by.
    """
    HALF_TAPS: tl.constexpr = KERNEL_H * KERNEL_W // 2
    reach_h = KERNEL_H // 2 * at.dilation_h
    reach_w = KERNEL_W // 2 * at.dilation_w
    pixels = first_pixels(BLOCK_H * BLOCK_W)
    rows, columns = centres_of(first_row + pixels // BLOCK_W, first_column + pixels % BLOCK_W, at)
    tile = TwoPixelTile(
        offsets=pixel_offsets(rows, columns, u_strides, False)[:, None] + tl.arange(0, WORDS)[None, :],
        rows=rows,
        columns=columns,
        second_row=APART // BLOCK_W * at.step_h,
        second_column=APART % BLOCK_W * at.step_w,
        H=at.H,
        W=at.W,
        stride_h=u_strides.h,
        stride_w=u_strides.w,
    )
    if sums_in_tensor_memory():
        # How far the tile can be moved up, down, left and right without leaving the image.
        up = first_row * at.step_h + at.origin_h
        left = first_column * at.step_w + at.origin_w
        down = at.H - 1 - up - (BLOCK_H - 1) * at.step_h
        right = at.W - 1 - left - (BLOCK_W - 1) * at.step_w
        if (up < 0) | (down < 0):
            up = FORCE_MASKS
            down = FORCE_MASKS
        room = up, down, left, right
        sums = plain_response(
            u_words, v_words, weight_ptr, contrast, first_channel, tile, room, C, reach_h, reach_w, at,
            HALF_TAPS, UNIT_CONTRAST, DIFFUSIVITY, ZERO_FLUX, PTX, BLOCK_O, dtype,
        )  # fmt: skip
    else:
        sums = rotated_response(
            u_words, v_words, weight_ptr, contrast, first_channel, tile, C, reach_h, reach_w, at,
            HALF_TAPS, UNIT_CONTRAST, DIFFUSIVITY, ZERO_FLUX, PTX, BLOCK_O, dtype,
        )  # fmt: skip
    return sums
