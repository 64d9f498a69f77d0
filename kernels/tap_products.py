"""What every tap of every output centre passes back: the products of the data gradient of a dense convolution."""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import MatrixStrides, Strides
from sdn_triton.kernels.pixels import channel_offsets, pixel_offsets


@triton.jit(do_not_specialize=["pixels_of_image", "WO"])
def tap_products_kernel(
    h_ptr,  # [groups, images * pixels_of_image, COLUMNS], in any strides
    gradient_ptr,  # of the first row of the first image
    weight_ptr,  # [groups, O, COLUMNS], in any strides
    pixels_of_image,  # rows of output * WO
    WO,
    O,
    COLUMNS,  # taps, without the centre, times channels
    h_strides: MatrixStrides,
    g_strides: Strides,
    weight_strides: MatrixStrides,
    ONE_ROW: tl.constexpr,  # all pixels of an image lie as those of a row do
    PRECISION: tl.constexpr,
    INT64: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """``h[g,p,(tap,c)] = sum_o G[g,o,p] K[g,o,c,tap]`` for some rows of outputs of some images.

    One program: BLOCK_P outputs of one image by BLOCK_C columns.
    Grid: (images * cdiv(pixels_of_image, BLOCK_P) * cdiv(COLUMNS, BLOCK_C), groups).
    """
    blocks = tl.cdiv(COLUMNS, BLOCK_C)
    tiles = tl.cdiv(pixels_of_image, BLOCK_P)
    tile = tl.program_id(0) // blocks
    group = tl.program_id(1).to(tl.int64)
    n = (tile // tiles).to(tl.int64)
    pixels = tile % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
    columns = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    p_mask = pixels < pixels_of_image
    c_mask = columns < COLUMNS
    gradient_ptr += n * g_strides.n + group * O * g_strides.c
    weight_ptr += group * weight_strides.group
    if ONE_ROW:
        g_pixels = channel_offsets(pixels, g_strides.w, INT64)
    else:
        g_pixels = pixel_offsets(pixels // WO, pixels % WO, g_strides, INT64)

    h = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for o in range(0, O, BLOCK_O):
        outputs = o + tl.arange(0, BLOCK_O)
        o_mask = outputs < O
        g_offsets = g_pixels[:, None] + channel_offsets(outputs, g_strides.c, INT64)[None, :]
        gradient = tl.load(gradient_ptr + g_offsets, mask=p_mask[:, None] & o_mask[None, :], other=0.0)
        weight_offsets = (outputs * weight_strides.row)[:, None] + (columns * weight_strides.column)[None, :]
        weight = tl.load(weight_ptr + weight_offsets, mask=o_mask[:, None] & c_mask[None, :], other=0.0)
        h = tl.dot(gradient, weight, h, input_precision=PRECISION)
    h_ptr += group * h_strides.group + n * pixels_of_image * h_strides.row
    h_offsets = pixels.to(tl.int64)[:, None] * h_strides.row + columns.to(tl.int64)[None, :] * h_strides.column
    tl.store(h_ptr + h_offsets, h.to(h_ptr.dtype.element_ty), mask=p_mask[:, None] & c_mask[None, :])
