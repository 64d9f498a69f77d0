"""Whether and how a block runs fused: as one kernel in evaluation; in training statistics come with the response.

Fusing is for the Triton path. What is fused here has the same parameters, buffers and results as its parts one after
the other, which run wherever this file says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import _has_any_global_hook

from sdn_triton import tracing
from sdn_triton.backend import Decision, is_recording, note
from sdn_triton.functional import feature_fusion, padded
from sdn_triton.modules.difference_conv import SemanticDifferenceConv2d
from sdn_triton.modules.fusion import FeatureFusion, frozen_statistics, track
from sdn_triton.normalisation import Statistics, merged
from sdn_triton.ops.autocast import autocast_dtype, cast
from sdn_triton.ops.block import block
from sdn_triton.ops.moments import moments
from sdn_triton.ops.resize import resized, size_of
from sdn_triton.options import PADDED_BEFORE, BlockOptions
from sdn_triton.remembered import difference_options
from sdn_triton.tracing import is_transformed

if TYPE_CHECKING:
    from sdn_triton.modules.sdn import SDN

NORMALISATIONS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def forward(sdn: SDN, input: Tensor, guidance: Tensor) -> Tensor:
    """The block for guidance of any size: fused where that is possible."""
    if not _is_for_triton(sdn, input):
        return _by_parts(sdn, input, guidance)
    obstacle = why_not(sdn, input, guidance)
    if obstacle is not None:
        if not torch.compiler.is_compiling() and is_recording():
            note(Decision(block.name, "by parts", obstacle))
        return _by_parts(sdn, input, guidance)
    dtype = autocast_dtype(input)
    if dtype is None:
        return _fused(sdn, input, guidance, None)
    with torch.autocast(input.device.type, enabled=False):
        input, guidance = cast(dtype, input, guidance)
        return _fused(sdn, input, guidance, dtype)


def why_not(sdn: SDN, input: Tensor, guidance: Tensor) -> str | None:
    """What keeps a block from being fused; None if nothing does. Both paths of an operator can be fused."""
    if tracing.decomposing or is_transformed():
        return "its parts are what is transformed"
    if not all(map(tracing.is_ordinary, (input, guidance, sdn.sdc.weight, sdn.fusion.weight))):
        return "its tensors are no ordinary ones"
    norm = sdn.fusion.norm
    parts = (sdn.sdc, SemanticDifferenceConv2d), (sdn.fusion, FeatureFusion)
    if not all(_is_untouched(module, kind) for module, kind in parts):
        return "one of its parts was replaced, or has hooks"
    if type(norm) not in NORMALISATIONS or not _is_untouched(norm, type(norm)):
        return f"its normalisation is no plain batch normalisation but {type(norm).__name__}, or has hooks"
    if (
        sdn.fusion.activation != "relu"
        or not input.dim() == guidance.dim() == 4
        or 0 in (*input.shape, *guidance.shape)
    ):
        return "only images in batches, not empty, and relu are fused"
    if not _fit(sdn, input, guidance):
        return "its parameters differ from the features in dtype, device or channels"
    if not uses_running_statistics(norm):
        return None
    if _is_recorded(sdn, input, guidance):
        return "gradients are recorded, and the normalisation is frozen: it is part of the fusion as it is"
    return None if sdn.sdc.groups == 1 else "a response in groups is not fused"


def uses_running_statistics(norm: nn.Module) -> bool:
    """Whether a normalisation uses the statistics that it has rather than those of its input."""
    return not norm.training and norm.running_var is not None


def _fused(sdn: SDN, input: Tensor, guidance: Tensor, dtype: torch.dtype | None) -> Tensor:
    """With autocast off; ``dtype`` is the one that it asked for."""
    sdc, fusion = sdn.sdc, sdn.fusion
    norm: Any = fusion.norm
    weight, bias, fusion_weight, fusion_bias = (
        cast(dtype, sdc.weight, sdc.bias, fusion.weight, fusion.bias)
        if dtype is not None
        else (sdc.weight, sdc.bias, fusion.weight, fusion.bias)
    )
    contrast = sdc.current_contrast()
    if sdc.padding_mode in PADDED_BEFORE:
        guidance = resized(guidance, size_of(input))
    same_size = guidance[:, :, :1, :1].expand(-1, -1, *size_of(input))  # for the checks; it takes no memory
    options = difference_options(
        input, same_size, weight, bias, sdc.stride, sdc.padding, sdc.dilation, sdc.groups,
        sdc.padding_mode, sdc.diffusivity, contrast, sdc.similarity, sdc.backend,
    )  # fmt: skip
    wide_input, wide_guidance, options = padded(input, guidance, sdc.padding_mode, options)
    if uses_running_statistics(norm):
        mean, variance, gamma, beta, eps = frozen_statistics(norm)
        arguments = wide_input, wide_guidance, weight, bias, contrast, mean, variance, gamma, beta
        z: Tensor = block((*arguments, fusion_weight, fusion_bias), BlockOptions(options, eps), sdc.backend)
        return z
    response, mean, variance = moments((wide_input, wide_guidance, weight, bias, contrast), options, sdc.backend)
    scale, shift = batch_statistics(norm, response, mean, variance).scale_and_shift()
    return feature_fusion(input, response, fusion_weight, fusion_bias, scale=scale, shift=shift, backend=fusion.backend)


def batch_statistics(norm: _BatchNorm, response: Tensor, mean: Tensor, variance: Tensor) -> Statistics:
    """What a normalisation does with the statistics of its input, which it keeps track of; those of all ranks.

    Raises:
        ValueError: there is one value a channel, as ``nn.BatchNorm2d`` does.
    """
    count: Tensor | float = response.numel() // response.shape[1]
    group = _group_of(norm)
    if group is not None:
        mean, variance, count = merged(mean, variance, int(count), group)
    elif count == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {response.size()}")
    if norm.training and norm.running_mean is not None:
        track(norm, mean.detach(), variance.detach(), count)
    return Statistics(mean, variance, norm.weight, norm.bias, norm.eps)


def _group_of(norm: _BatchNorm) -> dist.ProcessGroup | None:
    """The ranks that a normalisation shares its statistics with, if there are others."""
    if not isinstance(norm, nn.SyncBatchNorm) or not norm.training or not dist.is_initialized():
        return None
    group: dist.ProcessGroup | None = norm.process_group or dist.group.WORLD
    return group if group is not None and group.size() > 1 else None


def _by_parts(sdn: SDN, input: Tensor, guidance: Tensor) -> Tensor:
    if guidance.shape[-2:] != input.shape[-2:]:
        guidance = F.interpolate(guidance, size=input.shape[-2:], mode="bilinear", align_corners=False)
    output: Tensor = sdn.fusion(input, sdn.sdc(input, guidance))
    return output


def _is_for_triton(sdn: SDN, input: Tensor) -> bool:
    backend = sdn.sdc.backend
    return backend == sdn.fusion.backend and (backend == "triton" or (backend == "auto" and input.is_cuda))


def _is_untouched(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling the module is calling the forward of its class, and nothing else."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return type(module) is kind and not any(hooks) and "forward" not in vars(module) and not _has_any_global_hook()


def _fit(sdn: SDN, input: Tensor, guidance: Tensor) -> bool:
    """Whether the weights of the parts go with the features; what is wrong with others the parts themselves say."""
    first, second = sdn.sdc.weight, sdn.fusion.weight
    if not input.device == first.device == second.device or second.shape[1] != input.shape[1] + first.shape[0]:
        return False
    return autocast_dtype(input) is not None or input.dtype == guidance.dtype == first.dtype == second.dtype


def _is_recorded(sdn: SDN, input: Tensor, guidance: Tensor) -> bool:
    if not torch.is_grad_enabled():
        return False
    return input.requires_grad or guidance.requires_grad or any(p.requires_grad for p in sdn.parameters())
