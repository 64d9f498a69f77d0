"""Launches of the depthwise kernels that take channels in words."""

from __future__ import annotations

import torch
from torch import Tensor

from sdn_triton.kernels import paired_depthwise as kernels
from sdn_triton.kernels.arguments import Strides
from sdn_triton.kernels.paired_depthwise import paired_depthwise_forward_kernel
from sdn_triton.kernels.paired_depthwise_gradients import (
    paired_depthwise_data_gradient_kernel,
    paired_depthwise_weight_gradient_kernel,
)
from sdn_triton.launch.difference_call import DifferenceCall
from sdn_triton.launch.image_layout import WORD_BYTES, strides_of
from sdn_triton.launch.plan import Rest
from sdn_triton.launch.run import cdiv, contrast_of, count_tiles
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.defaults import depthwise_tap_pairs

QUAD = kernels.QUAD.value
"""Words that a thread loads at once."""


def forward(call: DifferenceCall, output: Tensor, moments: Tensor | None, config: KernelConfig) -> None:
    """Fill the output, and mean and squared deviations of its tiles."""
    layout = call.layout
    tensors = dict(
        y_ptr=output,
        moments_ptr=moments,
        u_ptr=call.input,
        v_ptr=call.guidance,
        weight_ptr=_weight(call, config.block_o),
        bias_ptr=None if call.bias is None else call.bias.contiguous(),
        contrast=contrast_of(call.contrast),
    )

    def rest() -> Rest:
        return (
            count_tiles(output.shape[0], *layout.output_size, config) * cdiv(layout.outputs, config.block_o),
        ), dict(
            O=layout.outputs,
            y_strides=strides_of(output),
            **_arguments(call, config),
            BLOCK_O=config.block_o,
        )

    call.launch(
        kernel=paired_depthwise_forward_kernel, tensors=tensors, config=config, rest=rest, tuned="depthwise_forward"
    )


def fill_data_gradients(
    call: DifferenceCall, grad: Tensor, dinput: Tensor | None, dguidance: Tensor | None, config: KernelConfig
) -> None:
    """Fill the gradients of input and guidance that are there."""
    # Both gradients have the same strides, as input and guidance have.
    written = next(x for x in (dinput, dguidance) if x is not None)
    images, channels, rows, columns = written.shape

    def rest() -> Rest:
        return (count_tiles(images, rows, columns, config) * cdiv(channels, config.block_c),), dict(
            C=channels,
            du_quads=_quads(written),
            g_quads=_quads(grad),
            **_arguments(call, config),
            BLOCK_C=config.block_c,
        )

    tensors = dict(
        du_ptr=dinput,
        dv_ptr=dguidance,
        gradient_ptr=grad,
        u_ptr=call.input,
        v_ptr=call.guidance,
        weight_ptr=_weight(call, config.block_c),
        contrast=contrast_of(call.contrast),
    )
    call.launch(
        kernel=paired_depthwise_data_gradient_kernel,
        tensors=tensors,
        config=config,
        rest=rest,
        tuned="depthwise_data_gradient",
    )


def fill_weight_gradients(
    call: DifferenceCall, grad: Tensor, dweight: Tensor | None, dbias: Tensor | None, config: KernelConfig
) -> None:
    """Fill the parts of the gradients of weight and bias that are there."""
    layout = call.layout

    def rest() -> Rest:
        pairs = depthwise_tap_pairs(config, layout.taps)
        blocks = cdiv(layout.outputs, config.block_o), layout.taps // 2 // pairs if dweight is not None else 1
        return (*blocks, config.splits), dict(
            tiles=count_tiles(grad.shape[0], *layout.output_size, config),
            O=layout.outputs,
            g_quads=_quads(grad),
            **_arguments(call, config),
            TAP_PAIRS=pairs,
            BLOCK_O=config.block_o,
        )

    tensors = dict(
        dweight_ptr=dweight,
        dbias_ptr=dbias,
        gradient_ptr=grad,
        u_ptr=call.input,
        v_ptr=call.guidance,
        contrast=contrast_of(call.contrast),
    )
    call.launch(
        kernel=paired_depthwise_weight_gradient_kernel,
        tensors=tensors,
        config=config,
        rest=rest,
        tuned="depthwise_weight_gradient",
    )


def _arguments(call: DifferenceCall, config: KernelConfig) -> dict[str, object]:
    """What all three kernels are told alike."""
    constants = call.layout.constants()
    del constants["INT64"]  # see DifferenceLayout.can_pair
    return {
        **call.layout.geometry(),
        "u_quads": _quads(call.input),
        **constants,
        **call.pair_constants(),
        "BLOCK_H": config.block_h,
        "BLOCK_W": config.block_w,
    }


def _quads(image: Tensor) -> Strides:
    """The strides of an image whose channels lie together, in units of what a thread loads at once."""
    n, _, h, w = (stride * image.element_size() // (QUAD * WORD_BYTES) for stride in image.stride())
    return Strides(n, 1, h, w)


def _weight(call: DifferenceCall, block: int) -> Tensor:
    """The weight as [taps, quads, 2, 4] in float32: of four lower, then of four upper channels; quads fill blocks."""
    taps = call.weight.flatten(1).unflatten(0, (-1, QUAD, 2)).permute(3, 0, 2, 1)
    quads = cdiv(call.layout.outputs, block) * block // (2 * QUAD)
    make = torch.empty if quads == taps.shape[1] else torch.zeros
    weight = make((taps.shape[0], quads, 2, QUAD), dtype=torch.float32, device=taps.device)
    weight[:, : taps.shape[1]].copy_(taps)
    return weight
