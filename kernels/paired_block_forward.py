"""The whole block in evaluation, for half types two channels at a time."""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import Contrast, Normalisation, Steps, Strides
from sdn_triton.kernels.block import fuse_tile, normalise_tile
from sdn_triton.kernels.paired_response import paired_response_of_tile
from sdn_triton.kernels.pixels import geometry_of, tile_origin, tile_pixels


@triton.jit(do_not_specialize=["H", "HO", "origin_h", "origin_w"])
def paired_block_forward_kernel(
    z_ptr,
    u_ptr,
    v_ptr,
    weight_ptr,  # [1, 1, C / 32, TAPS // 2, BLOCK_O, 2, 32], see launch/paired_weight.py
    bias_ptr,  # or None
    contrast: Contrast,
    norm: Normalisation,
    fusion_weight_ptr,  # [O, C + R], contiguous
    fusion_bias_ptr,  # or None
    C,  # a multiple of 32
    R,
    O,
    H,
    W,
    HO,
    WO,
    origin_h,
    origin_w,
    steps: Steps,
    z_strides: Strides,
    stride_un,  # of u and of v, in words; the words of a pixel lie together
    stride_uh,
    stride_uw: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    HAS_SPARE: tl.constexpr,  # BLOCK_O is more than R
    UNIT_CONTRAST: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    PTX: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,  # >= R
    BLOCK_Z: tl.constexpr,
):
    """``z = K2 [u, relu(batch_norm(y))] + b2`` with ``y = SDC(u, v)``, which never reaches memory.

    One program: a tile of BLOCK_H x BLOCK_W pixels, all responses, all outputs. Grid: (tiles,).
    """
    dtype: tl.constexpr = u_ptr.dtype.element_ty
    at = geometry_of(H, W, HO, WO, origin_h, origin_w, steps)
    n, first_row, first_column = tile_origin(tl.program_id(0), HO, WO, BLOCK_H, BLOCK_W)
    image = n * stride_un
    sums = paired_response_of_tile(
        u_ptr.to(tl.pointer_type(tl.int32)) + image, v_ptr.to(tl.pointer_type(tl.int32)) + image, weight_ptr,
        contrast, 0, first_row, first_column, C, at, Strides(n=stride_un, c=1, h=stride_uh, w=stride_uw),
        KERNEL_H, KERNEL_W, UNIT_CONTRAST, DIFFUSIVITY, ZERO_FLUX, PTX, BLOCK_H, BLOCK_W, BLOCK_O, dtype,
    )  # fmt: skip
    responses = tl.arange(0, BLOCK_O)
    response = normalise_tile(sums, responses, R, bias_ptr, norm, HAS_SPARE)
    rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [BLOCK_P]
    fuse_tile(
        z_ptr + n * z_strides.n, u_ptr + 2 * image, response.to(dtype), responses, fusion_weight_ptr, fusion_bias_ptr,
        rows, columns, C, R, O, at, z_strides, Strides(n=2 * stride_un, c=1, h=2 * stride_uh, w=2 * stride_uw),
        "ieee", False, BLOCK_C, BLOCK_Z,
    )  # fmt: skip
