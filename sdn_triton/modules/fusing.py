"""Whether and how a block runs fused: as one kernel in evaluation; in training statistics come with the response.

Fusing is for the Triton path. What is fused here has the same parameters, buffers and results as its parts one after
the other, which run wherever this file says so.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sdn_triton import dispatch_state
from sdn_triton.backend import Decision, is_recording, note, prefers_triton
from sdn_triton.dispatch_state import is_transformed, is_untouched
from sdn_triton.functional import feature_fusion, padded
from sdn_triton.modules import batch_norm
from sdn_triton.modules.difference_conv import SemanticDifferenceConv2d
from sdn_triton.modules.fusion import FeatureFusion
from sdn_triton.normalisation import merged
from sdn_triton.ops.autocast import autocast_dtype, cast
from sdn_triton.ops.block import block
from sdn_triton.ops.moments import moments
from sdn_triton.ops.resize import resized, size_of
from sdn_triton.options import PADDED_BEFORE, BlockArguments, BlockOptions, DifferenceArguments, DifferenceOptions
from sdn_triton.remembered import difference_options


class Parts(NamedTuple):
    """Those of a block."""

    sdc: SemanticDifferenceConv2d
    fusion: FeatureFusion


def forward(parts: Parts, input: Tensor, guidance: Tensor) -> Tensor:
    """The block for guidance of any size: fused where that is possible."""
    if not _is_for_triton(parts, input):
        return _by_parts(parts, input, guidance)
    obstacle = why_not(parts, input, guidance)
    if obstacle is not None:
        if not torch.compiler.is_compiling() and is_recording():
            note(Decision(block.name, "by parts", obstacle))
        return _by_parts(parts, input, guidance)
    dtype = autocast_dtype(input)
    if dtype is None:
        return _fused(parts, input, guidance, None)
    with torch.autocast(input.device.type, enabled=False):
        input, guidance = cast(dtype, input, guidance)
        return _fused(parts, input, guidance, dtype)


def why_not(parts: Parts, input: Tensor, guidance: Tensor) -> str | None:
    """What keeps a block from being fused; None if nothing does. Both paths of an operator can be fused."""
    if dispatch_state.takes_plain_form() or is_transformed():
        return "its parts are what is transformed"
    if not (is_untouched(parts.sdc, SemanticDifferenceConv2d) and is_untouched(parts.fusion, FeatureFusion)):
        return "one of its parts was replaced, or has hooks"
    if not all(map(dispatch_state.is_ordinary, (input, guidance, parts.sdc.weight, parts.fusion.weight))):
        return "its tensors are no ordinary ones"
    norm = parts.fusion.norm
    if not batch_norm.is_plain(norm):
        return f"its normalisation is no plain batch normalisation but {type(norm).__name__}, or has hooks"
    if (
        parts.fusion.activation != "relu"
        or not input.dim() == guidance.dim() == 4
        or 0 in (*input.shape, *guidance.shape)
    ):
        return "only images in batches, not empty, and relu are fused"
    if not _fit(parts, input, guidance):
        return "its parts do not fit the features in dtype, device or shape"
    if not batch_norm.uses_running_statistics(norm):
        return None
    if _is_recorded(parts, input, guidance):
        return "gradients are recorded, and the normalisation is frozen: it is part of the fusion as it is"
    return None if parts.sdc.groups == 1 else "a response in groups is not fused"


def _fused(parts: Parts, input: Tensor, guidance: Tensor, dtype: torch.dtype | None) -> Tensor:
    """With autocast off; ``dtype`` is the one that it asked for."""
    sdc, fusion = parts
    weights: Any = sdc.weight, sdc.bias, fusion.weight, fusion.bias
    if dtype is not None:
        weights = cast(dtype, *weights)
    weight, bias, fusion_weight, fusion_bias = weights
    contrast = sdc.current_contrast()
    if sdc.padding_mode in PADDED_BEFORE:
        guidance = resized(guidance, size_of(input))
    same_size = guidance[:, :, :1, :1].expand(-1, -1, *size_of(input))  # for the checks; it takes no memory
    options = difference_options(
        input, same_size, weight, bias, sdc.stride, sdc.padding, sdc.dilation, sdc.groups,
        sdc.padding_mode, sdc.diffusivity, contrast, sdc.similarity, sdc.backend,
    )  # fmt: skip
    wide_input, wide_guidance, options = padded(input, guidance, sdc.padding_mode, options)
    difference = DifferenceArguments(wide_input, wide_guidance, weight, bias, contrast)
    norm: Any = fusion.norm
    if batch_norm.uses_running_statistics(norm):
        mean, variance, gamma, beta, eps = batch_norm.frozen_statistics(norm)
        arguments = BlockArguments(*difference, mean, variance, gamma, beta, fusion_weight, fusion_bias)
        z: Tensor = block(arguments, BlockOptions(options, eps), sdc.backend)
        return z
    # Batch normalisation takes the convolution's bias away: without it the response keeps its digits.
    response, scale, shift = _normalised(parts, difference._replace(bias=None), options)
    return feature_fusion(input, response, fusion_weight, fusion_bias, scale=scale, shift=shift, backend=fusion.backend)


def _normalised(
    parts: Parts, difference: DifferenceArguments, options: DifferenceOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """The response in training, and its normalisation by the statistics of the batch as scale and shift.

    Raises:
        ValueError: the statistics would be those of one value a channel, as ``nn.BatchNorm2d`` raises.
    """
    norm: Any = parts.fusion.norm
    response, mean, variance = moments(difference, options, parts.sdc.backend)
    values = response.numel() // response.shape[1]
    count: Tensor | float = values
    group = batch_norm.group_of(norm)
    if group is not None:
        mean, variance, count = merged(mean, variance, values, group)
    elif values == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {response.size()}")
    statistics = batch_norm.batch_statistics(norm, mean, variance, count, parts.sdc.bias)
    return response, *statistics.scale_and_shift()


def _by_parts(parts: Parts, input: Tensor, guidance: Tensor) -> Tensor:
    if not dispatch_state.quietly(_are_as_large, guidance, input):
        guidance = F.interpolate(guidance, size=input.shape[-2:], mode="bilinear", align_corners=False)
    output: Tensor = parts.fusion(input, parts.sdc(input, guidance))
    return output


def _are_as_large(guidance: Tensor, input: Tensor) -> bool:
    return guidance.shape[-2:] == input.shape[-2:]


def _is_for_triton(parts: Parts, input: Tensor) -> bool:
    """Whether the parts ask for it with one voice; what was put in the place of one may have none."""
    backends = {part.backend for part in parts if hasattr(part, "backend")}
    return len(backends) == 1 and prefers_triton(backends.pop(), input)


def _fit(parts: Parts, input: Tensor, guidance: Tensor) -> bool:
    """Whether parameters and features go together as those of a block do; the parts themselves say what is wrong."""
    sdc: Any = parts.sdc  # PyTorch's stubs allow its padding to be a name
    fusion = parts.fusion
    first, second = sdc.weight, fusion.weight
    responses, outputs = first.shape[0], second.shape[0]
    return (
        sdc.stride == (1, 1)
        and all(2 * p == d * (k - 1) for p, d, k in zip(sdc.padding, sdc.dilation, sdc.kernel_size))
        and second.shape == (outputs, input.shape[1] + responses, 1, 1)
        and (fusion.bias is None or fusion.bias.shape == (outputs,))
        and all(x is None or x.shape == (responses,) for x in _vectors(fusion.norm))
        and input.device == first.device == second.device
        and (autocast_dtype(input) is not None or input.dtype == guidance.dtype == first.dtype == second.dtype)
    )


def _is_recorded(parts: Parts, input: Tensor, guidance: Tensor) -> bool:
    """Whether anything that a call reads asks for its gradient: not all of it need be a parameter of a module."""
    if not torch.is_grad_enabled():
        return False
    sdc, fusion = parts.sdc, parts.fusion
    contrast = sdc.log_contrast if sdc.learn_contrast else sdc.contrast
    norm: Any = fusion.norm
    read = (input, guidance, sdc.weight, sdc.bias, contrast, fusion.weight, fusion.bias, *_vectors(norm))
    return any(isinstance(x, Tensor) and x.requires_grad for x in read)


def _vectors(norm: Any) -> tuple[Tensor | None, ...]:
    """What a normalisation has for each channel."""
    return norm.weight, norm.bias, norm.running_mean, norm.running_var
