"""The whole block in evaluation: difference convolution, normalisation, activation and fusion, in one kernel."""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import Contrast, Normalisation, Ratio, Steps, Strides
from sdn_triton.kernels.block import fuse_tile, normalise_tile
from sdn_triton.kernels.difference_forward import response_of_tile
from sdn_triton.kernels.factors import as_factor
from sdn_triton.kernels.pixels import geometry_of, tile_origin, tile_pixels


@triton.jit(do_not_specialize=["H", "HO", "HV", "WV", "origin_h", "origin_w"])
def block_forward_kernel(
    z_ptr,
    u_ptr,
    v_ptr,  # guidance, or with VECTOR the similarity maps [N, TAPS - 1, HO, WO]
    weight_ptr,  # [R, TAPS, C], contiguous
    bias_ptr,  # or None
    contrast: Contrast,
    norm: Normalisation,
    fusion_weight_ptr,  # [O, C + R], contiguous
    fusion_bias_ptr,  # or None
    C,
    R,
    O,
    H,
    W,
    HO,
    WO,
    HV,  # of the guidance
    WV,
    ratio: Ratio,
    origin_h,
    origin_w,
    steps: Steps,
    z_strides: Strides,
    u_strides: Strides,
    v_strides: Strides,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    HAS_SPARE: tl.constexpr,  # BLOCK_O is more than R
    DIFFUSIVITY: tl.constexpr,
    VECTOR: tl.constexpr,
    RESIZED: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    PRECISION: tl.constexpr,
    INT64: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,  # >= R
    BLOCK_Z: tl.constexpr,
):
    """``z = K2 [u, relu(batch_norm(y))] + b2`` with ``y = SDC(u, v)``, which never reaches memory.

    One program: a tile of BLOCK_H x BLOCK_W pixels, all responses, all outputs. Grid: (tiles,).
    """
    at = geometry_of(H, W, HO, WO, origin_h, origin_w, steps)
    n, first_row, first_column = tile_origin(tl.program_id(0), HO, WO, BLOCK_H, BLOCK_W)
    responses = tl.arange(0, BLOCK_O)
    rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [BLOCK_P]
    sums = response_of_tile(
        u_ptr, v_ptr, weight_ptr, contrast, 0, n, rows, columns, responses, C, R, HV, WV, ratio, at,
        u_strides, v_strides, KERNEL_H, KERNEL_W, DIFFUSIVITY, VECTOR, RESIZED, ZERO_FLUX, PRECISION, INT64, BLOCK_C,
    )  # fmt: skip
    response = normalise_tile(sums, responses, R, bias_ptr, norm, HAS_SPARE)
    fuse_tile(
        z_ptr + n * z_strides.n, u_ptr + n * u_strides.n, as_factor(response, u_ptr.dtype.element_ty, PRECISION),
        responses, fusion_weight_ptr, fusion_bias_ptr, rows, columns, C, R, O, at, z_strides, u_strides,
        PRECISION, INT64, BLOCK_C, BLOCK_Z,
    )  # fmt: skip
