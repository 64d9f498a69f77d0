"""Batch normalisation in closed form: what one with given statistics does to a response, and statistics of ranks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from sdn_triton.options import BlockArguments, BlockOptions


class Statistics(NamedTuple):
    """A normalisation ``weight (y - mean) / sqrt(variance + eps) + bias``, one number a channel; no ``weight`` is 1."""

    mean: Tensor
    variance: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    @staticmethod
    def of_block(arguments: BlockArguments, options: BlockOptions) -> Statistics:
        """That of a block in evaluation."""
        a = arguments
        return Statistics(a.mean, a.variance, a.norm_weight, a.norm_bias, options.eps)

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


class Moments(NamedTuple):
    """Mean and (biased) variance of each channel, and of how many values."""

    mean: Tensor
    variance: Tensor
    values: Tensor


def moments(values: Tensor, group: dist.ProcessGroup) -> Moments:
    """Those of ``values [N, C, H, W]`` of all ranks of ``group`` together, in float32 or wider, with gradients."""
    return Moments(*_Moments.apply(values, group))


def merged(mean: Tensor, variance: Tensor, count: int, group: dist.ProcessGroup) -> Moments:
    """Those of the values of all ranks, of which this one has ``count`` a channel; with gradients.

    It sends what :func:`moments` sends: some ranks may call one and some the other.
    """
    return Moments(*_Merged.apply(mean, variance, count, group))


class _Moments(torch.autograd.Function):
    """``mean = sum x / n`` and ``variance = sum (x - mean)^2 / n`` of ``n`` values, merged from those of each rank."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor, Tensor]:
        wide = values.to(torch.promote_types(values.dtype, torch.float32))
        N, C, H, W = values.shape
        if wide.numel():
            own_variance, own_mean = torch.var_mean(wide, (0, 2, 3), correction=0)
        else:
            own_variance, own_mean = wide.new_zeros((2, C))
        mean, variance, count = _exchange(own_mean, own_variance, N * H * W, group)
        ctx.group = group
        ctx.save_for_backward(values, mean, count)
        ctx.mark_non_differentiable(count)
        return mean, variance, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_mean: Tensor, by_variance: Tensor, _: Tensor) -> tuple[Tensor, None]:
        """``dx = (dmean + 2 (x - mean) dvariance) / n``, with the derivatives that every rank has."""
        values, mean, count = ctx.saved_tensors
        both = _sum_over_ranks(by_mean, by_variance, ctx.group)
        offset, slope = (x.view(-1, 1, 1) for x in (both[0] / count, 2 * both[1] / count))
        return (values - mean.view(-1, 1, 1)).mul_(slope).add_(offset).to(values.dtype), None


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, own_mean: Tensor, own_variance: Tensor, own_count: int, group: dist.ProcessGroup
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance, count = _exchange(own_mean, own_variance, own_count, group)
        ctx.group = group
        ctx.save_for_backward(own_mean - mean, own_count / count)
        ctx.mark_non_differentiable(count)
        return mean, variance, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_mean: Tensor, by_variance: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """The merged mean is where the merged variance has no slope."""
        away, share = ctx.saved_tensors
        both = _sum_over_ranks(by_mean, by_variance, ctx.group)
        return share * (both[0] + 2 * away * both[1]), share * both[1], None, None


def _exchange(mean: Tensor, variance: Tensor, count: int, group: dist.ProcessGroup) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and count ``[C]`` of all ranks' values; one without values has a count of 0, and any mean."""
    own = torch.stack((mean, variance, torch.full_like(mean, count)))
    gathered = [torch.empty_like(own) for _ in range(group.size())]
    dist.all_gather(gathered, own, group=group)
    means, variances, counts = torch.stack(gathered).unbind(1)
    total = counts.sum(0)
    whole = (counts * means).sum(0) / total
    return whole, (counts * (variances + (means - whole).square())).sum(0) / total, total


def _sum_over_ranks(by_mean: Tensor, by_variance: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Every rank's loss depends on the statistics of all: ``[2, C]``, what each of them has by mean and variance."""
    both = torch.stack((by_mean, by_variance))
    dist.all_reduce(both, group=group)
    return both
