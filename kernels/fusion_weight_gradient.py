"""The gradients of a feature fusion with respect to bias and one part of its weight."""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import Strides
from sdn_triton.kernels.factors import as_factor
from sdn_triton.kernels.fusion import activate, load_affine
from sdn_triton.kernels.pixels import load_tile, tile_origin, tile_pixels
from sdn_triton.kernels.reduction import sum_over_pixels


@triton.jit(do_not_specialize=["tiles", "H"])
def fusion_weight_gradient_kernel(
    dweight_ptr,  # [splits, O, weight_columns] in float32, from the first column of this part, or None
    dbias_ptr,  # [splits, O] in float32, or None
    gradient_ptr,
    x_ptr,  # the input, or the response
    scale_ptr,  # [C], or None, as the next one
    shift_ptr,
    tiles,  # of all images
    C,  # channels of x
    O,
    H,
    W,
    weight_columns,
    g_strides: Strides,
    x_strides: Strides,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    INT64: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """``dL/dK[o,c] = sum_p G[o,p] act(scale[c] x[c,p] + shift[c])`` and ``dL/db[o] = sum_p G[o,p]``.

    One program: BLOCK_O outputs by BLOCK_C channels, over every splits-th tile. The programs past the last channel sum
    the bias gradient. Grid: (cdiv(O, BLOCK_O), cdiv(C, BLOCK_C) + (1 with a bias), splits).
    """
    block = tl.program_id(1)
    split = tl.program_id(2)
    splits = tl.num_programs(2)
    outputs = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    o_mask = outputs < O

    if block == tl.cdiv(C, BLOCK_C):
        if dbias_ptr is not None:
            dbias = sum_over_pixels(
                gradient_ptr, outputs, o_mask, split, splits, tiles, H, W, g_strides, INT64, BLOCK_H, BLOCK_W
            )
            tl.store(dbias_ptr + split.to(tl.int64) * O + outputs[None, :], dbias, mask=o_mask[None, :])
    elif dweight_ptr is not None:
        channels = block * BLOCK_C + tl.arange(0, BLOCK_C)
        c_mask = channels < C
        scale, shift = load_affine(scale_ptr, shift_ptr, channels, c_mask)
        accumulator = tl.zeros((BLOCK_O, BLOCK_C), tl.float32)
        for tile in range(split, tiles, splits):
            n, first_row, first_column = tile_origin(tile, H, W, BLOCK_H, BLOCK_W)
            rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [BLOCK_P]
            p_mask = ((rows < H) & (columns < W))[:, None]
            gradient = load_tile(gradient_ptr, n, rows, columns, outputs, p_mask & o_mask[None, :], g_strides, INT64)
            x = load_tile(x_ptr, n, rows, columns, channels, p_mask & c_mask[None, :], x_strides, INT64)
            # Pixels past the image have a zero gradient, and a finite activation of zero.
            a = as_factor(activate(x, scale, shift, ACTIVATION), gradient.dtype, PRECISION)  # [BLOCK_P, BLOCK_C]
            accumulator = tl.dot(tl.trans(gradient), a, accumulator, input_precision=PRECISION)
        dweight_ptr += split.to(tl.int64) * O * weight_columns
        dweight_offsets = (outputs * weight_columns)[:, None] + channels[None, :]
        tl.store(dweight_ptr + dweight_offsets, accumulator, mask=o_mask[:, None] & c_mask[None, :])
