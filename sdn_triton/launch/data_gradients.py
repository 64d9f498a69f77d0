"""The gradients of input, guidance and contrast on the Triton path.

Those of a dense convolution are made by two kernels: products of all taps, then a gathering pass. What every tap of
every output centre passes back, ``K[tap]^T G``, is eight times as large as the input. It is therefore made in strips of
rows that a GPU's second-level cache holds, or of whole small images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdn_triton.kernels.difference_data_gradient import difference_data_gradient_kernel
from sdn_triton.kernels.paired_data_gradient import paired_data_gradient_kernel
from sdn_triton.kernels.tap_products import tap_products_kernel
from sdn_triton.launch import paired_depthwise, similarity
from sdn_triton.launch.difference_call import DifferenceCall
from sdn_triton.launch.image_copy import copy_image
from sdn_triton.launch.run import (
    Launch,
    as_factor,
    cdiv,
    count_tiles,
    image_strides,
    needs_64_bits,
    precision_of,
    target_of,
)
from sdn_triton.options import Contrast, DifferenceNeeds
from sdn_triton.tuning.channels_last import padded
from sdn_triton.tuning.configs import KernelConfig

L2_SHARE = 0.65
"""Of the second-level cache, what the products of a strip may take: the rest is for what is read beside them."""


class Strip(NamedTuple):
    """Some rows of some images of the input, and the rows of output whose taps reach them."""

    first_image: int
    images: int
    first_row: int
    rows: int
    first_output_row: int
    output_rows: int


class Gradients(NamedTuple):
    """What a gathering pass fills: the gradients of input and guidance, and sums for that of the contrast."""

    input: Tensor | None
    guidance: Tensor | None
    """Or the edge coefficients of a vector similarity, ``[blocks of channels, N, taps, H, W]``."""
    contrast_sums: Tensor | None = None


def data_gradients(
    call: DifferenceCall, grad: Tensor, maps: Tensor | None, needs: DifferenceNeeds
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of input, guidance and contrast."""
    needs_contrast = needs.contrast and isinstance(call.contrast, Tensor)
    if not (needs.input or needs.guidance or needs_contrast):
        return None, None, None
    kernel = "depthwise_data_gradient" if call.is_depthwise else "difference_data_gradient"
    config = call.config(kernel, needs_contrast)
    # The gradient of a contrast is float32, mostly, which products in half precision would fall short of.
    dtype = torch.float32 if needs_contrast else call.input.dtype
    dinput = torch.empty_like(call.input) if needs.input else None
    if maps is not None:
        return _with_maps(call, grad, maps, dtype, dinput, needs._replace(contrast=needs_contrast), config)
    dguidance = torch.empty_like(call.guidance) if needs.guidance else None
    if call.reads_copies(kernel, config, needs_contrast):
        _fill_by_copies(call, grad, Gradients(dinput, dguidance), config)
        return dinput, dguidance, None
    sums = None
    if needs_contrast:
        tiles = count_tiles(call.input.shape[0], call.input.shape[2], call.input.shape[3], config)
        sums = call.input.new_empty((tiles, call.input.shape[1]), dtype=torch.float32)
    _fill(call, grad, None, dtype, Gradients(dinput, dguidance, sums), config)
    return dinput, dguidance, None if sums is None else _contrast_gradient(sums, call.contrast)


