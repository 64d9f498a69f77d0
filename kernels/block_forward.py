"""The whole block in evaluation: difference convolution, normalisation, activation and fusion, in one kernel."""

import triton
import triton.language as tl

from sdn_triton.kernels.block import fuse_tile, normalise_tile
from sdn_triton.kernels.difference_forward import response_of_tile
from sdn_triton.kernels.factors import as_factor
from sdn_triton.kernels.pixels import tile_origin, tile_pixels


@triton.jit(do_not_specialize=["H", "HO", "HV", "WV", "origin_h", "origin_w"])
def block_forward_kernel(
    z_ptr,
    u_ptr,
    v_ptr,  # guidance, or with VECTOR the similarity maps [N, TAPS - 1, HO, WO]
    weight_ptr,  # [R, TAPS, C], contiguous
    bias_ptr,
    contrast_ptr,
    mean_ptr,
    variance_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    fusion_weight_ptr,  # [O, C + R], contiguous
    fusion_bias_ptr,
    eps,
    inverse_contrast,
    C,
    R,
    O,
    H,
    W,
    HO,
    WO,
    HV,  # of the guidance
    WV,
    ratio_h,  # HV / H
    ratio_w,
    origin_h,
    origin_w,
    step_h,
    step_w,
    dilation_h,
    dilation_w,
    stride_zn,
    stride_zc,
    stride_zh,
    stride_zw,
    stride_un,
    stride_uc,
    stride_uh,
    stride_uw,
    stride_vn,
    stride_vc,
    stride_vh,
    stride_vw,
    stride_contrast,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_NORM_WEIGHT: tl.constexpr,
    HAS_NORM_BIAS: tl.constexpr,
    HAS_SPARE: tl.constexpr,  # BLOCK_O is more than R
    HAS_FUSION_BIAS: tl.constexpr,
    LOAD_CONTRAST: tl.constexpr,
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
    n, first_row, first_column = tile_origin(tl.program_id(0), HO, WO, BLOCK_H, BLOCK_W)
    responses = tl.arange(0, BLOCK_O)
    rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [BLOCK_P]
    sums = response_of_tile(
        u_ptr, v_ptr, weight_ptr, contrast_ptr, inverse_contrast, n, rows, columns, responses, C, R, H, W, HO, WO,
        HV, WV, ratio_h, ratio_w, origin_h, origin_w, step_h, step_w, dilation_h, dilation_w,
        stride_un, stride_uc, stride_uh, stride_uw, stride_vn, stride_vc, stride_vh, stride_vw, stride_contrast,
        KERNEL_H, KERNEL_W, LOAD_CONTRAST, DIFFUSIVITY, VECTOR, RESIZED, ZERO_FLUX, PRECISION, INT64, BLOCK_C,
    )  # fmt: skip
    response = normalise_tile(
        sums, responses, R, bias_ptr, mean_ptr, variance_ptr, norm_weight_ptr, norm_bias_ptr, eps,
        HAS_BIAS, HAS_NORM_WEIGHT, HAS_NORM_BIAS, HAS_SPARE,
    )  # fmt: skip
    fuse_tile(
        z_ptr + n * stride_zn, u_ptr + n * stride_un, as_factor(response, u_ptr.dtype.element_ty, PRECISION), responses,
        fusion_weight_ptr, fusion_bias_ptr, rows, columns, C, R, O, HO, WO, origin_h, origin_w,
        stride_zc, stride_zh, stride_zw, stride_uc, stride_uh, stride_uw,
        HAS_FUSION_BIAS, PRECISION, INT64, BLOCK_C, BLOCK_Z,
    )  # fmt: skip
