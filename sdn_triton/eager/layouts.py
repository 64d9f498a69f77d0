"""Dtypes and memory formats: what is computed in, and how images become lists of pixels and come back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sdn_triton.options import Contrast


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Half types are computed in float32."""
    return torch.promote_types(tensor.dtype, torch.float32)


def divide(maps: Tensor, unit: Contrast) -> Tensor:
    """``maps [..., C, H, W]`` in units of a contrast, in their own memory."""
    if isinstance(unit, Tensor):
        return maps.div_(unit.view(-1, 1, 1))
    return maps if unit == 1 else maps.div_(unit)


def match(value: Tensor, like: Tensor) -> Tensor:
    """``value`` in the dtype and layout of ``like``."""
    if value.dtype == like.dtype and value.stride() == like.stride():
        return value
    return torch.empty_like(like).copy_(value)


def transposed(x: Tensor, rows: int, columns: int) -> Tensor:
    """Dense ``[..., rows, columns]`` as dense ``[..., columns, rows]``; the shape means nothing."""
    if x.device.type != "cpu":
        return x.reshape(-1, rows, columns).transpose(1, 2).contiguous()
    # On a CPU a shuffle of channels has a kernel that takes a third of the time of a copy.
    size = rows * columns
    lists = x.numel() // size
    return torch.channel_shuffle(x.as_strided((1, size, lists, 1), (lists * size, 1, size, size)), rows)


def channels_are_together(image: Tensor) -> bool:
    """Whether the channels of ``image [N, C, H, W]`` lie one beside the other."""
    return image.stride(1) == 1 or image.shape[1] == 1


def copies_to_list(image: Tensor) -> int:
    """How many copies of its pixels stand between ``image`` and a list of them: two where they are transposed."""
    return 1 if channels_are_together(image) else 2


class Grid(NamedTuple):
    """Where maps lie in a list of pixels.

    The list has ``rows`` rows of ``pitch`` pixels. The first row of the first map is row ``start``, that of the next
    map ``spacing`` rows further. What is no pixel of a map is zero.
    """

    maps: int
    start: int
    spacing: int
    rows: int
    pitch: int

    @property
    def length(self) -> int:
        return self.rows * self.pitch

    def size_for(self, image: Tensor) -> tuple[int, ...]:
        """That of the memory in which a :class:`Reader` takes the pixels of ``image``, as suits its layout.

        Where channels do not lie together, rows are transposed one by one, in the first cache.
        """
        C = image.shape[1]
        return (self.length, C) if channels_are_together(image) else (self.rows, C, self.pitch)

    def maps_in(self, values: Tensor, first: int, size: tuple[int, int]) -> Tensor:
        """``[maps, C, *size]`` from row ``first`` of each map on, in ``[length, C]`` or in ``[rows, C, pitch]``."""
        C = values.shape[1]
        row = self.pitch * C
        channel, pixel = (1, C) if values.dim() == 2 else (self.pitch, 1)
        start = values.storage_offset() + (self.start + first) * row
        return values.as_strided((self.maps, C, *size), (self.spacing * row, channel, row, pixel), start)


class Reader:
    """Brings images of one layout into a list of pixels ``[length, C]``."""

    def __init__(self, grid: Grid, values: Tensor) -> None:
        self.grid, self.values, self.is_list = grid, values, values.dim() == 2
        self.forget()

    def forget(self) -> None:
        """Nothing is known of what the values are."""
        self.filled: tuple[int, int] | None = None

    def read(self, image: Tensor, first: int = 0, unit: Contrast = 1) -> Tensor:
        """The list of maps with ``image [maps, C, H, W] / unit`` from row ``first`` on, and zeros everywhere else."""
        filled = first, image.shape[2]
        if filled != self.filled:
            self.values.zero_()
            self.maps = self.grid.maps_in(self.values, first, (image.shape[2], image.shape[3]))
            self.filled = filled
        self.maps.copy_(image)
        divide(self.maps, unit)
        if self.is_list:
            return self.values
        C = image.shape[1]
        return transposed(self.values, C, self.grid.pitch).as_strided((self.grid.length, C), (C, 1))


def maps_like(image: Tensor, values: Tensor, grid: Grid, first: int = 0) -> Tensor:
    """The maps of a list ``[length, C]`` that belong to ``image [maps, C, H, W]``, in memory as suits its layout."""
    if not channels_are_together(image):
        C = values.shape[1]
        row = grid.pitch * C
        values = transposed(values, grid.pitch, C).as_strided((grid.rows, C, grid.pitch), (row, grid.pitch, 1))
    return grid.maps_in(values, first, (image.shape[2], image.shape[3]))
