"""Batch normalisation in closed form: what one with given statistics does to a response, and statistics of ranks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Statistics(NamedTuple):
    """A normalisation ``weight (y - mean) / sqrt(variance + eps) + bias``, one number a channel; no ``weight`` is 1."""

    mean: Tensor
    variance: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def scale(self) -> Tensor:
        """``weight / sqrt(variance + eps)``, in float32 or wider."""
        wide = torch.float64 if self.variance.dtype == torch.float64 else torch.float32
        scale = (self.variance.to(wide) + self.eps).rsqrt()
        return scale if self.weight is None else scale * self.weight.to(wide)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The same as ``scale y + shift``, in float32 or wider."""
        scale = self.scale()
        shift = -self.mean.to(scale.dtype) * scale
        return scale, shift if self.bias is None else shift + self.bias.to(scale.dtype)


def merged(mean: Tensor, variance: Tensor, count: int, group: dist.ProcessGroup) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and count ``[]`` of the values of all ranks, of which this one has ``count``; differentiable."""
    found: tuple[Tensor, Tensor, Tensor] = _Merged.apply(mean, variance, count, group)
    return found


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, variance: Tensor, count: int, group: dist.ProcessGroup
    ) -> tuple[Tensor, Tensor, Tensor]:
        own = torch.stack((mean, variance, torch.full_like(mean, count)))
        gathered = [torch.empty_like(own) for _ in range(group.size())]
        dist.all_gather(gathered, own, group=group)
        means, variances, counts = torch.stack(gathered).unbind(1)
        total = counts.sum(0)
        merged_mean = (counts * means).sum(0) / total
        merged_variance = (counts * (variances + (means - merged_mean).square())).sum(0) / total
        ctx.group = group
        ctx.save_for_backward(mean - merged_mean, count / total)
        ctx.mark_non_differentiable(total)
        return merged_mean, merged_variance, total[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_mean: Tensor, by_variance: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Every rank's loss depends on the merged statistics: their derivatives are summed before they are shared."""
        away, share = ctx.saved_tensors
        both = torch.stack((by_mean, by_variance))
        dist.all_reduce(both, group=ctx.group)
        # The merged mean is where the merged variance has no slope.
        return share * (both[0] + 2 * away * both[1]), share * both[1], None, None
