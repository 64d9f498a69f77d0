"""What an output looks like in memory: one rule for every path, and for those who ask before anything runs."""

from __future__ import annotations

import torch
from torch import Tensor


def memory_format(tensor: Tensor) -> torch.memory_format:
    """That of an output made from ``tensor``: channels_last only where ``tensor`` is nothing else."""
    if tensor.is_contiguous() or not tensor.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def empty_output(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """A new tensor of the dtype, device and memory format of ``like``."""
    if memory_format(like) is torch.contiguous_format:
        return like.new_empty(shape)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
