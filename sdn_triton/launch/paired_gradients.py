"""The data gradients of a dense convolution whose channels come in pairs: products of all taps, then a gathering pass.

What every tap of every output centre passes back, ``K[tap]^T G``, is eight times as large as the input. It is therefore
made in strips of rows that a GPU's second-level cache holds, or of whole small images.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sdn_triton.kernels.paired_data_gradient import paired_data_gradient_kernel
from sdn_triton.kernels.tap_products import tap_products_kernel
from sdn_triton.launch.difference_call import DifferenceCall
from sdn_triton.launch.image_copy import copy_image
from sdn_triton.launch.run import Launch, cdiv, count_tiles, image_strides, needs_64_bits, precision_of
from sdn_triton.options import DifferenceNeeds
from sdn_triton.tuning.configs import KernelConfig

STRIP_BYTES = 2**25
"""What the products of a strip may take: not much more than half of an H100's second-level cache."""


class Strip(NamedTuple):
    """Some rows of some images of the input, and the rows of output whose taps reach them."""

    first_image: int
    images: int
    first_row: int
    rows: int
    first_output_row: int
    output_rows: int


def strips(call: DifferenceCall, block_h: int) -> Iterator[Strip]:
    """Cut the batch into strips whose products take no more than STRIP_BYTES, if a row of tiles does not alone."""
    batch, _, height, _ = call.input.shape
    output_height, output_width = call.output_size
    reach, step, origin = call.options.reach[0], call.options.stride[0], call.options.origin[0]
    row_bytes = output_width * (call.taps - 1) * call.channels * call.input.element_size()
    images, rows = 1, height
    if output_height * row_bytes <= STRIP_BYTES:
        images = min(batch, STRIP_BYTES // (output_height * row_bytes))
    else:
        rows = (STRIP_BYTES // row_bytes * step - 2 * reach) // block_h * block_h
        rows = min(height, max(rows, block_h))
    for image in range(0, batch, images):
        for row in range(0, height, rows):
            last = min(row + rows, height)
            first_output = min(max(cdiv(row - reach - origin, step), 0), output_height)
            last_output = min(max((last - 1 + reach - origin) // step + 1, first_output), output_height)
            yield Strip(image, min(images, batch - image), row, last - row, first_output, last_output - first_output)


def paired_data_gradients(
    call: DifferenceCall, grad: Tensor, needs: DifferenceNeeds, config: KernelConfig
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of input and guidance."""
    dinput = torch.empty_like(call.input) if needs.input else None
    dguidance = torch.empty_like(call.guidance) if needs.guidance else None
    if not call.reads_copies("difference_data_gradient", config):
        _fill(call, grad, config, call.config("tap_products"), dinput, dguidance)
        return dinput, dguidance
    pairs = call.in_pairs
    du, dv = (
        None if gradient is None else torch.empty_like(pairs.input, memory_format=torch.channels_last)
        for gradient in (dinput, dguidance)
    )
    _fill(pairs, grad, config, call.config("tap_products"), du, dv)
    for gradient, copy in ((dinput, du), (dguidance, dv)):
        if gradient is not None and copy is not None:
            copy_image(gradient, copy)
    return dinput, dguidance


def _fill(
    call: DifferenceCall,
    grad: Tensor,
    config: KernelConfig,
    products_config: KernelConfig,
    dinput: Tensor | None,
    dguidance: Tensor | None,
) -> None:
    """Compute the gradients that are there, which have the strides that pairs need."""
    input, guidance = call.input, call.guidance
    # Both gradients have the same, as input and guidance have.
    strides = next((g.stride() for g in (dinput, dguidance) if g is not None), input.stride())
    columns = (call.taps - 1) * call.channels
    half = call.taps // 2
    taps = call.weight.flatten(2)
    # [O, taps without the centre, C]
    weight = torch.cat((taps[..., :half], taps[..., half + 1 :]), 2).transpose(1, 2).contiguous()
    cuts = list(strips(call, config.block_h))
    room = max(cut.images * max(cut.output_rows, 1) for cut in cuts) * call.output_size[1] * columns
    products = input.new_empty(room)
    constants = {**call.geometry(), **call.word_strides(), **call.contrast_arguments(), **call.constants()}
    del constants["INT64"]  # see DifferenceCall.can_pair
    for cut in cuts:
        images = slice(cut.first_image, cut.first_image + cut.images)
        if cut.output_rows:
            _products(call, grad[images], weight, products, cut, products_config)(input.device)
        Launch(
            kernel=paired_data_gradient_kernel,
            grid=(count_tiles(cut.images, cut.rows, input.shape[3], config) * cdiv(call.channels, config.block_c),),
            arguments=dict(
                du_ptr=None if dinput is None else dinput[images],
                dv_ptr=None if dguidance is None else dguidance[images],
                h_ptr=products,
                u_ptr=input[images],
                v_ptr=guidance[images],
                C=call.channels,
                first_row=cut.first_row,
                rows=cut.rows,
                first_output_row=cut.first_output_row,
                stride_hn=cut.output_rows * call.output_size[1] * columns // 2,
                stride_dun=strides[0] // 2,
                stride_duh=strides[2] // 2,
                stride_duw=strides[3] // 2,
                **constants,
                **call.pair_constants(),
                NEEDS_U=dinput is not None,
                NEEDS_V=dguidance is not None,
                BLOCK_H=config.block_h,
                BLOCK_W=config.block_w,
            ),
            config=config,
        )(input.device)


def _products(
    call: DifferenceCall, grad: Tensor, weight: Tensor, products: Tensor, cut: Strip, config: KernelConfig
) -> Launch:
    columns = weight.shape[1] * weight.shape[2]
    pixels = cut.images * cut.output_rows * call.output_size[1]
    return Launch(
        kernel=tap_products_kernel,
        grid=(cdiv(pixels, config.block_p) * cdiv(columns, config.block_c),),
        arguments=dict(
            h_ptr=products,
            gradient_ptr=grad,
            weight_ptr=weight,
            images=cut.images,
            rows=cut.output_rows,
            first_output_row=cut.first_output_row,
            WO=call.output_size[1],
            O=call.outputs,
            COLUMNS=columns,
            **image_strides("g", grad),
            PRECISION=precision_of(call.arithmetic),
            INT64=needs_64_bits(grad),
            BLOCK_P=config.block_p,
            BLOCK_C=config.block_c,
            BLOCK_O=config.block_o,
        ),
        config=config,
    )
