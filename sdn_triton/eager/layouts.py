"""Dtypes and memory formats: what is computed in, and how images get into and out of channels-last buffers."""

from __future__ import annotations

import torch
from torch import Tensor

CACHE_LINE = 64
"""Bytes."""


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Half types are computed in float32."""
    return torch.promote_types(tensor.dtype, torch.float32)


def match(value: Tensor, like: Tensor) -> Tensor:
    """``value`` in the dtype and layout of ``like``."""
    if value.dtype == like.dtype and value.stride() == like.stride():
        return value
    return torch.empty_like(like).copy_(value)


def channels_last(shape: tuple[int, int, int, int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An empty buffer of ``shape [N, C, H, W]`` whose channels lie together in memory, on the device of ``like``."""
    N, C, H, W = shape
    return like.new_empty((N, H, W, C), dtype=dtype or like.dtype).permute(0, 3, 1, 2)


def read_image(values: Tensor, image: Tensor) -> None:
    """Copy ``image``, in any layout, into ``values``, whose channels lie together; both ``[N, C, H, W]``."""
    if image.stride(1) != 1:
        N, C, H, W = image.shape
        image = _staggered((N, C), H * W, values).unflatten(2, (H, W)).copy_(image)
    values.copy_(image)


def write_image(image: Tensor, values: Tensor) -> None:
    """Copy ``values``, whose channels lie together, into ``image``, in any layout."""
    image.copy_(_readable(values, image))


def add_image(image: Tensor, values: Tensor) -> None:
    """Add ``values``, whose channels lie together, to ``image``, in any layout."""
    image.add_(_readable(values, image))


def _readable(values: Tensor, image: Tensor) -> Tensor:
    if image.stride(1) == 1:
        return values
    N, C, H, W = values.shape
    return _staggered((N, H, W), C, values).permute(0, 3, 1, 2).copy_(values)


def _staggered(rows: tuple[int, ...], length: int, like: Tensor) -> Tensor:
    """A buffer ``[*rows, length]`` to be read across its rows: an odd number of cache lines lies between them.

    With a power of two between them the values of a column would share a few places in the cache.
    """
    line = CACHE_LINE // like.element_size()
    pitch = (-(-length // line) | 1) * line
    return like.new_empty((*rows, pitch)).narrow(-1, 0, length)
