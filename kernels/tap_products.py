"""What every tap of every output centre passes back: the products of the data gradient of a dense convolution."""

import triton
import triton.language as tl

from sdn_triton.kernels.pixels import channel_offsets, flat_offsets


@triton.jit(do_not_specialize=["pixels_of_image", "WO"])
def tap_products_kernel(
    h_ptr,  # [groups, images * pixels_of_image, COLUMNS], in any strides
    gradient_ptr,  # of the first row of the first image
    weight_ptr,  # [groups, O, COLUMNS], in any strides
    pixels_of_image,  # rows of output * WO
    WO,
    O,
    COLUMNS,  # taps, without the centre, times channels
    stride_hg,
    stride_hp,
    stride_hk,
    stride_gn,
    stride_gc,
    stride_gh,
    stride_gw,
    stride_wg,
    stride_wo,
    stride_wk,
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
    gradient_ptr += n * stride_gn + group * O * stride_gc
    weight_ptr += group * stride_wg
    if ONE_ROW:
        g_pixels = channel_offsets(pixels, stride_gw, INT64)
    else:
        g_pixels = flat_offsets(pixels // WO, pixels % WO, stride_gh, stride_gw, INT64)

    h = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for o in range(0, O, BLOCK_O):
        outputs = o + tl.arange(0, BLOCK_O)
        o_mask = outputs < O
        g_offsets = g_pixels[:, None] + channel_offsets(outputs, stride_gc, INT64)[None, :]
        gradient = tl.load(gradient_ptr + g_offsets, mask=p_mask[:, None] & o_mask[None, :], other=0.0)
        weight_offsets = (outputs * stride_wo)[:, None] + (columns * stride_wk)[None, :]
        weight = tl.load(weight_ptr + weight_offsets, mask=o_mask[:, None] & c_mask[None, :], other=0.0)
        h = tl.dot(gradient, weight, h, input_precision=PRECISION)
    h_ptr += group * stride_hg + n * pixels_of_image * stride_hp
    h_offsets = pixels.to(tl.int64)[:, None] * stride_hp + columns.to(tl.int64)[None, :] * stride_hk
    tl.store(h_ptr + h_offsets, h.to(h_ptr.dtype.element_ty), mask=p_mask[:, None] & c_mask[None, :])
