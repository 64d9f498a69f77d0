"""The weighted difference of one tap, the one operand that every kernel of the difference convolution shares."""

import triton
import triton.language as tl

from sdn_triton.kernels.diffusivity import diffusivity, diffusivity_slope
from sdn_triton.kernels.pixels import inside, output_of_centre, pixel_offsets


@triton.jit
def load_inverse_contrast(contrast, first, channels, mask):
    """1 / k: the number ``contrast.inverse``, or [1, BLOCK_C] from a tensor of k, where that number is 1.

    ``first`` is the first channel of the group. The number is a factor of every similarity even where it is 1. A
    product of loaded values alone would be formed in the layout of the matrix operand it becomes, by every warp that
    reads the operand instead of once.
    """
    inverse = contrast.inverse
    if contrast.ptr is not None:
        # Masked channels get k = 1: anything else than a finite 1 / k would make them NaN.
        places = contrast.ptr + first * contrast.stride + channels * contrast.stride
        inverse = (inverse / tl.load(places, mask=mask, other=1.0).to(tl.float32))[None, :]
    return inverse


@triton.jit
def relative_difference(x_p, x_q, inverse_contrast):
    """``t = (x_q - x_p) / k`` in float32; the diffusivities are functions of ``a = t^2``."""
    return (x_q.to(tl.float32) - x_p.to(tl.float32)) * inverse_contrast


@triton.jit
def weighted_difference(
    u_p,
    u_q,
    v_p,
    v_q,
    both_inside,
    inverse_contrast,
    DIFFUSIVITY: tl.constexpr,
    VECTOR: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
):
    """``s (u_q - u_p)`` of one tap in float32, where ``s = g((v_q - v_p) / k)``.

    With ``VECTOR`` the similarity was computed before: ``v_q`` is s itself, [BLOCK_P, 1].
    With ``ZERO_FLUX`` a tap whose ends are not both inside the image contributes nothing, whatever it read.
    """
    e = u_q.to(tl.float32) - u_p.to(tl.float32)  # [BLOCK_P, BLOCK_C]
    if VECTOR:
        s = v_q
    else:
        # Half differences are formed two at a time, in their own precision; the rounded product hides that.
        t = (v_q - v_p).to(tl.float32) * inverse_contrast
        s = diffusivity(t * t, DIFFUSIVITY)
    flow = e * s
    if ZERO_FLUX:
        flow = tl.where(both_inside, flow, 0.0)
    return flow


@triton.jit
def load_far_ends(
    u_image,
    v_image,
    u_offsets,  # [PIXELS, channels], of the near ends
    v_offsets,
    rows,  # of the near ends, [PIXELS]
    columns,
    dy,
    dx,
    wanted,  # [PIXELS], or True; elsewhere nothing is read
    c_mask,  # [channels]
    at,
    u_strides,
    v_strides,
    INT64: tl.constexpr,
):
    """Both images at the far ends of the edges of a tap, and which of these are wanted and inside the image."""
    q_inside = inside(rows + dy, columns + dx, at.H, at.W) & wanted
    q_mask = q_inside[:, None] & c_mask[None, :]
    u_q = tl.load(u_image + pixel_offsets(dy, dx, u_strides, INT64) + u_offsets, mask=q_mask, other=0.0)
    v_q = tl.load(v_image + pixel_offsets(dy, dx, v_strides, INT64) + v_offsets, mask=q_mask, other=0.0)
    return u_q, v_q, q_inside


@triton.jit
def load_edge(
    u_far,  # u and v at the far end of the tap
    v_far,
    h_tap,  # the tap in h, and its opposite
    h_opposite,
    u_offsets,  # [PIXELS, channels], of the near ends
    v_offsets,
    h_offsets,
    h_channels,  # the part of these offsets that is the channels'
    x_rows,  # [PIXELS]
    x_columns,
    x_inside,
    x_is_centre,
    c_mask,  # [channels]
    dy,
    dx,
    at,
    first_output_row,
    h_strides,
    all_inside,  # every near and far end is inside the image and an output centre, and has all channels
    NEAR: tl.constexpr,
    FAR: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    INT64: tl.constexpr,
):
    """Both images at the far ends of edges, and what taps pass back: ``h[x,tap] - h[q,opposite]`` in two parts.

    Where a pixel is no output centre, or the edge has no flux, h is 0. Without NEAR or without FAR that part is not
    read, and the other one stands in its place.
    """
    if all_inside:
        u_q = tl.load(u_far + u_offsets)
        v_q = tl.load(v_far + v_offsets)
        if NEAR:
            h_x = tl.load(h_tap + h_offsets)
        if FAR:
            h_q = tl.load(h_opposite + pixel_offsets(dy, dx, h_strides, INT64) + h_offsets)
    else:
        q_inside = inside(x_rows + dy, x_columns + dx, at.H, at.W) & x_inside
        q_mask = q_inside[:, None] & c_mask[None, :]
        u_q = tl.load(u_far + u_offsets, mask=q_mask, other=0)
        v_q = tl.load(v_far + v_offsets, mask=q_mask, other=0)
        i, j, q_is_centre = output_of_centre(x_rows + dy, x_columns + dx, at)
        q_is_centre = q_is_centre & x_inside
        if ZERO_FLUX:
            x_is_centre = x_is_centre & q_inside
            q_is_centre = q_is_centre & q_inside
        if NEAR:
            h_x = tl.load(h_tap + h_offsets, mask=x_is_centre[:, None] & c_mask[None, :], other=0)
        if FAR:
            q_offsets = pixel_offsets(i - first_output_row, j, h_strides, INT64)[:, None] + h_channels
            h_q = tl.load(h_opposite + q_offsets, mask=q_is_centre[:, None] & c_mask[None, :], other=0)
    if not NEAR:
        h_x = h_q
    if not FAR:
        h_q = h_x
    return u_q, v_q, h_x, h_q


@triton.jit
def edge_fluxes(e, d, t, DIFFUSIVITY: tl.constexpr):
    """``s t`` and ``k g'(d) e t`` of an edge with the relative difference d, where ``t = dL/d(s e)``, in float32."""
    s = diffusivity(d * d, DIFFUSIVITY)
    return s * t, diffusivity_slope(s, DIFFUSIVITY) * d * (e * t)