def _with_maps(
    call: DifferenceCall,
    grad: Tensor,
    maps: Tensor,
    dtype: torch.dtype,
    dinput: Tensor | None,
    needs: DifferenceNeeds,
    config: KernelConfig,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The same where the similarity has maps: what is gathered for every edge goes through the similarity's kernel."""
    images, _, rows, columns = call.input.shape
    edges = None
    if needs.guidance or needs.contrast:
        blocks = call.groups * cdiv(call.channels, config.block_c)
        edges = call.input.new_empty((blocks, images, call.taps - 1, rows, columns), dtype=torch.float32)
    _fill(call, grad, maps, dtype, Gradients(dinput, edges), config)
    if edges is None:
        return dinput, None, None
    dguidance, sums = similarity.backward(
        edges[0] if edges.shape[0] == 1 else edges.sum(0),
        call.guidance,
        call.contrast,
        call.options,
        call.config("similarity_gradient"),
        needs_guidance=needs.guidance,
        needs_contrast=needs.contrast,
    )
    return dinput, dguidance, None if sums is None else _contrast_gradient(sums, call.contrast)


def _contrast_gradient(sums: Tensor, contrast: Contrast) -> Tensor:
    """The sums over tiles, and over channels where all share one contrast."""
    assert isinstance(contrast, Tensor)
    total = sums.sum(0) if contrast.numel() == sums.shape[-1] and contrast.ndim else sums.sum()
    return total.to(contrast.dtype).reshape(contrast.shape)


def _fill_by_copies(call: DifferenceCall, grad: Tensor, gradients: Gradients, config: KernelConfig) -> None:
    """Fill gradients whose channels do not lie in pairs from others that do."""
    pairs = call.in_pairs
    copies = Gradients(
        *(
            None if gradient is None else torch.empty_like(pairs.input, memory_format=torch.channels_last)
            for gradient in gradients[:2]
        )
    )
    products_config = None if call.is_depthwise else call.config("tap_products")
    _fill(pairs, grad, None, call.input.dtype, copies, config, products_config)
    for gradient, copy in zip(gradients[:2], copies[:2]):
        if gradient is not None and copy is not None:
            copy_image(gradient, copy)


def _fill(
    call: DifferenceCall,
    grad: Tensor,
    maps: Tensor | None,
    dtype: torch.dtype,
    gradients: Gradients,
    config: KernelConfig,
    products_config: KernelConfig | None = None,
) -> None:
    """Fill the gradients that are there, strip by strip, from products of this dtype."""
    if call.is_depthwise and config.pairs:
        paired_depthwise.fill_data_gradients(call, grad, gradients.input, gradients.guidance, config)
        return
    if call.is_depthwise:
        images, _, rows, _ = call.input.shape
        whole = Strip(0, images, 0, rows, 0, call.output_size[0])
        _gather(call, None, None, gradients, whole, config, _depthwise_arguments(call, grad))(call.input.device)
        return
    products_config = products_config or call.config("tap_products")
    for cut, products in _products_of_strips(call, grad, dtype, config, products_config):
        if config.pairs:
            launch = _gather_pairs(call, products, gradients, cut, config)
        else:
            launch = _gather(call, products, maps, gradients, cut, config, _depthwise_arguments(call, None))
        launch(call.input.device)


def strips(call: DifferenceCall, block_h: int, row_bytes: int, room: int) -> Iterator[Strip]:
    """Cut the batch into strips whose products take no more than ``room`` bytes, if a row of tiles does not alone.

    ``row_bytes`` are those of the products of a row of outputs.
    """
    batch, _, height, _ = call.input.shape
    output_height = call.output_size[0]
    reach, step, origin = call.options.reach[0], call.options.stride[0], call.options.origin[0]
    images, rows = 1, height
    if output_height * row_bytes <= room:
        images = max(1, min(batch, room // max(output_height * row_bytes, 1)))
    else:
        rows = (room // row_bytes * step - 2 * reach) // block_h * block_h
        rows = min(height, max(rows, block_h))
    for image in range(0, batch, images):
        for row in range(0, height, rows):
            last = min(row + rows, height)
            first_output = min(max(cdiv(row - reach - origin, step), 0), output_height)
            last_output = min(max((last - 1 + reach - origin) // step + 1, first_output), output_height)
            yield Strip(image, min(images, batch - image), row, last - row, first_output, last_output - first_output)


def products_bytes(call: DifferenceCall) -> int:
    """What the products of a backward pass take at once; where a contrast is a tensor, if its gradient is wanted."""
    learned = isinstance(call.contrast, Tensor)
    config = call.config("difference_data_gradient", learned)
    columns = call.groups * (call.taps - 1) * (padded(call.channels) if config.pairs else call.channels)
    item_bytes = torch.float32.itemsize if learned else call.input.dtype.itemsize
    row_bytes = call.output_size[1] * columns * item_bytes
    room = strip_room(call.input.device, call.config("tap_products"), item_bytes)
    return _most_rows(strips(call, config.block_h, row_bytes, room)) * row_bytes


def _most_rows(cuts: Iterable[Strip]) -> int:
    return max((cut.images * cut.output_rows for cut in cuts), default=0)


def strip_room(device: torch.device, config: KernelConfig, item_bytes: int) -> int:
    """Bytes that the products of a strip may take: what the cache holds, but a tile for every multiprocessor."""
    target = target_of(device)
    tiles = target.multiprocessors * config.block_p * config.block_c
    return max(int(L2_SHARE * target.l2_bytes), tiles * item_bytes)


def _products_of_strips(
    call: DifferenceCall, grad: Tensor, dtype: torch.dtype, config: KernelConfig, products_config: KernelConfig
) -> Iterator[tuple[Strip, Tensor]]:
    """Each strip with the products of all taps there, [groups, images * rows, columns, taps * C], in the same memory.

    Where the columns of an image lie together they do so in the products, too. Rows that two strips of an image share
    are moved, not made again.
    """
    device, output_columns = call.input.device, call.output_size[1]
    weight = _weight_of_taps(call)
    columns = weight.shape[2]
    row_bytes = output_columns * call.groups * columns * dtype.itemsize
    cuts = list(strips(call, config.block_h, row_bytes, strip_room(device, products_config, dtype.itemsize)))
    most = _most_rows(cuts)
    if call.input.stride(1) == 1 or call.input.stride(3) != 1:
        memory = torch.empty((call.groups, most, output_columns, columns), dtype=dtype, device=device)
    else:
        memory = torch.empty((call.groups, columns, most, output_columns), dtype=dtype, device=device)
        memory = memory.permute(0, 2, 3, 1)
    before: Strip | None = None
    for cut in cuts:
        last = cut.first_output_row + cut.output_rows
        first = cut.first_output_row
        if before is not None and before.first_image == cut.first_image:
            there = before.first_output_row + before.output_rows
            shared = memory[:, first - before.first_output_row : before.output_rows]
            overlaps = shared.shape[1] > first - before.first_output_row
            memory[:, : there - first] = shared.clone() if overlaps else shared
            first = there
        products = memory[:, : cut.images * cut.output_rows]
        if first < last and columns:
            gradient = grad[cut.first_image : cut.first_image + cut.images, :, first:last]
            _products(call, gradient, weight, products[:, first - cut.first_output_row :], products_config)(device)
        yield cut, products
        before = cut


def _weight_of_taps(call: DifferenceCall) -> Tensor:
    """The weight as [groups, O, taps without the centre * C].

    Factors in float32 lie with O together, as Hopper's tensor cores want those of TF32.
    """
    half = call.taps // 2
    taps = as_factor(call.weight, call.arithmetic).flatten(2)
    taps = torch.cat((taps[..., :half], taps[..., half + 1 :]), 2)  # [groups * O, C, taps - 1]
    taps = taps.unflatten(0, (call.groups, call.outputs))
    if call.input.dtype == torch.float32:
        return taps.permute(0, 3, 2, 1).contiguous().flatten(1, 2).transpose(1, 2)
    return taps.permute(0, 1, 3, 2).contiguous().flatten(2)


def _products(call: DifferenceCall, grad: Tensor, weight: Tensor, products: Tensor, config: KernelConfig) -> Launch:
    images, _, rows, columns = grad.shape
    return Launch(
        kernel=tap_products_kernel,
        grid=(
            images * cdiv(rows * columns, config.block_p) * cdiv(weight.shape[2], config.block_c),
            call.groups,
        ),
        arguments=dict(
            h_ptr=products,
            gradient_ptr=grad,
            weight_ptr=weight,
            pixels_of_image=rows * columns,
            WO=columns,
            O=call.outputs,
            COLUMNS=weight.shape[2],
            stride_hg=products.stride(0),
            stride_hp=products.stride(2),
            stride_hk=products.stride(3),
            **image_strides("g", grad),
            stride_wg=weight.stride(0),
            stride_wo=weight.stride(1),
            stride_wk=weight.stride(2),
            ONE_ROW=rows == 1 or grad.stride(2) == columns * grad.stride(3),
            PRECISION=precision_of(call.arithmetic),
            INT64=needs_64_bits(grad),
            BLOCK_P=config.block_p,
            BLOCK_C=config.block_c,
            BLOCK_O=config.block_o,
        ),
        config=config,
    )


def _gather(
    call: DifferenceCall,
    products: Tensor | None,
    maps: Tensor | None,
    gradients: Gradients,
    cut: Strip,
    config: KernelConfig,
    depthwise: dict[str, Any],
) -> Launch:
    """The gathering pass over a strip, one channel at a time."""
    images = slice(cut.first_image, cut.first_image + cut.images)
    source = call.guidance if maps is None else maps
    du, dv, sums = gradients
    if maps is not None and dv is not None:
        dv = dv[0]
    if sums is not None:
        # Tiles are counted image by image, row by row: those before this strip have theirs in front.
        before = count_tiles(cut.first_image, call.input.shape[2], call.input.shape[3], config)
        before += count_tiles(1, cut.first_row, call.input.shape[3], config)
        sums = sums[before:]
    hg, hh, hw, hc = (0, 0, 0, 0) if products is None else products.stride()
    addressed = [x for x in (gradients.input, dv, depthwise["gradient_ptr"]) if x is not None]
    constants = call.constants(source, *addressed)
    constants["INT64"] |= products is not None and products.numel() >= 2**31
    return Launch(
        kernel=difference_data_gradient_kernel,
        grid=(
            count_tiles(cut.images, cut.rows, call.input.shape[3], config) * cdiv(call.channels, config.block_c),
            call.groups,
        ),
        arguments=dict(
            du_ptr=None if du is None else du[images],
            dv_ptr=None if dv is None else dv[images],
            contrast_sums_ptr=sums,
            h_ptr=products,
            u_ptr=call.input[images],
            v_ptr=source[images],
            N=call.input.shape[0],
            C=call.channels,
            **call.geometry(),
            first_row=cut.first_row,
            rows=cut.rows,
            first_output_row=cut.first_output_row,
            stride_hg=hg,
            stride_hn=cut.output_rows * hh,
            stride_hh=hh,
            stride_hw=hw,
            stride_hc=hc,
            **image_strides("du", du),
            **image_strides("dv", dv),
            **image_strides("u", call.input),
            **image_strides("v", source),
            **call.contrast_arguments(),
            **constants,
            **depthwise,
            NEEDS_U=du is not None,
            NEEDS_V=dv is not None,
            NEEDS_CONTRAST=sums is not None,
            VECTOR=maps is not None,
            BLOCK_H=config.block_h,
            BLOCK_W=config.block_w,
            BLOCK_C=config.block_c,
        ),
        config=config,
    )


def _depthwise_arguments(call: DifferenceCall, grad: Tensor | None) -> dict[str, Any]:
    """What the gathering kernel makes products from; nothing where they were made before."""
    return dict(
        gradient_ptr=grad,
        weight_ptr=None if grad is None else call.packed_weight(),
        **image_strides("g", grad),
        MULTIPLIER=0 if grad is None else call.multiplier,
    )


def _gather_pairs(
    call: DifferenceCall, products: Tensor, gradients: Gradients, cut: Strip, config: KernelConfig
) -> Launch:
    """The gathering pass over a strip, two channels at a time."""
    images = slice(cut.first_image, cut.first_image + cut.images)
    du, dv, _ = gradients
    # Both gradients have the same, as input and guidance have.
    strides = next((g.stride() for g in (du, dv) if g is not None), call.input.stride())
    constants = {**call.geometry(), **call.word_strides(), **call.contrast_arguments(), **call.constants()}
    del constants["INT64"]  # see DifferenceCall.can_pair
    return Launch(
        kernel=paired_data_gradient_kernel,
        grid=(count_tiles(cut.images, cut.rows, call.input.shape[3], config) * cdiv(call.channels, config.block_c),),
        arguments=dict(
            du_ptr=None if du is None else du[images],
            dv_ptr=None if dv is None else dv[images],
            h_ptr=products,
            u_ptr=call.input[images],
            v_ptr=call.guidance[images],
            C=call.channels,
            first_row=cut.first_row,
            rows=cut.rows,
            first_output_row=cut.first_output_row,
            stride_hn=cut.output_rows * products.stride(1) // 2,
            stride_dun=strides[0] // 2,
            stride_duh=strides[2] // 2,
            stride_duw=strides[3] // 2,
            **constants,
            **call.pair_constants(),
            NEEDS_U=du is not None,
            NEEDS_V=dv is not None,
            BLOCK_H=config.block_h,
            BLOCK_W=config.block_w,
        ),
        config=config,
    )
