"""The five steps of ``nn.SyncBatchNorm`` that PyTorch has on GPUs only, for a CPU.

PyTorch refuses SyncBatchNorm there. With these steps, in float64 and from their definitions, its own code for
everything between the ranks runs on gloo, so that what a network's norms are converted to can be tested without a GPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor

PLACES = (0, 2, 3)


def per_channel(x: Tensor) -> Tensor:
    return x.view(-1, 1, 1)


def stats(input: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return input.mean(PLACES), (input.var(PLACES, correction=0) + eps).rsqrt()


def gather_stats(input, mean, invstd, running_mean, running_var, momentum, eps, counts):
    counts = counts.view(-1, 1)
    total = counts.sum()
    whole = (counts * mean).sum(0) / total
    variance = (counts * (invstd**-2 - eps + (mean - whole) ** 2)).sum(0) / total
    running_mean.mul_(1 - momentum).add_(momentum * whole)
    running_var.mul_(1 - momentum).add_(momentum * variance * total / (total - 1))
    return whole, (variance + eps).rsqrt()


def element(input, weight, bias, mean, invstd, eps):
    return (input - per_channel(mean)) * per_channel(invstd * weight) + per_channel(bias)


def backward_reduce(grad, input, mean, invstd, weight, by_input, by_weight, by_bias):
    products = (grad * (input - per_channel(mean))).sum(PLACES)
    return grad.sum(PLACES), products, products * invstd, grad.sum(PLACES)


def backward_element(grad, input, mean, invstd, weight, sums, products, counts):
    total = counts.sum()
    centred = (input - per_channel(mean)) * per_channel(invstd**2 * products / total)
    return (grad - per_channel(sums / total) - centred) * per_channel(invstd * weight)


@contextmanager
def batch_norm_steps_on_a_cpu() -> Iterator[None]:
    library = torch.library.Library("aten", "IMPL")
    for name, step in (
        ("batch_norm_stats", stats),
        ("batch_norm_gather_stats_with_counts", gather_stats),
        ("batch_norm_elemt", element),
        ("batch_norm_backward_reduce", backward_reduce),
        ("batch_norm_backward_elemt", backward_element),
    ):
        library.impl(name, step, "CPU")
    # SyncBatchNorm takes devices of a third party besides GPUs.
    with mock.patch("torch._C._get_privateuse1_backend_name", return_value="cpu"):
        yield
    library._destroy()
