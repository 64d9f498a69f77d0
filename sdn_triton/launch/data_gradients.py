"""The gradients of input, guidance and contrast on the Triton path.

Those of a dense convolution are made by two kernels, strip by strip: products of all taps (``products.py``), then a
gathering pass.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdn_triton.kernels.arguments import Strides
from sdn_triton.kernels.difference_data_gradient import difference_data_gradient_kernel
from sdn_triton.kernels.paired_data_gradient import paired_data_gradient_kernel
from sdn_triton.launch import paired_depthwise, similarity
from sdn_triton.launch.difference_call import DifferenceCall
from sdn_triton.launch.image_copy import copy_image
from sdn_triton.launch.image_layout import strides_of
from sdn_triton.launch.plan import Rest
from sdn_triton.launch.products import Places, Strip, products_of_strips
from sdn_triton.launch.run import cdiv, contrast_of, count_tiles
from sdn_triton.options import Contrast, DifferenceNeeds
from sdn_triton.tuning.configs import KernelConfig


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
    layout = call.layout
    needs_contrast = needs.contrast and isinstance(call.contrast, Tensor)
    if not (needs.input or needs.guidance or needs_contrast):
        return None, None, None
    kernel = "depthwise_data_gradient" if layout.is_depthwise else "difference_data_gradient"
    config = call.config(kernel, needs_contrast)
    # The gradient of a contrast is float32, mostly, which products in half precision would fall short of.
    dtype = torch.float32 if needs_contrast else call.input.dtype
    dinput = torch.empty_like(call.input) if needs.input else None
    if maps is not None:
        return _with_maps(call, grad, maps, dtype, dinput, needs._replace(contrast=needs_contrast), config)
    dguidance = torch.empty_like(call.guidance) if needs.guidance else None
    if layout.reads_copies(kernel, config, needs_contrast):
        fill = _fill_by_copies if layout.is_depthwise else _fill
        fill(call.in_pairs, grad, None, dtype, Gradients(dinput, dguidance), config)
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
    layout = call.layout
    images, _, rows, columns = call.input.shape
    edges = None
    if needs.guidance or needs.contrast:
        blocks = layout.groups * cdiv(layout.channels, config.block_c)
        edges = call.input.new_empty((blocks, images, layout.taps - 1, rows, columns), dtype=torch.float32)
    _fill(call, grad, maps, dtype, Gradients(dinput, edges), config)
    if edges is None:
        return dinput, None, None
    dguidance, sums = similarity.backward(
        edges[0] if edges.shape[0] == 1 else edges.sum(0),
        call.guidance,
        call.contrast,
        layout.options,
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


def _fill_by_copies(
    pairs: DifferenceCall,
    grad: Tensor,
    maps: Tensor | None,
    dtype: torch.dtype,
    gradients: Gradients,
    config: KernelConfig,
) -> None:
    """The same as :func:`_fill` where the kernel writes packed gradients only: by way of copies that lie so."""
    copies = Gradients(
        *(
            None if gradient is None else torch.empty_like(pairs.input, memory_format=torch.channels_last)
            for gradient in gradients[:2]
        )
    )
    _fill(pairs, grad, maps, dtype, copies, config)
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
) -> None:
    """Fill the gradients that are there, strip by strip, from products of this dtype."""
    layout = call.layout
    if layout.is_depthwise and config.pairs:
        paired_depthwise.fill_data_gradients(call, grad, gradients.input, gradients.guidance, config)
        return
    if layout.is_depthwise:
        images, _, rows, _ = call.input.shape
        whole = Strip(0, images, 0, rows, 0, layout.output_size[0])
        _gather(call, None, grad, None, gradients, whole, config, layout.geometry())
        return
    kernel = layout.products_kernel(grad.stride(1) == 1)
    places = Places.of(call, kernel)
    geometry = {**layout.geometry(), **places.geometry()}
    for cut, products in products_of_strips(call, grad, dtype, places, config.block_h, call.config(kernel)):
        if config.pairs:
            _gather_pairs(call, products, gradients, cut, config, geometry, places.edges)
        else:
            _gather(call, products, None, maps, gradients, cut, config, geometry, places.edges)


def _gather(
    call: DifferenceCall,
    products: Tensor | None,
    grad: Tensor | None,
    maps: Tensor | None,
    gradients: Gradients,
    cut: Strip,
    config: KernelConfig,
    geometry: dict[str, Any],
    edges: bool = False,
) -> None:
    """The gathering pass over a strip, one channel at a time: of products, or of the gradient of a depthwise output."""
    layout = call.layout
    images = slice(cut.first_image, cut.first_image + cut.images)
    source = call.guidance if maps is None else maps
    du, dv, sums = gradients
    if maps is not None and dv is not None:
        dv = dv[0]
    tiles = count_tiles(cut.images, cut.rows, call.input.shape[3], config)
    if sums is not None:
        # Tiles are counted image by image, row by row: those before this strip have theirs in front.
        before = count_tiles(cut.first_image, call.input.shape[2], call.input.shape[3], config)
        before += count_tiles(1, cut.first_row, call.input.shape[3], config)
        sums = sums[before : before + tiles]

    def rest() -> Rest:
        hg, hh, hw, hc = (0, 0, 0, 0) if products is None else products.stride()
        addressed = [x for x in (gradients.input, dv, grad) if x is not None]
        constants = layout.constants(source, *addressed)
        constants["INT64"] |= products is not None and products.numel() >= 2**31
        return (tiles * cdiv(layout.channels, config.block_c), layout.groups), dict(
            N=call.input.shape[0],
            C=layout.channels,
            **geometry,
            first_row=cut.first_row,
            rows=cut.rows,
            first_output_row=cut.first_output_row,
            stride_hg=hg,
            h_strides=Strides(cut.output_rows * hh, hc, hh, hw),
            du_strides=strides_of(du),
            dv_strides=strides_of(dv),
            g_strides=strides_of(grad),
            u_strides=strides_of(call.input),
            v_strides=strides_of(source),
            **constants,
            MULTIPLIER=0 if grad is None else layout.multiplier,
            VECTOR=maps is not None,
            EDGES=edges,
            BLOCK_H=config.block_h,
            BLOCK_W=config.block_w,
            BLOCK_C=config.block_c,
        )

    tensors = dict(
        du_ptr=None if du is None else du[images],
        dv_ptr=None if dv is None else dv[images],
        contrast_sums_ptr=sums,
        h_ptr=products,
        gradient_ptr=grad,
        u_ptr=call.input[images],
        v_ptr=source[images],
        weight_ptr=None if grad is None else call.packed_weight(),
        contrast=contrast_of(call.contrast),
    )
    call.launch(
        kernel=difference_data_gradient_kernel,
        tensors=tensors,
        config=config,
        rest=rest,
        facts=(cut._replace(first_image=0), edges),
        tuned="depthwise_data_gradient" if layout.is_depthwise else "difference_data_gradient",
    )


def _gather_pairs(
    call: DifferenceCall,
    products: Tensor,
    gradients: Gradients,
    cut: Strip,
    config: KernelConfig,
    geometry: dict[str, Any],
    edges: bool,
) -> None:
    """The gathering pass over a strip, two channels at a time."""
    layout = call.layout
    images = slice(cut.first_image, cut.first_image + cut.images)
    du, dv, _ = gradients
    # Gradients of images that were copied lie as these did, and have no channels that were added.
    in_words = all(g is None or g.stride() == layout.input.strides for g in (du, dv))

    def rest() -> Rest:
        constants = {**geometry, **layout.constants()}
        del constants["INT64"]  # see DifferenceLayout.can_pair
        tiles = count_tiles(cut.images, cut.rows, call.input.shape[3], config)
        return (tiles * cdiv(layout.channels, config.block_c),), dict(
            C=layout.channels,
            gradient_channels=next((g.shape[1] for g in (du, dv) if g is not None), layout.channels),
            first_row=cut.first_row,
            rows=cut.rows,
            first_output_row=cut.first_output_row,
            stride_hn=cut.output_rows * products.stride(1) // 2,
            u_strides=layout.word_strides,
            du_strides=_strides_in_words(du, in_words),
            dv_strides=_strides_in_words(dv, in_words),
            **constants,
            **call.pair_constants(),
            EDGES=edges,
            WRITE_WORDS=in_words,
            BLOCK_H=config.block_h,
            BLOCK_W=config.block_w,
        )

    tensors = dict(
        du_ptr=None if du is None else du[images],
        dv_ptr=None if dv is None else dv[images],
        h_ptr=products,
        u_ptr=call.input[images],
        v_ptr=call.guidance[images],
        contrast=contrast_of(call.contrast),
    )
    call.launch(
        kernel=paired_data_gradient_kernel,
        tensors=tensors,
        config=config,
        rest=rest,
        facts=(cut._replace(first_image=0), edges),
        tuned="difference_data_gradient",
    )


def _strides_in_words(gradient: Tensor | None, in_words: bool) -> Strides:
    """The strides of a gradient of a half type, in words of two numbers where it is written in those."""
    return Strides(*(stride // (2 if in_words else 1) for stride in strides_of(gradient)))
