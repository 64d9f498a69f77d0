"""What every tap of every output centre passes back: the products of the data gradient of a dense convolution."""

import triton
import triton.language as tl

from sdn_triton.kernels.pixels import channel_offsets, pixel_offsets


@triton.jit(do_not_specialize=["images", "rows", "first_output_row", "WO"])
def tap_products_kernel(
    h_ptr,  # [images, rows, WO, COLUMNS], contiguous
    gradient_ptr,  # of the first of the images
    weight_ptr,  # [O, COLUMNS], contiguous
    images,
    rows,  # of output
    first_output_row,
    WO,
    O,
    COLUMNS,  # taps, without the centre, times channels
    stride_gn,
    stride_gc,
    stride_gh,
    stride_gw,
    PRECISION: tl.constexpr,
    INT64: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """``h[p,tap,c] = sum_o G[o,p] K[o,c,tap]`` for some rows of outputs of some images.

    One program: BLOCK_P outputs by BLOCK_C columns.
    Grid: (cdiv(images * rows * WO, BLOCK_P) * cdiv(COLUMNS, BLOCK_C),).
    """
    blocks = tl.cdiv(COLUMNS, BLOCK_C)
    pixels = tl.program_id(0) // blocks * BLOCK_P + tl.arange(0, BLOCK_P)
    columns = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    p_mask = pixels < images * rows * WO
    c_mask = columns < COLUMNS
    n = (pixels // (rows * WO)).to(tl.int64)
    g_rows = pixels // WO % rows + first_output_row
    g_pixels = n * stride_gn + pixel_offsets(g_rows, pixels % WO, stride_gh, stride_gw, INT64)

    h = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for o in range(0, O, BLOCK_O):
        outputs = o + tl.arange(0, BLOCK_O)
        o_mask = outputs < O
        g_offsets = g_pixels[:, None] + channel_offsets(outputs, stride_gc, INT64)[None, :]
        gradient = tl.load(gradient_ptr + g_offsets, mask=p_mask[:, None] & o_mask[None, :], other=0.0)
        weight_offsets = (outputs * COLUMNS)[:, None] + columns[None, :]
        weight = tl.load(weight_ptr + weight_offsets, mask=o_mask[:, None] & c_mask[None, :], other=0.0)
        h = tl.dot(gradient, weight, h, input_precision=PRECISION)
    h_offsets = pixels.to(tl.int64)[:, None] * COLUMNS + columns[None, :]
    tl.store(h_ptr + h_offsets, h.to(h_ptr.dtype.element_ty), mask=p_mask[:, None] & c_mask[None, :])
