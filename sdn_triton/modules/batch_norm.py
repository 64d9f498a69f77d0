"""What a batch normalisation layer does to a response, in closed form: by the statistics it has, or the batch's."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sdn_triton.dispatch_state import is_untouched
from sdn_triton.normalisation import Statistics

PLAIN = (nn.BatchNorm2d, nn.SyncBatchNorm)


def is_plain(norm: nn.Module) -> bool:
    """Whether calling the layer is batch normalisation and nothing else, so that its closed form may stand for it."""
    return type(norm) in PLAIN and is_untouched(norm, type(norm))


def uses_running_statistics(norm: nn.Module) -> bool:
    """Whether a normalisation uses the statistics that it has rather than those of its input."""
    return not norm.training and norm.running_var is not None


def frozen_statistics(norm: _BatchNorm) -> Statistics:
    """What a batch normalisation does with its running statistics."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return Statistics(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)


def batch_statistics(
    norm: _BatchNorm, mean: Tensor, variance: Tensor, count: Tensor | float, left_out: Tensor | None = None
) -> Statistics:
    """What a normalisation does with the statistics of ``count`` values a channel, which it keeps track of.

    ``left_out`` is a bias ``[R]`` that the values should have had: it changes the mean that is tracked and nothing
    else, so that its gradient is zero.
    """
    tracked = mean.detach() if left_out is None else mean.detach() + left_out.detach()
    track(norm, tracked, variance.detach(), count)
    if left_out is not None:
        mean = mean + 0.0 * left_out  # known to autograd, and not a number where the bias is none
    return Statistics(mean, variance, norm.weight, norm.bias, norm.eps)


def group_of(norm: Any) -> dist.ProcessGroup | None:
    """The ranks that a normalisation shares its statistics with, if there are others."""
    if not isinstance(norm, nn.SyncBatchNorm) or not norm.training or not dist.is_initialized():
        return None
    group: dist.ProcessGroup | None = norm.process_group or dist.group.WORLD
    return group if group is not None and group.size() > 1 else None


@torch.no_grad()
def track(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: Tensor | float) -> None:
    """Update the running statistics with those of ``count`` values as ``nn.BatchNorm2d`` does: unbiased variance."""
    if not (norm.training and norm.track_running_stats):
        return
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    if norm.running_mean is None or norm.running_var is None:
        return
    factor: Tensor | float = 0.0
    if norm.momentum is not None:
        factor = norm.momentum
    elif norm.num_batches_tracked is not None:
        factor = 1 / norm.num_batches_tracked.to(norm.running_mean.dtype)
    unbiased = variance * (count / (count - 1))
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), factor)
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), factor)
