"""What every edge passes back in a dense convolution of stride 1: both of its taps in one product."""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import EdgeWeightStrides, Steps, Strides
from sdn_triton.kernels.pixels import image_offsets, inside, pixel_offsets, tap_position


@triton.jit(do_not_specialize=["places_of_image", "first_row", "columns", "HO", "WO"])
def edge_products_kernel(
    h_ptr,  # [groups, images * places_of_image, TAPS // 2, C], contiguous
    gradient_ptr,  # of the first image
    weight_ptr,  # [groups, ends, O, TAPS // 2, C], in any strides; see launch/products.py
    places_of_image,  # rows * columns
    first_row,  # of the places
    columns,  # WO and the reach of the taps on both sides
    HO,
    WO,
    O,
    C,
    steps: Steps,
    h_stride,  # from group to group
    g_strides: Strides,
    weight_strides: EdgeWeightStrides,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    PRECISION: tl.constexpr,
    INT64: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """``T[g,p,tap,c] = sum_o G[g,o,p] K[g,o,c,tap] - G[g,o,q] K[g,o,c,opposite]`` with ``q = p + tap``.

    For the taps of the first half of the kernel, whose opposites are the same edges seen from q. A place p is an
    output, or lies as far outside as taps reach: the edge has one end there, and G is 0.
    One program: BLOCK_P places of one image by BLOCK_C channels of one tap.
    Grid: (images * cdiv(places_of_image, BLOCK_P) * TAPS // 2 * cdiv(C, BLOCK_C), groups).
    """
    HALF_TAPS: tl.constexpr = KERNEL_H * KERNEL_W // 2
    c_blocks = tl.cdiv(C, BLOCK_C)
    tiles = tl.cdiv(places_of_image, BLOCK_P)
    tap = tl.program_id(0) // c_blocks % HALF_TAPS
    tile = tl.program_id(0) // (c_blocks * HALF_TAPS)
    group = tl.program_id(1).to(tl.int64)
    n = (tile // tiles).to(tl.int64)
    places = tile % tiles * BLOCK_P + tl.arange(0, BLOCK_P)
    channels = tl.program_id(0) % c_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    p_mask = places < places_of_image
    c_mask = channels < C
    i = first_row + places // columns
    j = places % columns - KERNEL_W // 2 * steps.dilation_w
    dy, dx = tap_position(tap, steps, KERNEL_H, KERNEL_W)
    near = inside(i, j, HO, WO) & p_mask
    far = inside(i + dy, j + dx, HO, WO) & p_mask
    gradient_ptr += n * g_strides.n + group * O * g_strides.c
    g_far = pixel_offsets(dy, dx, g_strides, INT64)
    weight_ptr += group * weight_strides.group + tap * weight_strides.tap

    h = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    o_blocks = tl.cdiv(O, BLOCK_O)
    for step in range(0, 2 * o_blocks):
        end = step // o_blocks
        outputs = (step - end * o_blocks) * BLOCK_O + tl.arange(0, BLOCK_O)
        o_mask = outputs < O
        g_mask = tl.where(end == 0, near, far)
        g_offsets = image_offsets(i, j, outputs, g_strides, INT64)
        gradient = tl.load(gradient_ptr + end * g_far + g_offsets, mask=g_mask[:, None] & o_mask[None, :], other=0.0)
        weight_rows = end * weight_strides.end + outputs * weight_strides.output
        weight_offsets = weight_rows[:, None] + (channels * weight_strides.channel)[None, :]
        weight = tl.load(weight_ptr + weight_offsets, mask=o_mask[:, None] & c_mask[None, :], other=0.0)
        h = tl.dot(gradient, weight, h, input_precision=PRECISION)
    h_places = (n * places_of_image + places.to(tl.int64)) * (HALF_TAPS * C)
    h_ptr += group * h_stride + tap * C
    tl.store(
        h_ptr + h_places[:, None] + channels[None, :],
        h.to(h_ptr.dtype.element_ty),
        mask=p_mask[:, None] & c_mask[None, :],
    )
