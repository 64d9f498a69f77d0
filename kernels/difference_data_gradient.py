"""The gradients of a difference convolution with respect to input, guidance and contrast."""

import triton
import triton.language as tl

from sdn_triton.kernels.arguments import Contrast, Steps, Strides
from sdn_triton.kernels.difference import (
    edge_fluxes,
    load_edge,
    load_far_ends,
    load_inverse_contrast,
    relative_difference,
)
from sdn_triton.kernels.diffusivity import diffusivity_slope
from sdn_triton.kernels.pixels import (
    FORCE_MASKS,
    channel_offsets,
    geometry_of,
    image_offsets,
    inside,
    output_of_centre,
    pixel_offsets,
    room_to_move,
    skip_centre,
    store_tile,
    tap_position,
    tile_origin,
    tile_pixels,
)


@triton.jit
def add_depthwise_products(
    accumulator,  # [BLOCK_P, BLOCK_C]
    gradient_ptr,  # G of one image
    gradient_pixels,  # [BLOCK_P] offsets
    pixel_mask,
    weight_ptr,  # K of one tap
    channels,
    c_mask,
    g_strides,
    TAPS: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    INT64: tl.constexpr,
):
    """``accumulator + sum_j G[o,p] K[o,tap]`` over the outputs ``o = c * MULTIPLIER + j`` of each channel."""
    for j in range(MULTIPLIER):
        outputs = channels * MULTIPLIER + j
        gradient_offsets = gradient_pixels[:, None] + channel_offsets(outputs, g_strides.c, INT64)[None, :]
        gradient = tl.load(gradient_ptr + gradient_offsets, mask=pixel_mask[:, None] & c_mask[None, :], other=0.0)
        weight = tl.load(weight_ptr + outputs * TAPS, mask=c_mask, other=0.0)
        accumulator += gradient.to(tl.float32) * weight.to(tl.float32)[None, :]
    return accumulator


