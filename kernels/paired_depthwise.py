"""The depthwise difference convolution and its gradients in half types, two channels at a time.

Nothing here is a matrix product, so nothing but the guidance's difference is rounded before it is summed. Strides of
images are in units of 16 bytes, QUAD words: these are loaded at once, and the compiler sees that they lie as they must.
"""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import Contrast, Steps, Strides
from sdn_triton.kernels.difference import load_inverse_contrast
from sdn_triton.kernels.pairs import similarities, wide
from sdn_triton.kernels.pixels import centres_of, geometry_of, inside, pixel_offsets, tile_origin, tile_pixels
from sdn_triton.kernels.response import store_response

QUAD = tl.constexpr(4)
"""Words that a thread loads at once."""


@triton.jit
def first_tap(at, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr):
    """The displacement (dy, dx) of the first tap from the centre, and its position in the kernel."""
    return -(KERNEL_H // 2) * at.dilation_h, -(KERNEL_W // 2) * at.dilation_w, 0


@triton.jit
def next_tap(dy, dx, position, at, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr):
    """The tap that follows, without divisions; the centre is left out."""
    before_centre = position == KERNEL_H * KERNEL_W // 2 - 1
    step = tl.where(before_centre, 2, 1)
    position += step
    if KERNEL_W == 1:
        dy += step * at.dilation_h
    else:  # the centre has neighbours in its row
        dx += step * at.dilation_w
        is_past_row = dx > KERNEL_W // 2 * at.dilation_w
        dx = tl.where(is_past_row, dx - KERNEL_W * at.dilation_w, dx)
        dy = tl.where(is_past_row, dy + at.dilation_h, dy)
    return dy, dx, position


@triton.jit
def word_offsets(rows, columns, words, quads):
    """Memory offsets in words of positions by words; strides are in units of 16 bytes."""
    in_words = Strides(n=quads.n * QUAD, c=1, h=quads.h * QUAD, w=quads.w * QUAD)
    return pixel_offsets(rows, columns, in_words, False)[:, None] + words[None, :]


@triton.jit
def contrast_of_channels(contrast, words, O):
    """1 / k of the lower and of the upper channels of words, as :func:`load_inverse_contrast`."""
    lower = load_inverse_contrast(contrast, 0, 2 * words, 2 * words < O)
    upper = load_inverse_contrast(contrast, 0, 2 * words + 1, 2 * words < O)
    return lower, upper


@triton.jit
def load_weights(weight_ptr, position, words, channels):
    """The weights of a tap of so many channels: of lower and of upper ones, [1, WORDS] each."""
    places = position * channels + (words // QUAD * (2 * QUAD) + words % QUAD)
    lower = tl.load(weight_ptr + places)
    upper = tl.load(weight_ptr + places + QUAD)
    return lower[None, :], upper[None, :]


@triton.jit
def flows_of_tap(
    u_words, v_words, near, offsets, rows, columns, wanted, inverse, dy, dx, at, u_quads,
    dtype: tl.constexpr, DIFFUSIVITY: tl.constexpr, UNIT_CONTRAST: tl.constexpr, ZERO_FLUX: tl.constexpr,
    PTX: tl.constexpr,
):  # fmt: skip
    """``s(p,q) (u[q] - u[p])`` with ``q = p + (dy, dx)`` of lower and upper channels in float32, [PIXELS, WORDS].

    ``near`` has lower and upper u[p] in float32, and the words of v[p].
    """
    offsets += pixel_offsets(dy, dx, u_quads, False) * QUAD
    q_inside = inside(rows + dy, columns + dx, at.H, at.W)[:, None]
    u_q = tl.load(u_words + offsets, mask=q_inside & wanted, other=0)
    v_q = tl.load(v_words + offsets, mask=q_inside & wanted, other=0)
    u_lower, u_upper, v_p = near
    s_lower, s_upper = similarities(v_p, v_q, inverse[0], inverse[1], dtype, DIFFUSIVITY, UNIT_CONTRAST, PTX)
    lower, upper = wide(u_q, dtype, PTX)
    lower = s_lower * (lower - u_lower)
    upper = s_upper * (upper - u_upper)
    if ZERO_FLUX:
        both_inside = q_inside & inside(rows, columns, at.H, at.W)[:, None]
        lower = tl.where(both_inside, lower, 0.0)
        upper = tl.where(both_inside, upper, 0.0)
    return lower, upper


@triton.jit(do_not_specialize=["H", "HO", "origin_h", "origin_w"])
def paired_depthwise_forward_kernel(
    y_ptr,
    moments_ptr,  # [tiles, 2, O] in float32, see kernels/moments.py, or None
    u_ptr,
    v_ptr,
    weight_ptr,  # [TAPS, quads of all blocks, 2, QUAD] in float32, see launch/paired_depthwise.py
    bias_ptr,  # or None
    contrast: Contrast,
    O,  # as many as channels
    H,
    W,
    HO,
    WO,
    origin_h,
    origin_w,
    steps: Steps,
    y_strides: Strides,
    u_quads: Strides,  # of u and of v, in 16 bytes; the words of a pixel lie together
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    UNIT_CONTRAST: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    PTX: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """``y[n,o,p] = b[o] + sum_tap K[o,tap] s(n,o,p,q) (u[n,o,q] - u[n,o,p])``.

    One program: a tile of BLOCK_H x BLOCK_W output pixels by BLOCK_O outputs. Grid: (tiles * cdiv(O, BLOCK_O),).
    """
    TAPS: tl.constexpr = KERNEL_H * KERNEL_W
    WORDS: tl.constexpr = BLOCK_O // 2
    dtype: tl.constexpr = u_ptr.dtype.element_ty
    at = geometry_of(H, W, HO, WO, origin_h, origin_w, steps)
    o_blocks = tl.cdiv(O, BLOCK_O)
    tile = tl.program_id(0) // o_blocks
    o_block = tl.program_id(0) % o_blocks
    n, first_row, first_column = tile_origin(tile, HO, WO, BLOCK_H, BLOCK_W)
    rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [PIXELS]
    centre_rows, centre_columns = centres_of(rows, columns, at)
    words = o_block * WORDS + tl.arange(0, WORDS)
    w_mask = (words // QUAD < O // (2 * QUAD))[None, :]  # the same for all words of a load

    u_words = u_ptr.to(tl.pointer_type(tl.int32)) + n * u_quads.n * QUAD
    v_words = v_ptr.to(tl.pointer_type(tl.int32)) + n * u_quads.n * QUAD
    offsets = word_offsets(centre_rows, centre_columns, words, u_quads)
    p_mask = inside(centre_rows, centre_columns, H, W)[:, None] & w_mask
    u_lower, u_upper = wide(tl.load(u_words + offsets, mask=p_mask, other=0), dtype, PTX)
    near = u_lower, u_upper, tl.load(v_words + offsets, mask=p_mask, other=0)
    inverse = contrast_of_channels(contrast, words, O)

    lower = tl.zeros((BLOCK_H * BLOCK_W, WORDS), tl.float32)
    upper = tl.zeros((BLOCK_H * BLOCK_W, WORDS), tl.float32)
    dy, dx, position = first_tap(at, KERNEL_H, KERNEL_W)
    for _ in range(TAPS - 1):
        flow_lower, flow_upper = flows_of_tap(
            u_words, v_words, near, offsets, centre_rows, centre_columns, w_mask, inverse, dy, dx, at,
            u_quads, dtype, DIFFUSIVITY, UNIT_CONTRAST, ZERO_FLUX, PTX,
        )  # fmt: skip
        weight_lower, weight_upper = load_weights(weight_ptr, position, words, o_blocks * BLOCK_O)
        lower += weight_lower * flow_lower
        upper += weight_upper * flow_upper
        dy, dx, position = next_tap(dy, dx, position, at, KERNEL_H, KERNEL_W)

    outputs = o_block * BLOCK_O + tl.arange(0, BLOCK_O)
    sums = tl.reshape(tl.join(lower, upper), (BLOCK_H * BLOCK_W, BLOCK_O))
    store_response(
        y_ptr, moments_ptr, bias_ptr, sums, n, tile, rows, columns, outputs, 0, 1, O, at, y_strides, False
    )  # fmt: skip
