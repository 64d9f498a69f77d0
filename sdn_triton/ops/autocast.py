"""What ``torch.autocast`` asks of the operators."""

from __future__ import annotations

import torch


def autocast_dtype(device: str) -> torch.dtype | None:
    """The dtype of the autocast that is active for a type of device; None if none is."""
    # The meta device has no autocast, and asking for it is an error.
    if device == "meta" or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)
