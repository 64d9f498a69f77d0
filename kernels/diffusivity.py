"""The diffusivities g and their derivatives, each formula once, as functions of ``a = d^2 / k^2``."""

import triton
import triton.language as tl


@triton.jit
def diffusivity(a, DIFFUSIVITY: tl.constexpr):
    """g: charbonnier (1 + a)^(-1/2), exponential exp(-a), rational 1 / (1 + a), constant 1."""
    if DIFFUSIVITY == "charbonnier":
        return tl.rsqrt(1.0 + a)
    elif DIFFUSIVITY == "exponential":
        return tl.exp(-a)
    elif DIFFUSIVITY == "rational":
        return 1.0 / (1.0 + a)
    else:
        tl.static_assert(DIFFUSIVITY == "constant", "unknown diffusivity")
        # Keeps NaN and infinity of the guidance out, as a similarity that does not look at it must.
        return tl.full(a.shape, 1.0, tl.float32)


@triton.jit
def diffusivity_slope(g, DIFFUSIVITY: tl.constexpr):
    """``slope = g'(d) k^2 / d`` from g itself, finite everywhere; so ``g'(d) = slope d / k^2`` and ``d g'(d) = slope a``."""
    if DIFFUSIVITY == "charbonnier":
        return -g * g * g
    elif DIFFUSIVITY == "exponential":
        return -2.0 * g
    elif DIFFUSIVITY == "rational":
        return -2.0 * g * g
    else:
        tl.static_assert(DIFFUSIVITY == "constant", "unknown diffusivity")
        return tl.zeros(g.shape, tl.float32)
