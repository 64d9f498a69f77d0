"""What every forward kernel of the difference convolution ends with."""

import triton
import triton.language as tl

from sdn_triton.kernels.moments import store_tile_moments
from sdn_triton.kernels.pixels import store_tile


@triton.jit
def store_response(
    y_ptr,
    moments_ptr,  # [tiles, 2, groups * O] in float32, see moments.py, or None
    bias_ptr,  # or None
    sums,  # [BLOCK_P, BLOCK_O] in float32
    n,
    tile,
    rows,  # of the outputs, [BLOCK_P]
    columns,
    outputs,  # of the group, [BLOCK_O]
    group,
    groups,
    O,  # outputs of one group
    at,
    y_strides,
    INT64: tl.constexpr,
):
    """Add the bias, write a tile of the response, and its moments where they are wanted."""
    o_mask = outputs < O
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + group * O + outputs, mask=o_mask, other=0.0)
        sums += bias.to(tl.float32)[None, :]
    p_mask = (rows < at.HO) & (columns < at.WO)
    mask = p_mask[:, None] & o_mask[None, :]
    y = sums.to(y_ptr.dtype.element_ty)
    store_tile(y_ptr + group * O * y_strides.c, y, n, rows, columns, outputs, mask, y_strides, INT64)
    if moments_ptr is not None:
        store_tile_moments(
            moments_ptr, y.to(tl.float32), p_mask, tile, outputs=group * O + outputs, o_mask=o_mask, O=groups * O
        )
