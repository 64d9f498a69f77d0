"""Launches of the depthwise kernels that take channels in words."""

from __future__ import annotations

import torch
from torch import Tensor

from sdn_triton.kernels.paired_depthwise import paired_depthwise_forward_kernel
from sdn_triton.kernels.paired_depthwise_gradients import (
    paired_depthwise_data_gradient_kernel,
    paired_depthwise_weight_gradient_kernel,
)
from sdn_triton.launch.difference_call import DifferenceCall
from sdn_triton.launch.plan import Rest
from sdn_triton.launch.run import WORD_BYTES, cdiv, count_tiles, image_strides
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.defaults import depthwise_tap_pairs

QUAD = 4
"""Words that a thread loads at once; the kernels take strides in such units."""


def forward(call: DifferenceCall, output: Tensor, moments: Tensor | None, config: KernelConfig) -> None:
    """Fill the output, and mean and squared deviations of its tiles."""
    tensors = dict(
        y_ptr=output,
        moments_ptr=moments,
        u_ptr=call.input,
        v_ptr=call.guidance,
        weight_ptr=_weight(call, config.block_o),
        bias_ptr=None if call.bias is None else call.bias.contiguous(),
        contrast_ptr=call.contrast_tensor,
    )

    def rest() -> Rest:
        return (count_tiles(output.shape[0], *call.output_size, config) * cdiv(call.outputs, config.block_o),), dict(
            O=call.outputs,
            **image_strides("y", output),
            **_arguments(call, config),
            HAS_BIAS=call.bias is not None,
            HAS_MOMENTS=moments is not None,
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
            **_quad_strides("du", written),
            **_quad_strides("g", grad),
            **_arguments(call, config),
            NEEDS_U=dinput is not None,
            NEEDS_V=dguidance is not None,
            BLOCK_C=config.block_c,
        )

    tensors = dict(
        du_ptr=dinput,
        dv_ptr=dguidance,
        gradient_ptr=grad,
        u_ptr=call.input,
        v_ptr=call.guidance,
        weight_ptr=_weight(call, config.block_c),
        contrast_ptr=call.contrast_tensor,
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

    def rest() -> Rest:
        pairs = depthwise_tap_pairs(config, call.taps)
        blocks = cdiv(call.outputs, config.block_o), call.taps // 2 // pairs if dweight is not None else 1
        return (*blocks, config.splits), dict(
            tiles=count_tiles(grad.shape[0], *call.output_size, config),
            O=call.outputs,
            **_quad_strides("g", grad),
            **_arguments(call, config),
            NEEDS_WEIGHT=dweight is not None,
            NEEDS_BIAS=dbias is not None,
            TAP_PAIRS=pairs,
            BLOCK_O=config.block_o,
        )

    tensors = dict(
        dweight_ptr=dweight,
        dbias_ptr=dbias,
        gradient_ptr=grad,
        u_ptr=call.input,
        v_ptr=call.guidance,
        contrast_ptr=call.contrast_tensor,
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
    constants = call.constants()
    del constants["INT64"]  # see DifferenceCall.can_pair
    return {
        **call.geometry(),
        **_quad_strides("u", call.input),
        **call.contrast_numbers(),
        **constants,
        **call.pair_constants(),
        "BLOCK_H": config.block_h,
        "BLOCK_W": config.block_w,
    }


def _quad_strides(name: str, image: Tensor) -> dict[str, int]:
    n, _, h, w = (stride * image.element_size() // (QUAD * WORD_BYTES) for stride in image.stride())
    return {f"stride_{name}n": n, f"stride_{name}h": h, f"stride_{name}w": w}


def _weight(call: DifferenceCall, block: int) -> Tensor:
    """The weight as [taps, quads, 2, 4] in float32: of four lower, then of four upper channels; quads fill blocks."""
    taps = call.weight.flatten(1).unflatten(0, (-1, QUAD, 2)).permute(3, 0, 2, 1)
    quads = cdiv(call.outputs, block) * block // (2 * QUAD)
    make = torch.empty if quads == taps.shape[1] else torch.zeros
    weight = make((taps.shape[0], quads, 2, QUAD), dtype=torch.float32, device=taps.device)
    weight[:, : taps.shape[1]].copy_(taps)
    return weight
