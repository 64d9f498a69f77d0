"""One call or several: what ``torch.func.vmap`` does to an operator, and calls that take a batch image by image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Dims = Sequence[int | None]
"""Where each argument has the dimension that is mapped over; None where it has none."""


def map_forward(call: Callable[..., Tensor], size: int, dims: Dims, arguments: Sequence[Any]) -> tuple[Tensor, int]:
    """``call`` over arguments of which the first two have a batch of their own."""
    images, rest = arguments[:2], arguments[2:]
    if any(dim is not None for dim in dims[2:]):
        return torch.stack([call(*_entry(arguments, dims, i)) for i in range(size)]), 0
    folded = [
        (x.unsqueeze(0).expand(size, *x.shape) if dim is None else x.movedim(dim, 0)).flatten(0, 1)
        for x, dim in zip(images, dims)
    ]
    output = call(*folded, *rest)
    return output.unflatten(0, (size, output.shape[0] // size if size else 0)), 0


def map_backward(
    call: Callable[..., Sequence[Tensor | None]], size: int, dims: Dims, arguments: Sequence[Any]
) -> tuple[tuple[Tensor | None, ...], tuple[int | None, ...]]:
    """``call`` for each entry: a gradient of the weight is one for each, as for the gradients of single samples."""
    entries = zip(*(call(*_entry(arguments, dims, i)) for i in range(size)))
    gradients = tuple(None if entry[0] is None else torch.stack(entry) for entry in entries)
    return gradients, tuple(None if gradient is None else 0 for gradient in gradients)


def image_by_image(call: Callable[..., Tensor], arguments: Sequence[Any], output: Tensor) -> Tensor:
    """``call`` on each image of the first two arguments by itself, into ``output``.

    A convolution of PyTorch may sum in another order for another batch size, or for an image elsewhere in memory.
    """
    for i in range(len(output)):
        images = [argument[i : i + 1].clone() for argument in arguments[:2]]
        output[i : i + 1].copy_(call(*images, *arguments[2:]))
    return output


def _entry(arguments: Sequence[Any], dims: Dims, index: int) -> list[Any]:
    return [a if dim is None else a.select(dim, index) for a, dim in zip(arguments, dims)]
