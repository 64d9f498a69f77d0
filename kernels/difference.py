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
def edge_fluxes(u_x, u_q, v_x, v_q, t, inverse_contrast, DIFFUSIVITY: tl.constexpr):
    """``s t``, ``k g'(d) e t`` and ``d / k`` of the edge from x to q, where ``t = dL/d(s e)``, in float32."""
    e = u_q.to(tl.float32) - u_x.to(tl.float32)
    d = relative_difference(v_x, v_q, inverse_contrast)
    s = diffusivity(d * d, DIFFUSIVITY)
    return s * t, diffusivity_slope(s, DIFFUSIVITY) * d * e * t, d
