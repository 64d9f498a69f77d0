"""The semantic difference convolution with channels in words: the fast path of dense convolutions."""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import Contrast, Steps, Strides
from sdn_triton.kernels.paired_response import paired_response_of_tile
from sdn_triton.kernels.pairs import WORD_BITS
from sdn_triton.kernels.pixels import geometry_of, tile_origin, tile_pixels
from sdn_triton.kernels.response import store_response


@triton.jit(do_not_specialize=["H", "HO", "origin_h", "origin_w"])
def paired_forward_kernel(
    y_ptr,
    moments_ptr,  # [tiles, 2, all outputs] in float32, see kernels/moments.py, or None
    u_ptr,
    v_ptr,
    weight_ptr,  # [groups, cdiv(O, BLOCK_O), C / 32, TAPS // 2, BLOCK_O, 2, 32], see launch/paired_weight.py
    bias_ptr,  # or None
    contrast: Contrast,
    C,  # channels of one group, a multiple of 32
    O,  # outputs of one group
    H,
    W,
    HO,
    WO,
    origin_h,
    origin_w,
    steps: Steps,
    y_strides: Strides,
    stride_un,  # of u and of v, in words; the words of a pixel lie together
    stride_uh,
    stride_uw: tl.constexpr,  # so that two pixels of a row are a constant apart, which takes no register
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
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
    at = geometry_of(H, W, HO, WO, origin_h, origin_w, steps)
    o_blocks = tl.cdiv(O, BLOCK_O)
    tile = tl.program_id(0) // o_blocks
    o_block = tl.program_id(0) % o_blocks
    group = tl.program_id(1).to(tl.int64)
    n, first_row, first_column = tile_origin(tile, HO, WO, BLOCK_H, BLOCK_W)

    IN_WORD: tl.constexpr = WORD_BITS // dtype.primitive_bitwidth
    image = n * stride_un + group * (C // IN_WORD)
    sums = paired_response_of_tile(
        u_ptr.to(tl.pointer_type(tl.int32)) + image, v_ptr.to(tl.pointer_type(tl.int32)) + image,
        weight_ptr + (group * o_blocks + o_block) * (C * (KERNEL_H * KERNEL_W // 2) * 2 * BLOCK_O),
        contrast, group * C, first_row, first_column, C, at, Strides(n=stride_un, c=1, h=stride_uh, w=stride_uw),
        KERNEL_H, KERNEL_W, UNIT_CONTRAST, DIFFUSIVITY, ZERO_FLUX, PTX, BLOCK_H, BLOCK_W, BLOCK_O, dtype,
    )  # fmt: skip

    outputs = o_block * BLOCK_O + tl.arange(0, BLOCK_O)
    rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [PIXELS]
    store_response(
        y_ptr, moments_ptr, bias_ptr, sums, n, tile, rows, columns, outputs, group, tl.num_programs(1), O, at,
        y_strides, False,
    )  # fmt: skip
