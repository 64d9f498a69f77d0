"""The gradients of a feature fusion with respect to input, response, scale and shift."""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import Strides
from sdn_triton.kernels.fusion import activation_gradient, load_affine
from sdn_triton.kernels.pixels import load_channels, load_tile, pixel_pointers, store_tile, tile_origin, tile_pixels


@triton.jit(do_not_specialize=["H"])
def fusion_data_gradient_kernel(
    du_ptr,  # None where nobody needs it, as the next three
    dy_ptr,
    scale_sums_ptr,  # [N * tiles, R] in float32
    shift_sums_ptr,  # [N * tiles, R] in float32
    gradient_ptr,
    y_ptr,
    weight_ptr,  # [O, C + R], contiguous
    scale_ptr,  # [R], or None, as the next one
    shift_ptr,
    C,
    R,
    O,
    H,
    W,
    first_block,
    blocks,
    du_strides: Strides,
    dy_strides: Strides,
    g_strides: Strides,
    y_strides: Strides,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    INT64: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """With ``A[j,p] = sum_o K[o,j] G[o,p]`` over the concatenated channels j, and ``x = scale y + shift``:

        dL/du[c] = A[c]      dL/dx[r] = act'(x[r]) A[C + r]      dL/dy = scale dL/dx
        dL/dscale = sum_p y dL/dx      dL/dshift = sum_p dL/dx

    One program: a tile of BLOCK_H x BLOCK_W pixels by one block of channels, of the input or of the response. Blocks
    are counted through both; ``first_block`` and ``blocks`` leave out those that nobody needs.
    Grid: (tiles * blocks,).
    """
    tile = tl.program_id(0) // blocks
    block = first_block + tl.program_id(0) % blocks
    n, first_row, first_column = tile_origin(tile, H, W, BLOCK_H, BLOCK_W)
    rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [BLOCK_P]
    p_mask = ((rows < H) & (columns < W))[:, None]
    c_blocks = tl.cdiv(C, BLOCK_C)
    of_response = block >= c_blocks
    channels = tl.where(of_response, block - c_blocks, block) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = channels < tl.where(of_response, R, C)
    weight_columns = weight_ptr + (tl.where(of_response, C, 0) + channels)[None, :]

    pixels = pixel_pointers(gradient_ptr, n, rows, columns, g_strides, INT64)
    accumulator = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32)
    for o in range(0, O, BLOCK_O):
        outputs = o + tl.arange(0, BLOCK_O)
        o_mask = outputs < O
        gradient = load_channels(pixels, outputs, p_mask & o_mask[None, :], g_strides, INT64)  # [BLOCK_P, BLOCK_O]
        weight_offsets = (outputs * (C + R))[:, None]
        weight = tl.load(weight_columns + weight_offsets, mask=o_mask[:, None] & c_mask[None, :], other=0.0)
        accumulator = tl.dot(gradient, weight, accumulator, input_precision=PRECISION)

    mask = p_mask & c_mask[None, :]
    if of_response:
        y = load_tile(y_ptr, n, rows, columns, channels, mask, y_strides, INT64)
        scale, shift = load_affine(scale_ptr, shift_ptr, channels, c_mask)
        dx = activation_gradient(accumulator, y, scale, shift, ACTIVATION)
        if dy_ptr is not None:
            store_tile(dy_ptr, dx * scale, n, rows, columns, channels, mask, dy_strides, INT64)
        sums = tile.to(tl.int64) * R + channels[None, :]
        if scale_sums_ptr is not None:
            scale_sum = tl.sum(dx * y.to(tl.float32), axis=0, keep_dims=True)
            tl.store(scale_sums_ptr + sums, scale_sum, mask=c_mask[None, :])
        if shift_sums_ptr is not None:
            tl.store(shift_sums_ptr + sums, tl.sum(dx, axis=0, keep_dims=True), mask=c_mask[None, :])
    elif du_ptr is not None:
        store_tile(du_ptr, accumulator, n, rows, columns, channels, mask, du_strides, INT64)
