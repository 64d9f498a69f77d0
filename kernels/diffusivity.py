"""The diffusivities g and their derivatives, each formula once, as functions of ``a = d^2 / k^2``."""

import triton
import triton.language as tl


@triton.jit
def diffusivity(a, DIFFUSIVITY: tl.constexpr):
    """g: charbonnier (1 + a)^(-1/2), exponential exp(-a), rational 1 / (1 + a), constant 1."""
    if DIFFUSIVITY == "charbonnier":
        g = tl.rsqrt(1.0 + a)
    elif DIFFUSIVITY == "exponential":
        g = tl.exp(-a)
    elif DIFFUSIVITY == "rational":
        root = tl.rsqrt(1.0 + a)  # fewer instructions and registers than a division
        g = root * root
    else:
        tl.static_assert(DIFFUSIVITY == "constant", "kernels/diffusivity.py: no formula of this diffusivity")
        g = tl.full(a.shape, 1.0, tl.float32)
    return g


@triton.jit
def diffusivity_slope(g, DIFFUSIVITY: tl.constexpr):
    """``slope = k^2 g'(d) / d`` from g itself, finite everywhere: ``g'(d) = slope d / k^2``, ``d g'(d) = slope a``."""
    if DIFFUSIVITY == "charbonnier":
        slope = -g * g * g
    elif DIFFUSIVITY == "exponential":
        slope = -2.0 * g
    elif DIFFUSIVITY == "rational":
        slope = -2.0 * g * g
    else:
        tl.static_assert(DIFFUSIVITY == "constant", "kernels/diffusivity.py: no slope of this diffusivity")
        slope = tl.zeros(g.shape, tl.float32)
    return slope
