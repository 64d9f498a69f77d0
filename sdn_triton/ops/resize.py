"""Guidance of another size: bilinear interpolation whose gradient repeats bit for bit on the Triton path, too."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sdn_triton.eager.layouts import compute_dtype
from sdn_triton.ops.path import launched_gradient
from sdn_triton.outputs import memory_format

Size = tuple[int, int]


def size_of(image: Tensor) -> Size:
    """Height and width."""
    return image.shape[2], image.shape[3]


def resized(image: Tensor, size: Size) -> Tensor:
    """``image`` at another height and width, bilinear, ``align_corners=False``; itself where it has that size."""
    return image if size_of(image) == size else F.interpolate(image, size=size, mode="bilinear", align_corners=False)


def resized_gradient(grad: Tensor, image: Tensor, path: str) -> Tensor:
    """The gradient of ``image`` from that of ``resized(image, size)``, in the dtype of ``image``.

    PyTorch's own adds with atomics on a GPU, so that its last bits differ from run to run.
    """
    if size_of(grad) == size_of(image):
        return grad
    launched = launched_gradient(path, "resize", grad, image)
    if launched is not None:
        return launched
    if grad.is_cuda and torch.are_deterministic_algorithms_enabled():
        return repeatable_gradient(grad, image)
    shape = list(image.shape)
    return torch.ops.aten.upsample_bilinear2d_backward(grad, list(size_of(grad)), shape, False, None, None)


def repeatable_gradient(grad: Tensor, image: Tensor) -> Tensor:
    """The same gradient by operations that add up in a fixed order under deterministic algorithms.

    PyTorch's operator for it is an error there on a GPU; ``F.interpolate`` avoids that in the same way.
    """
    total = grad.to(compute_dtype(grad))
    for dim in (2, 3):
        size, large_size = image.shape[dim], total.shape[dim]
        low, high, share = mixture(torch.arange(large_size, device=grad.device), size, large_size, total.dtype)
        share = share.view(-1, 1) if dim == 2 else share
        zeros = total.new_zeros([size if d == dim else total.shape[d] for d in range(4)])
        total = zeros.index_add(dim, low, total * (1 - share)).index_add(dim, high, total * share)
    return total.to(image.dtype, memory_format=memory_format(grad))


def mixture(lines: Tensor, size: int, large_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """What ``F.interpolate`` mixes each of these lines of: two lines of the ``size`` that there are, and a share.

    ``lines`` are numbers of rows, or of columns, among ``large_size``; the share is that of the second line.
    """
    source = (size / large_size * (lines.to(dtype) + 0.5) - 0.5).clamp(min=0)
    low = source.long().clamp(max=size - 1)
    return low, (low + 1).clamp(max=size - 1), source - low
