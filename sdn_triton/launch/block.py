"""The block in evaluation on the Triton path: one kernel where a tile holds all responses, two where that is faster."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sdn_triton.kernels.arguments import Normalisation, Ratio
from sdn_triton.kernels.block_forward import block_forward_kernel
from sdn_triton.kernels.paired_block_forward import paired_block_forward_kernel
from sdn_triton.launch import difference_conv, fusion
from sdn_triton.launch.difference_call import DifferenceCall
from sdn_triton.launch.image_layout import strides_of
from sdn_triton.launch.paired_weight import in_pairs
from sdn_triton.launch.plan import Rest
from sdn_triton.launch.run import as_factor, contrast_of, count_tiles, next_power, precision_of
from sdn_triton.normalisation import Statistics
from sdn_triton.options import BlockArguments, BlockOptions, FusionArguments
from sdn_triton.outputs import empty_output
from sdn_triton.tuning.configs import Configs, KernelConfig
from sdn_triton.tuning.defaults import FUSED_BYTES

NARROWEST = 16
"""The shortest side of a matrix product."""


def forward(arguments: BlockArguments, options: BlockOptions, configs: Configs | None = None) -> Tensor:
    """``z = K2 [u, relu(batch_norm(y))] + b2`` with ``y = SDC(u, v)``; guidance of another size is resized.

    ``configs`` overrides the default configuration of a kernel by its name.
    """
    call, config = _call(arguments, options, configs)
    statistics = Statistics.of_block(arguments, options)
    if not _holds(config, call):
        response = difference_conv.forward(
            arguments.difference._replace(guidance=call.guidance), options.difference, configs
        )
        scale, shift = statistics.scale_and_shift()
        return fusion.forward(_fusion(call, arguments, response, scale, shift), "relu", configs)
    output = empty_output(
        (call.input.shape[0], arguments.fusion_weight.shape[0], *call.layout.output_size), like=call.input
    )
    _fused(call, output, statistics, arguments.fusion_weight, arguments.fusion_bias, config)
    return output


def _call(
    arguments: BlockArguments, options: BlockOptions, configs: Configs | None
) -> tuple[DifferenceCall, KernelConfig]:
    """The call of the difference convolution and the configuration of the block's kernel.

    Guidance of another size is resized by the kernel as it reads, so that it is nowhere in memory. Where channels can
    be read packed that would take more instructions than all else (bench/NOTES.md): there, and where the kernel does
    not read the guidance itself or cannot hold all responses, it is resized before.
    """
    difference, size = arguments.difference, arguments.input.shape[2:]
    call = DifferenceCall.of(difference, options.difference, configs)
    if call.guidance.shape[2:] == size:
        return call, call.config("block_forward")
    alike = DifferenceCall.of(difference._replace(guidance=difference.input), options.difference, configs)
    config = alike.config("block_forward")
    if not (config.pairs or call.layout.uses_maps) and _holds(config, alike):
        return call, config
    guidance = F.interpolate(difference.guidance, size=size, mode="bilinear", align_corners=False)
    call = DifferenceCall.of(difference._replace(guidance=guidance), options.difference, configs)
    return call, call.config("block_forward")


def _holds(config: KernelConfig, call: DifferenceCall) -> bool:
    """Whether a tile of this configuration holds all responses, and two kernels would not be faster.

    They are where only the difference by itself takes channels in words, as in TF32 on Hopper: by the simulation the
    two take 413 clocks a pixel with 128 channels, the block's kernel at least 736 (64: 153 and 244).
    """
    fits = config.block_o >= call.layout.outputs
    return fits and (config.pairs or "block_forward" in call.configs or not call.config("difference_forward").pairs)


def _fusion(
    call: DifferenceCall,
    arguments: BlockArguments,
    response: Tensor,
    scale: Tensor,
    shift: Tensor,
) -> FusionArguments:
    """The fusion of a block in two parts, of the features at the centres of the outputs.

    Those are all features, or what was there before the image was padded.
    """
    (top, left), (rows, columns) = call.layout.options.origin, call.layout.output_size
    centres = call.input[:, :, top : top + rows, left : left + columns]
    return FusionArguments(centres, response, arguments.fusion_weight, arguments.fusion_bias, scale, shift)


def _fused(
    call: DifferenceCall,
    output: Tensor,
    statistics: Statistics,
    fusion_weight: Tensor,
    fusion_bias: Tensor | None,
    config: KernelConfig,
) -> None:
    maps = call.similarity_maps()
    if config.pairs:
        added = call.in_pairs.layout.channels - call.layout.channels
        if added:
            of_input, of_response = fusion_weight.split((call.layout.channels, call.layout.outputs), 1)
            fusion_weight = torch.cat((F.pad(of_input, (0, 0, 0, 0, 0, added)), of_response), 1)
        call = call.in_pairs
    layout = call.layout
    guidance = call.guidance if maps is None else maps
    tensors = dict(
        z_ptr=output,
        u_ptr=call.input,
        v_ptr=guidance,
        weight_ptr=in_pairs(call.weight, 1, config.block_o) if config.pairs else call.packed_weight(),
        bias_ptr=_contiguous(call.bias),
        contrast=contrast_of(call.contrast),
        norm=Normalisation(
            statistics.mean.contiguous(),
            statistics.variance.contiguous(),
            _contiguous(statistics.weight),
            _contiguous(statistics.bias),
            statistics.eps,
        ),
        fusion_weight_ptr=as_factor(fusion_weight, layout.arithmetic).contiguous(),
        fusion_bias_ptr=_contiguous(fusion_bias),
    )
    kernel = paired_block_forward_kernel if config.pairs else block_forward_kernel

    def rest() -> Rest:
        constants = layout.constants(output, guidance)
        if config.pairs:
            del constants["INT64"]  # see DifferenceLayout.can_pair
            n, _, h, w = layout.word_strides
            constants |= {"stride_un": n, "stride_uh": h, "stride_uw": w, **call.pair_constants()}
        else:
            constants |= {
                "u_strides": strides_of(call.input),
                "v_strides": strides_of(guidance),
                "HV": call.guidance.shape[2],
                "WV": call.guidance.shape[3],
                "ratio": Ratio(*(small / large for small, large in zip(call.guidance.shape[2:], call.input.shape[2:]))),
                "RESIZED": call.guidance.shape[2:] != call.input.shape[2:],
                "VECTOR": maps is not None,
                "PRECISION": precision_of(layout.arithmetic),
            }
        return (count_tiles(output.shape[0], *layout.output_size, config),), dict(
            C=layout.channels,
            R=layout.outputs,
            O=output.shape[1],
            **layout.geometry(),
            z_strides=strides_of(output),
            **constants,
            HAS_SPARE=config.block_o > layout.outputs,
            BLOCK_H=config.block_h,
            BLOCK_W=config.block_w,
            BLOCK_C=config.block_c,
            BLOCK_O=config.block_o,
            BLOCK_Z=max(NARROWEST, min(FUSED_BYTES // output.element_size(), next_power(output.shape[1]))),
        )

    call.launch(kernel=kernel, tensors=tensors, config=config, rest=rest, tuned="block_forward")


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()
