"""What the fusion kernels share: the normalised and activated response, and the gradient through the activation."""

import triton
import triton.language as tl


@triton.jit
def load_affine(scale_ptr, shift_ptr, channels, mask):
    """``scale`` and ``shift`` of some channels in float32, [1, BLOCK] each; 1 and 0 where there are none."""
    scale = tl.full((1, channels.shape[0]), 1.0, tl.float32)
    shift = tl.full((1, channels.shape[0]), 0.0, tl.float32)
    if scale_ptr is not None:
        scale = tl.load(scale_ptr + channels, mask=mask, other=0.0).to(tl.float32)[None, :]
    if shift_ptr is not None:
        shift = tl.load(shift_ptr + channels, mask=mask, other=0.0).to(tl.float32)[None, :]
    return scale, shift


@triton.jit
def activate(response, scale, shift, ACTIVATION: tl.constexpr):
    """``act(scale * response + shift)`` in float32; a NaN stays one."""
    x = response.to(tl.float32) * scale + shift
    if ACTIVATION == "relu":
        x = tl.where(x <= 0.0, 0.0, x)
    else:
        tl.static_assert(ACTIVATION == "identity", "unknown activation")
    return x


@triton.jit
def activation_gradient(gradient, response, scale, shift, ACTIVATION: tl.constexpr):
    """``dL/d(scale * response + shift)`` from ``dL/d act``."""
    if ACTIVATION == "relu":
        x = response.to(tl.float32) * scale + shift
        gradient = tl.where(x <= 0.0, 0.0, gradient)
    else:
        tl.static_assert(ACTIVATION == "identity", "unknown activation")
    return gradient
