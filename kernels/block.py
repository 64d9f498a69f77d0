"""The second half of a block, on a tile that is still on chip: normalise, activate, and fuse with the features."""

import triton
import triton.language as tl

from sdn_triton.kernels.factors import as_factor
from sdn_triton.kernels.fusion import activate
from sdn_triton.kernels.pixels import channel_offsets, pixel_offsets
from sdn_triton.kernels.products import sums_in_tensor_memory


@triton.jit
def load_or(ptr, offsets, mask, default: tl.constexpr):
    """A vector in float32, or ``default`` everywhere where there is no tensor."""
    if ptr is not None:
        values = tl.load(ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    else:
        values = tl.full(offsets.shape, default, tl.float32)
    return values


@triton.jit
def normalise_tile(
    sums,  # [BLOCK_P, BLOCK_R] in float32
    responses,  # [BLOCK_R]
    R,
    bias_ptr,  # of the convolution, or None
    norm,
    HAS_SPARE: tl.constexpr,
):
    """``relu(scale (y - mean) + shift)`` with ``y = sums + bias`` and ``scale = weight / sqrt(variance + eps)``.

    Scale and shift are formed anew by every program: they are vectors, and so nothing that was computed before has to
    be kept in step with the parameters.
    """
    if sums_in_tensor_memory():
        # What follows gets the memory that held these sums, and other warps may write there than read them. Triton puts
        # no barrier between the last read and the first write.
        tl.debug_barrier()
    mask = responses < R
    scale = tl.rsqrt(tl.load(norm.variance + responses, mask=mask, other=1.0).to(tl.float32) + norm.eps)
    scale *= load_or(norm.weight, responses, mask, 1.0)
    centre = load_or(bias_ptr, responses, mask, 0.0)
    centre -= tl.load(norm.mean + responses, mask=mask, other=0.0).to(tl.float32)
    shift = load_or(norm.bias, responses, mask, 0.0)
    if HAS_SPARE:
        # Channels past the last have a weight of zero in the product that follows: all that they must be is finite,
        # which their sums are not where a feature is not.
        sums = tl.where(mask[None, :], sums, 0.0)
    return activate(sums + centre[None, :], scale[None, :], shift[None, :], "relu")


@triton.jit
def fuse_tile(
    z_ptr,  # of the image, as is u_ptr
    u_ptr,
    response,  # [BLOCK_P, BLOCK_R] in the type of the product
    responses,  # [BLOCK_R]
    weight_ptr,  # [O, C + R], contiguous
    bias_ptr,  # or None
    rows,  # of the outputs, [BLOCK_P]
    columns,
    C,
    R,
    O,
    at,
    z_strides,
    u_strides,
    PRECISION: tl.constexpr,
    INT64: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_Z: tl.constexpr,
):
    """``z[o,p] = sum_c K[o,c] u[c,p] + sum_r K[o,C+r] response[r,p] + b[o]``, stored block by block of outputs."""
    p_mask = ((rows < at.HO) & (columns < at.WO))[:, None]
    r_mask = (responses < R)[:, None]
    u_pixels = pixel_offsets(rows + at.origin_h, columns + at.origin_w, u_strides, INT64)[:, None]
    z_pixels = pixel_offsets(rows, columns, z_strides, INT64)[:, None]
    for o in range(0, O, BLOCK_Z):
        outputs = o + tl.arange(0, BLOCK_Z)
        o_mask = (outputs < O)[None, :]
        weight_rows = weight_ptr + (outputs * (C + R))[None, :]
        response_weight = tl.load(weight_rows + (C + responses)[:, None], mask=r_mask & o_mask, other=0.0)
        accumulator = tl.dot(response, response_weight, input_precision=PRECISION)
        for c in range(0, C, BLOCK_C):
            channels = c + tl.arange(0, BLOCK_C)
            c_mask = channels < C
            u_offsets = u_pixels + channel_offsets(channels, u_strides.c, INT64)[None, :]
            u = tl.load(u_ptr + u_offsets, mask=p_mask & c_mask[None, :], other=0.0)  # [BLOCK_P, BLOCK_C]
            weight = tl.load(weight_rows + channels[:, None], mask=c_mask[:, None] & o_mask, other=0.0)
            accumulator = tl.dot(as_factor(u, u.dtype, PRECISION), weight, accumulator, input_precision=PRECISION)
        if bias_ptr is not None:
            accumulator += tl.load(bias_ptr + outputs, mask=outputs < O, other=0.0).to(tl.float32)[None, :]
        z_offsets = z_pixels + channel_offsets(outputs, z_strides.c, INT64)[None, :]
        tl.store(z_ptr + z_offsets, accumulator.to(z_ptr.dtype.element_ty), mask=p_mask & o_mask)