@triton.jit(do_not_specialize=["H", "HO", "origin_h", "origin_w", "first_row", "rows", "first_output_row"])
def difference_data_gradient_kernel(
    du_ptr,  # or None
    dv_ptr,  # or None; with VECTOR: the edge coefficients [groups * c_blocks, N, TAPS - 1, H, W] in float32
    contrast_sums_ptr,  # [tiles, groups * C] in float32, or None
    h_ptr,  # [groups, images, rows of output, WO, TAPS - 1, C], with EDGES [.., TAPS // 2, C]; not depthwise
    gradient_ptr,  # of a depthwise convolution only, as its weight
    u_ptr,
    v_ptr,  # guidance, or with VECTOR the similarity maps [N, TAPS - 1, HO, WO]
    weight_ptr,  # [C * MULTIPLIER, TAPS], contiguous
    contrast: Contrast,
    N,  # images of the batch
    C,  # channels of one group
    H,
    W,
    HO,
    WO,
    first_row,  # of the rows of the input that are differentiated
    rows,
    first_output_row,  # of h
    origin_h,
    origin_w,
    steps: Steps,
    stride_hg,  # from group to group
    h_strides: Strides,
    du_strides: Strides,
    dv_strides: Strides,
    g_strides: Strides,
    u_strides: Strides,
    v_strides: Strides,
    MULTIPLIER: tl.constexpr,  # outputs of a channel in a depthwise convolution, 0 in any other
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    VECTOR: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    INT64: tl.constexpr,
    EDGES: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Every edge of the pixel graph, gathered from the end x that is differentiated.

    With ``d = v[x+delta] - v[x]``, ``e = u[x+delta] - u[x]``, ``s = g(d)``, ``h[p,tap] = K[tap]^T G[p]`` as
    ``tap_products`` makes it, 0 where p is no output centre, and both roles of x, as centre and as tap of the centre
    ``x + delta``, in ``T = h[x,tap] - h[x + delta,opposite]``:

        dL/du[x] = - sum_delta s T      dL/dv[x] = - sum_delta g'(d) e T
        dL/dk    = - 1/k sum_{x, delta} w d g'(d) e T

    With EDGES h is T itself, of the taps of the first half of the kernel; an opposite has it from its other end.
    ``w`` is 1/2 where both ends lie inside the image, since such an edge is met from both, else 1.
    A depthwise convolution is one group in which ``h`` sums over the outputs of each channel alone, made here.
    With ``VECTOR``, ``dL/du`` as above and the edge coefficient ``(k^2 g'(r) / r) sum_c e_c T_c``, a sum over one block
    of channels, from which ``kernels/similarity.py`` makes the gradients of guidance and contrast.
    One program: a tile of BLOCK_H x BLOCK_W pixels of some rows of the input by BLOCK_C channels.
    Grid: (images * tiles of the rows * cdiv(C, BLOCK_C), groups).
    """
    TAPS: tl.constexpr = KERNEL_H * KERNEL_W
    at = geometry_of(H, W, HO, WO, origin_h, origin_w, steps)
    c_blocks = tl.cdiv(C, BLOCK_C)
    tile = tl.program_id(0) // c_blocks
    c_block = tl.program_id(0) % c_blocks
    group = tl.program_id(1).to(tl.int64)
    n, tile_row, tile_column = tile_origin(tile, rows, W, BLOCK_H, BLOCK_W)
    tile_row += first_row
    last_row = first_row + rows
    x_rows, x_columns = tile_pixels(tile_row, tile_column, BLOCK_H, BLOCK_W)  # [PIXELS]
    x_inside = (x_rows < last_row) & (x_columns < W)
    channels = c_block * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = channels < C
    x_mask = x_inside[:, None] & c_mask[None, :]

    u_ptr += n * u_strides.n + group * C * u_strides.c
    u_offsets = image_offsets(x_rows, x_columns, channels, u_strides, INT64)  # [PIXELS, BLOCK_C]
    u_x = tl.load(u_ptr + u_offsets, mask=x_mask, other=0.0)
    if VECTOR:
        v_ptr += n * v_strides.n
    else:
        v_ptr += n * v_strides.n + group * C * v_strides.c
        v_offsets = image_offsets(x_rows, x_columns, channels, v_strides, INT64)
        v_x = tl.load(v_ptr + v_offsets, mask=x_mask, other=0.0)
    inverse = load_inverse_contrast(contrast, group * C, channels, c_mask)
    x_i, x_j, x_is_centre = output_of_centre(x_rows, x_columns, at)
    x_is_centre = x_is_centre & x_inside
    if MULTIPLIER > 0:
        gradient_ptr += n * g_strides.n
        x_outputs = pixel_offsets(x_i, x_j, g_strides, INT64)
    else:
        h_ptr += group * stride_hg + n * h_strides.n
        h_channels = channel_offsets(channels, h_strides.c, INT64)[None, :]
        x_outputs = pixel_offsets(x_i - first_output_row, x_j, h_strides, INT64)[:, None] + h_channels
    up, down, left, right = room_to_move(tile_row, tile_column, last_row, at, BLOCK_H, BLOCK_W)
    if (c_block + 1) * BLOCK_C > C:
        down = FORCE_MASKS

    du = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32)
    dv = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32)
    contrast_sum = tl.zeros((1, BLOCK_C), tl.float32)
    SLOTS: tl.constexpr = TAPS // 2 if EDGES else TAPS - 1
    ENDS: tl.constexpr = 2 if EDGES else 1
    for slot in range(SLOTS):
        for end in tl.static_range(ENDS):
            tap = tl.cast(slot, tl.int32) if end == 0 else TAPS - 2 - tl.cast(slot, tl.int32)
            position = skip_centre(tap, KERNEL_H, KERNEL_W)
            dy, dx = tap_position(position, at, KERNEL_H, KERNEL_W)
            if MULTIPLIER > 0:
                u_q, v_q, q_inside = load_far_ends(
                    u_ptr, v_ptr, u_offsets, v_offsets, x_rows, x_columns, dy, dx, x_inside, c_mask, at,
                    u_strides, v_strides, INT64,
                )  # fmt: skip
                q_i, q_j, q_is_centre = output_of_centre(x_rows + dy, x_columns + dx, at)
                q_outputs = pixel_offsets(q_i, q_j, g_strides, INT64)
                t = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32)
                t = add_depthwise_products(
                    t, gradient_ptr, q_outputs, q_is_centre, weight_ptr + (TAPS - 1 - position), channels, c_mask,
                    g_strides, TAPS, MULTIPLIER, INT64,
                )  # fmt: skip
                t = add_depthwise_products(
                    -t, gradient_ptr, x_outputs, x_is_centre, weight_ptr + position, channels, c_mask,
                    g_strides, TAPS, MULTIPLIER, INT64,
                )  # fmt: skip
                if ZERO_FLUX:
                    t = tl.where(q_inside[:, None], t, 0.0)
            else:
                u_far = u_ptr + pixel_offsets(dy, dx, u_strides, INT64)
                if VECTOR:
                    v_far, v_places = u_far, u_offsets  # of no use
                else:
                    v_far, v_places = v_ptr + pixel_offsets(dy, dx, v_strides, INT64), v_offsets
                opposite = TAPS - 2 - tap
                u_q, v_q, h_x, h_q = load_edge(
                    u_far, v_far, h_ptr + channel_offsets(tap, C * h_strides.c, INT64),
                    h_ptr + channel_offsets(opposite, C * h_strides.c, INT64), u_offsets, v_places, x_outputs,
                    h_channels, x_rows, x_columns, x_inside, x_is_centre, c_mask, dy, dx, at, first_output_row,
                    h_strides, ((up + dy) | (down - dy) | (left + dx) | (right - dx)) >= 0,
                    not EDGES or end == 0, not EDGES or end == 1, ZERO_FLUX, INT64,
                )  # fmt: skip
                t = h_x.to(tl.float32)
                if EDGES and end == 1:
                    t = -t
                if not EDGES:
                    t -= h_q.to(tl.float32)

            e = u_q.to(tl.float32) - u_x.to(tl.float32)
            if VECTOR:
                q_i, q_j, q_is_centre = output_of_centre(x_rows + dy, x_columns + dx, at)
                # The similarity is symmetric: where x is no centre, the map of the centre x + delta has it.
                x_map = v_ptr + channel_offsets(tap, v_strides.c, INT64)
                q_map = v_ptr + channel_offsets(TAPS - 2 - tap, v_strides.c, INT64)
                x_pixels = pixel_offsets(x_i, x_j, v_strides, INT64)
                q_pixels = pixel_offsets(q_i, q_j, v_strides, INT64)
                s = tl.load(x_map + x_pixels, mask=x_is_centre, other=0.0)  # [PIXELS]
                s += tl.load(q_map + q_pixels, mask=q_is_centre & x_inside & (x_is_centre == 0), other=0.0)
                du -= s[:, None] * t
                if dv_ptr is not None:
                    coefficient = tl.sum(e * t, axis=1) * diffusivity_slope(s, DIFFUSIVITY)
                    dv_image = dv_ptr + ((group * c_blocks + c_block) * N + n) * dv_strides.n
                    dv_tap = dv_image + channel_offsets(tap, dv_strides.c, INT64)
                    tl.store(dv_tap + pixel_offsets(x_rows, x_columns, dv_strides, INT64), coefficient, mask=x_inside)
            else:
                d = relative_difference(v_x, v_q, inverse)
                u_flux, v_flux = edge_fluxes(e, d, t, DIFFUSIVITY)
                du -= u_flux
                dv -= v_flux
                if contrast_sums_ptr is not None:
                    q_inside = inside(x_rows + dy, x_columns + dx, H, W)
                    once = tl.where(q_inside, 0.5, 1.0)[:, None]
                    contrast_sum -= tl.sum(tl.where(x_mask, v_flux * d * once, 0.0), axis=0, keep_dims=True)

    if du_ptr is not None:
        store_tile(du_ptr + group * C * du_strides.c, du, n, x_rows, x_columns, channels, x_mask, du_strides, INT64)
    if dv_ptr is not None and not VECTOR:
        dv_group = dv_ptr + group * C * dv_strides.c
        store_tile(dv_group, dv * inverse, n, x_rows, x_columns, channels, x_mask, dv_strides, INT64)
    if contrast_sums_ptr is not None and not VECTOR:
        sums_ptr = contrast_sums_ptr + tile.to(tl.int64) * (tl.num_programs(1) * C) + group * C
        tl.store(sums_ptr + channels[None, :], contrast_sum * inverse, mask=c_mask[None, :])
