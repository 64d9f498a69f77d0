"""The gradients of a difference convolution with respect to input, guidance and contrast."""

import triton
import triton.language as tl

from sdn_triton.kernels.difference import edge_fluxes, load_inverse_contrast
from sdn_triton.kernels.diffusivity import diffusivity_slope
from sdn_triton.kernels.pixels import (
    channel_offsets,
    inside,
    output_of_centre,
    pixel_offsets,
    skip_centre,
    tap_position,
    tile_origin,
    tile_pixels,
)


@triton.jit
def add_output_products(
    accumulator,  # [BLOCK_P, BLOCK_C]
    gradient_ptr,  # G of one image and group
    gradient_pixels,  # [BLOCK_P] offsets
    pixel_mask,
    weight_ptr,  # K of one group and tap
    channels,
    c_mask,
    O,
    stride_gc,
    stride_ko,
    PRECISION: tl.constexpr,
    INT64: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """``accumulator + sum_o G[o,p] K[o,c,tap]``, where a pixel that is no output centre has G = 0."""
    for o in range(0, O, BLOCK_O):
        outputs = o + tl.arange(0, BLOCK_O)
        o_mask = outputs < O
        gradient_offsets = gradient_pixels[:, None] + channel_offsets(outputs, stride_gc, INT64)[None, :]
        gradient = tl.load(gradient_ptr + gradient_offsets, mask=pixel_mask[:, None] & o_mask[None, :], other=0.0)
        weight_offsets = (outputs * stride_ko)[:, None] + channels[None, :]  # [BLOCK_O, BLOCK_C]
        weight = tl.load(weight_ptr + weight_offsets, mask=o_mask[:, None] & c_mask[None, :], other=0.0)
        accumulator = tl.dot(gradient, weight, accumulator, input_precision=PRECISION)
    return accumulator


@triton.jit
def add_depthwise_products(
    accumulator,  # [BLOCK_P, BLOCK_C]
    gradient_ptr,  # G of one image
    gradient_pixels,  # [BLOCK_P] offsets
    pixel_mask,
    weight_ptr,  # K of one tap
    channels,
    c_mask,
    stride_gc,
    stride_ko,
    MULTIPLIER: tl.constexpr,
    INT64: tl.constexpr,
):
    """``accumulator + sum_j G[o,p] K[o,tap]`` over the outputs ``o = c * MULTIPLIER + j`` of each channel."""
    for j in range(MULTIPLIER):
        outputs = channels * MULTIPLIER + j
        gradient_offsets = gradient_pixels[:, None] + channel_offsets(outputs, stride_gc, INT64)[None, :]
        gradient = tl.load(gradient_ptr + gradient_offsets, mask=pixel_mask[:, None] & c_mask[None, :], other=0.0)
        weight = tl.load(weight_ptr + outputs * stride_ko, mask=c_mask, other=0.0)
        accumulator += gradient.to(tl.float32) * weight.to(tl.float32)[None, :]
    return accumulator


@triton.jit(do_not_specialize=["H", "HO", "origin_h", "origin_w"])
def difference_data_gradient_kernel(
    du_ptr,
    dv_ptr,  # with VECTOR: the edge coefficients [groups * c_blocks, N, TAPS - 1, H, W] in float32
    contrast_sums_ptr,  # [N * tiles, groups * C] in float32
    gradient_ptr,
    u_ptr,
    v_ptr,  # guidance, or with VECTOR the similarity maps [N, TAPS - 1, HO, WO]
    weight_ptr,  # [groups * O, TAPS, C], contiguous
    contrast_ptr,
    inverse_contrast,
    N,
    C,  # channels of one group
    O,  # outputs of one group
    H,
    W,
    HO,
    WO,
    origin_h,
    origin_w,
    step_h,
    step_w,
    dilation_h,
    dilation_w,
    stride_dun,
    stride_duc,
    stride_duh,
    stride_duw,
    stride_dvn,
    stride_dvc,
    stride_dvh,
    stride_dvw,
    stride_gn,
    stride_gc,
    stride_gh,
    stride_gw,
    stride_un,
    stride_uc,
    stride_uh,
    stride_uw,
    stride_vn,
    stride_vc,
    stride_vh,
    stride_vw,
    stride_contrast,
    MULTIPLIER: tl.constexpr,  # outputs of a channel in a depthwise convolution, 0 in any other
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    NEEDS_U: tl.constexpr,
    NEEDS_V: tl.constexpr,
    NEEDS_CONTRAST: tl.constexpr,
    LOAD_CONTRAST: tl.constexpr,
    DIFFUSIVITY: tl.constexpr,
    VECTOR: tl.constexpr,
    ZERO_FLUX: tl.constexpr,
    PRECISION: tl.constexpr,
    INT64: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """Every edge of the pixel graph, gathered from the end x that is differentiated.

    With ``d = v[x+delta] - v[x]``, ``e = u[x+delta] - u[x]``, ``s = g(d)`` and both roles of x, as centre and as tap of
    the centre ``x + delta``, in ``T = K[tap]^T G(x as centre) - K[opposite]^T G(x + delta as centre)``:

        dL/du[x] = - sum_delta s T      dL/dv[x] = - sum_delta g'(d) e T
        dL/dk    = - 1/k sum_{x, delta} w d g'(d) e T

    ``w`` is 1/2 where both ends lie inside the image, since such an edge is met from both, else 1.
    A depthwise convolution is one group in which ``T`` sums over the outputs of each channel alone.
    With ``VECTOR``, ``dL/du`` as above and the edge coefficient ``(k^2 g'(r) / r) sum_c e_c T_c``, a sum over one block
    of channels, from which ``kernels/similarity.py`` makes the gradients of guidance and contrast.
    Grid: (tiles of the input * cdiv(C, BLOCK_C), groups).
    """
    TAPS: tl.constexpr = KERNEL_H * KERNEL_W
    c_blocks = tl.cdiv(C, BLOCK_C)
    tile = tl.program_id(0) // c_blocks
    c_block = tl.program_id(0) % c_blocks
    group = tl.program_id(1).to(tl.int64)
    n, first_row, first_column = tile_origin(tile, H, W, BLOCK_H, BLOCK_W)
    rows, columns = tile_pixels(first_row, first_column, BLOCK_H, BLOCK_W)  # [BLOCK_P]
    x_inside = inside(rows, columns, H, W)
    channels = c_block * BLOCK_C + tl.arange(0, BLOCK_C)
    c_mask = channels < C
    x_mask = x_inside[:, None] & c_mask[None, :]

    u_ptr += n * stride_un + group * C * stride_uc
    u_pixels = pixel_offsets(rows, columns, stride_uh, stride_uw, INT64)
    u_offsets = u_pixels[:, None] + channel_offsets(channels, stride_uc, INT64)[None, :]  # [BLOCK_P, BLOCK_C]
    if VECTOR:
        v_ptr += n * stride_vn
    else:
        v_ptr += n * stride_vn + group * C * stride_vc
        v_pixels = pixel_offsets(rows, columns, stride_vh, stride_vw, INT64)
        v_offsets = v_pixels[:, None] + channel_offsets(channels, stride_vc, INT64)[None, :]
    if LOAD_CONTRAST:
        contrast_ptr += group * C * stride_contrast
    inverse = load_inverse_contrast(contrast_ptr, inverse_contrast, stride_contrast, channels, c_mask, LOAD_CONTRAST)
    gradient_ptr += n * stride_gn + group * O * stride_gc
    weight_ptr += group * O * TAPS * C
    x_i, x_j, x_is_centre = output_of_centre(rows, columns, origin_h, origin_w, step_h, step_w, HO, WO)
    x_outputs = pixel_offsets(x_i, x_j, stride_gh, stride_gw, INT64)

    du = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32)
    dv = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32)
    contrast_sum = tl.zeros((1, BLOCK_C), tl.float32)
    for tap in range(TAPS - 1):
        position = skip_centre(tap, KERNEL_H, KERNEL_W)
        dy, dx = tap_position(position, dilation_h, dilation_w, KERNEL_H, KERNEL_W)
        q_rows = rows + dy
        q_columns = columns + dx
        q_inside = inside(q_rows, q_columns, H, W)
        q_i, q_j, q_is_centre = output_of_centre(q_rows, q_columns, origin_h, origin_w, step_h, step_w, HO, WO)
        q_outputs = pixel_offsets(q_i, q_j, stride_gh, stride_gw, INT64)

        t = tl.zeros((BLOCK_H * BLOCK_W, BLOCK_C), tl.float32)
        if MULTIPLIER > 0:
            t = add_depthwise_products(
                t,
                gradient_ptr,
                q_outputs,
                q_is_centre,
                weight_ptr + (TAPS - 1 - position),
                channels,
                c_mask,
                stride_gc,
                stride_ko=TAPS,
                MULTIPLIER=MULTIPLIER,
                INT64=INT64,
            )
            t = add_depthwise_products(
                -t,
                gradient_ptr,
                x_outputs,
                x_is_centre,
                weight_ptr + position,
                channels,
                c_mask,
                stride_gc,
                stride_ko=TAPS,
                MULTIPLIER=MULTIPLIER,
                INT64=INT64,
            )
        else:
            t = add_output_products(
                t,
                gradient_ptr,
                q_outputs,
                q_is_centre,
                weight_ptr + (TAPS - 1 - position) * C,
                channels,
                c_mask,
                O,
                stride_gc,
                stride_ko=TAPS * C,
                PRECISION=PRECISION,
                INT64=INT64,
                BLOCK_O=BLOCK_O,
            )
            t = add_output_products(
                -t,
                gradient_ptr,
                x_outputs,
                x_is_centre,
                weight_ptr + position * C,
                channels,
                c_mask,
                O,
                stride_gc,
                stride_ko=TAPS * C,
                PRECISION=PRECISION,
                INT64=INT64,
                BLOCK_O=BLOCK_O,
            )
        if ZERO_FLUX:
            t = tl.where((x_inside & q_inside)[:, None], t, 0.0)

        q_mask = q_inside[:, None] & c_mask[None, :]
        u_tap = u_ptr + pixel_offsets(dy, dx, stride_uh, stride_uw, INT64)
        # The centre is read again with every tap, by way of the tap, so that the compiler does not keep it in registers
        # through the matrix products, which need them.
        u_x = tl.load(u_tap - pixel_offsets(dy, dx, stride_uh, stride_uw, INT64) + u_offsets, mask=x_mask, other=0.0)
        u_q = tl.load(u_tap + u_offsets, mask=q_mask, other=0.0)
        if VECTOR:
            # The similarity is symmetric: where x is no centre, the map of the centre x + delta has it.
            x_map = v_ptr + channel_offsets(tl.cast(tap, tl.int32), stride_vc, INT64)
            q_map = v_ptr + channel_offsets(TAPS - 2 - tl.cast(tap, tl.int32), stride_vc, INT64)
            x_pixels = pixel_offsets(x_i, x_j, stride_vh, stride_vw, INT64)
            q_pixels = pixel_offsets(q_i, q_j, stride_vh, stride_vw, INT64)
            s = tl.load(x_map + x_pixels, mask=x_is_centre, other=0.0)  # [BLOCK_P]
            s += tl.load(q_map + q_pixels, mask=q_is_centre & (x_is_centre == 0), other=0.0)
            du -= s[:, None] * t
            if NEEDS_V:
                e = u_q.to(tl.float32) - u_x.to(tl.float32)
                coefficient = tl.sum(e * t, axis=1) * diffusivity_slope(s, DIFFUSIVITY)
                dv_pixels = pixel_offsets(rows, columns, stride_dvh, stride_dvw, INT64)
                dv_image = dv_ptr + ((group * c_blocks + c_block) * N + n) * stride_dvn
                dv_tap = dv_image + channel_offsets(tl.cast(tap, tl.int32), stride_dvc, INT64)
                tl.store(dv_tap + dv_pixels, coefficient, mask=x_inside)
        else:
            v_tap = v_ptr + pixel_offsets(dy, dx, stride_vh, stride_vw, INT64)
            v_x = tl.load(
                v_tap - pixel_offsets(dy, dx, stride_vh, stride_vw, INT64) + v_offsets, mask=x_mask, other=0.0
            )
            v_q = tl.load(v_tap + v_offsets, mask=q_mask, other=0.0)
            u_flux, v_flux, d = edge_fluxes(u_x, u_q, v_x, v_q, t, inverse, DIFFUSIVITY)
            du -= u_flux
            dv -= v_flux
            if NEEDS_CONTRAST:
                once = tl.where(q_inside, 0.5, 1.0)[:, None]
                contrast_sum -= tl.sum(tl.where(x_mask, v_flux * d * once, 0.0), axis=0, keep_dims=True)

    if NEEDS_U:
        du_ptr += n * stride_dun + group * C * stride_duc
        du_pixels = pixel_offsets(rows, columns, stride_duh, stride_duw, INT64)
        du_offsets = du_pixels[:, None] + channel_offsets(channels, stride_duc, INT64)[None, :]
        tl.store(du_ptr + du_offsets, du.to(du_ptr.dtype.element_ty), mask=x_mask)
    if NEEDS_V and not VECTOR:
        dv_ptr += n * stride_dvn + group * C * stride_dvc
        dv_pixels = pixel_offsets(rows, columns, stride_dvh, stride_dvw, INT64)
        dv_offsets = dv_pixels[:, None] + channel_offsets(channels, stride_dvc, INT64)[None, :]
        tl.store(dv_ptr + dv_offsets, (dv * inverse).to(dv_ptr.dtype.element_ty), mask=x_mask)
    if NEEDS_CONTRAST and not VECTOR:
        sums_ptr = contrast_sums_ptr + tile.to(tl.int64) * (tl.num_programs(1) * C) + group * C
        tl.store(sums_ptr + channels[None, :], contrast_sum * inverse, mask=c_mask[None, :])
