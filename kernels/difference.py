"""The weighted difference of one tap, the one operand that every kernel of the difference convolution shares."""

import triton
import triton.language as tl

from sdn_triton.kernels.diffusivity import diffusivity, diffusivity_slope


@triton.jit
def load_inverse_contrast(contrast_ptr, inverse_contrast, stride_contrast, channels, mask, LOAD_CONTRAST: tl.constexpr):
    """1 / k: the number ``inverse_contrast``, or [1, BLOCK_C] from a tensor of k, where that number is 1.

    The number is a factor of every similarity even where it is 1. A product of loaded values alone would be formed in
    the layout of the matrix operand it becomes, by every warp that reads the operand instead of once.
    """
    if LOAD_CONTRAST:
        # Masked channels get k = 1: anything else than a finite 1 / k would make them NaN.
        contrast = tl.load(contrast_ptr + channels * stride_contrast, mask=mask, other=1.0)
        inverse_contrast = (inverse_contrast / contrast.to(tl.float32))[None, :]
    return inverse_contrast


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
def load_edge(
    u_ptr,
    v_ptr,
    h_ptr,
    u_offsets,  # [PIXELS, channels], of the far ends
    v_offsets,
    x_outputs,  # [PIXELS, channels], of the near ends as centres, in h
    q_outputs,  # of the far ends as centres
    q_mask,
    x_is_centre,
    q_is_centre,
    all_inside,  # no mask is needed
):
    """Both images at the far ends of edges, and what the tap passes back: ``h[x,tap]`` and ``h[q,opposite]``."""
    if all_inside:
        u_q = tl.load(u_ptr + u_offsets)
        v_q = tl.load(v_ptr + v_offsets)
        h_x = tl.load(h_ptr + x_outputs)
        h_q = tl.load(h_ptr + q_outputs)
    else:
        u_q = tl.load(u_ptr + u_offsets, mask=q_mask, other=0)
        v_q = tl.load(v_ptr + v_offsets, mask=q_mask, other=0)
        h_x = tl.load(h_ptr + x_outputs, mask=x_is_centre, other=0)
        h_q = tl.load(h_ptr + q_outputs, mask=q_is_centre, other=0)
    return u_q, v_q, h_x, h_q


@triton.jit
def edge_fluxes(e, d, t, DIFFUSIVITY: tl.constexpr):
    """``s t`` and ``k g'(d) e t`` of an edge with the relative difference d, where ``t = dL/d(s e)``, in float32."""
    s = diffusivity(d * d, DIFFUSIVITY)
    return s * t, diffusivity_slope(s, DIFFUSIVITY) * d * (e * t)
