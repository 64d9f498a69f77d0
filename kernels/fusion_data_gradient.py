"""The gradients of a feature fusion with respect to input, response, scale and shift."""

import triton
import triton.language as tl

from sdn_triton.kernels.fusion import activation_gradient, load_affine
from sdn_triton.kernels.pixels import channel_offsets, flat_offsets, tile_origin, tile_pixels


@triton.jit(do_not_specialize=["H"])
def fusion_data_gradient_kernel(
    du_ptr,
    dy_ptr,
    scale_sums_ptr,  # [N * tiles, R] in float32
    shift_sums_ptr,  # [N * tiles, R] in float32
    gradient_ptr,
    y_ptr,
    weight_ptr,  # [O, C + R], contiguous
    scale_ptr,
    shift_ptr,
    C,
    R,
    O,
    H,
    W,
    first_block,
    blocks,
    stride_dun,
    stride_duc,
    stride_duh,
    stride_duw,
    stride_dyn,
    stride_dyc,
    stride_dyh,
    stride_dyw,
    stride_gn,
    stride_gc,
    stride_gh,
    stride_gw,
    stride_yn,
    stride_yc,
    stride_yh,
    stride_yw,
    NEEDS_U: tl.constexpr,
    NEEDS_Y: tl.constexpr,
    NEEDS_SCALE: tl.constexpr,
    NEEDS_SHIFT: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
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

    g_pixels = flat_offsets(rows, columns, stride_gh, stride_gw, INT64)[:, None]
    accumulator = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32)
    for o in range(0, O, BLOCK_O):
        outputs = o + tl.arange(0, BLOCK_O)
        o_mask = outputs < O
        g_offsets = n * stride_gn + g_pixels + channel_offsets(outputs, stride_gc, INT64)[None, :]
        gradient = tl.load(gradient_ptr + g_offsets, mask=p_mask & o_mask[None, :], other=0.0)  # [BLOCK_P, BLOCK_O]
        weight_offsets = (outputs * (C + R))[:, None]
        weight = tl.load(weight_columns + weight_offsets, mask=o_mask[:, None] & c_mask[None, :], other=0.0)
        accumulator = tl.dot(gradient, weight, accumulator, input_precision=PRECISION)

    mask = p_mask & c_mask[None, :]
    if of_response:
        y_pixels = flat_offsets(rows, columns, stride_yh, stride_yw, INT64)[:, None]
        y_offsets = n * stride_yn + y_pixels + channel_offsets(channels, stride_yc, INT64)[None, :]
        y = tl.load(y_ptr + y_offsets, mask=mask, other=0.0)
        scale, shift = load_affine(scale_ptr, shift_ptr, channels, c_mask, HAS_SCALE, HAS_SHIFT)
        dx = activation_gradient(accumulator, y, scale, shift, ACTIVATION)
        if NEEDS_Y:
            dy_pixels = flat_offsets(rows, columns, stride_dyh, stride_dyw, INT64)[:, None]
            dy_offsets = n * stride_dyn + dy_pixels + channel_offsets(channels, stride_dyc, INT64)[None, :]
            tl.store(dy_ptr + dy_offsets, (dx * scale).to(dy_ptr.dtype.element_ty), mask=mask)
        sums = tile.to(tl.int64) * R + channels[None, :]
        if NEEDS_SCALE:
            scale_sum = tl.sum(dx * y.to(tl.float32), axis=0, keep_dims=True)
            tl.store(scale_sums_ptr + sums, scale_sum, mask=c_mask[None, :])
        if NEEDS_SHIFT:
            tl.store(shift_sums_ptr + sums, tl.sum(dx, axis=0, keep_dims=True), mask=c_mask[None, :])
    elif NEEDS_U:
        du_pixels = flat_offsets(rows, columns, stride_duh, stride_duw, INT64)[:, None]
        du_offsets = n * stride_dun + du_pixels + channel_offsets(channels, stride_duc, INT64)[None, :]
        tl.store(du_ptr + du_offsets, accumulator.to(du_ptr.dtype.element_ty), mask=mask)
