"""The semantic difference convolution with channels in words: the fast path of dense convolutions."""

import triton
import triton.language as tl

from sdn_triton.kernels.moments import store_tile_moments
from sdn_triton.kernels.paired_response import paired_response_of_tile
from sdn_triton.kernels.pairs import WORD_BITS
from sdn_triton.kernels.pixels import channel_offsets, flat_offsets, tile_origin, tile_pixels


@triton.jit(do_not_specialize=["H", "HO", "origin_h", "origin_w"])
def paired_forward_kernel(
    y_ptr,
    moments_ptr,  # [tiles, 2, all outputs] in float32, see kernels/moments.py
    u_ptr,
    v_ptr,
    weight_ptr,  # [groups, cdiv(O, BLOCK_O), C / 32, TAPS // 2, BLOCK_O, 2, 32], see launch/paired_weight.py
    bias_ptr,
    contrast_ptr,
    inverse_contrast,
    C,  # channels of one group, a multiple of 32
    O,  # outputs of one group
    H,
    W,
    HO,
    WO,
    origin_h,
    origin_w,
    step_h,
    step_w,
    dilation_h,
    dilation_w,
    stride_yn,
    stride_yc,
    stride_yh,
    stride_yw,
    stride_un,  # of u and of v, in words; the words of a pixel lie together
    stride_uh,
    stride_uw: tl.constexpr,  # so that two pixels of a row are a constant apart, which takes no register
    stride_contrast,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_MOMENTS: tl.constexpr,
    LOAD_CONTRAST: tl.constexpr,
    UNIT_CONTRAST: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    PTX: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """``y[n,o,p] = b[o] + sum_{c, tap} K[o,c,tap] s(n,c,p,q) (u[n,c,q] - u[n,c,p])``.

    One program: a tile of BLOCK_H x BLOCK_W output pixels by BLOCK_O outputs of one group.
    Grid: (tiles * cdiv(O, BLOCK_O), groups).
    """
    dtype: tl.constexpr = u_ptr.dtype.element_ty
    o_blocks = tl.cdiv(O, BLOCK_O)
    o_block = tl.program_id(0) % o_blocks
    group = tl.program_id(1).to(tl.int64)
    n, first_row, first_column = tile_origin(tl.program_id(0) // o_blocks, HO, WO, BLOCK_H, BLOCK_W)

    IN_WORD: tl.constexpr = WORD_BITS // dtype.primitive_bitwidth
    image = n * stride_un + group * (C // IN_WORD)
    if LOAD_CONTRAST:
        contrast_ptr += group * C * stride_contrast
    accumulator = paired_response_of_tile(
        u_ptr.to(tl.pointer_type(tl.int32)) + image, v_ptr.to(tl.pointer_type(tl.int32)) + image,
        weight_ptr + (group * o_blocks + o_block) * (C * (KERNEL_H * KERNEL_W // 2) * 2 * BLOCK_O),
        contrast_ptr, inverse_contrast, first_row, first_column, C, H, W, origin_h, origin_w, step_h, step_w,
        dilation_h, dilation_w, stride_uh, stride_uw, stride_contrast, KERNEL_H, KERNEL_W,
        LOAD_CONTRAST, UNIT_CONTRAST, DIFFUSIVITY, ZERO_FLUX, PTX, BLOCK_H, BLOCK_W, BLOCK_O, dtype,
    )  # fmt: skip

    outputs = o_block * BLOCK_O + tl.arange(0, BLOCK_O)
    o_mask = outputs < O
    if HAS_BIAS:
        bias = tl.load(bias_ptr + group * O + outputs, mask=o_mask, other=0.0)
        accumulator += bias.to(tl.float32)[None, :]
    y_rows, y_columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [PIXELS]
    y_ptr += n * stride_yn + group * O * stride_yc
    y_pixels = flat_offsets(y_rows, y_columns, stride_yh, stride_yw, False)
    y_offsets = y_pixels[:, None] + channel_offsets(outputs, stride_yc, False)[None, :]
    p_mask = (y_rows < HO) & (y_columns < WO)
    y = accumulator.to(dtype)
    tl.store(y_ptr + y_offsets, y, mask=p_mask[:, None] & o_mask[None, :])
    if HAS_MOMENTS:
        store_tile_moments(
            moments_ptr,
            y.to(tl.float32),
            p_mask,
            tile=tl.program_id(0) // o_blocks,
            outputs=group * O + outputs,
            o_mask=o_mask,
            O=tl.num_programs(1) * O,
        )
