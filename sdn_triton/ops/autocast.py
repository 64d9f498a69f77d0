"""What ``torch.autocast`` asks of the operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def autocast_dtype(input: object) -> torch.dtype | None:
    """The dtype of the autocast that is active where ``input`` is; None if none is."""
    if not isinstance(input, Tensor):
        return None
    device = input.device.type
    # The meta device has no autocast, and asking for it is an error.
    if device == "meta" or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def cast(dtype: torch.dtype, *tensors: Tensor | None) -> tuple[Any, ...]:
    """The tensors in ``dtype``; like ``conv2d``'s autocast it leaves float64 alone."""
    return tuple(
        t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() and t.dtype != torch.float64 else t
        for t in tensors
    )
