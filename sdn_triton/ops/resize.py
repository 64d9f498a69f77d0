"""Guidance of another size: bilinear interpolation whose gradient repeats bit for bit on the Triton path, too."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sdn_triton.ops.path import path_module
from sdn_triton.tracing import are_plain, in_memory

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
    if path == "triton" and not torch.is_grad_enabled() and are_plain((grad, image)) and not grad.is_meta:
        found: Tensor = path_module(path, "resize").gradient(*in_memory((grad, image)))
        return found
    shape = list(image.shape)
    return torch.ops.aten.upsample_bilinear2d_backward(grad, list(size_of(grad)), shape, False, None, None)
