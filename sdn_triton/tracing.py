"""Who is looking: whether a call runs as it stands, or PyTorch traces, transforms or intercepts it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

ORDINARY = (Tensor, torch.nn.Parameter)
"""Tensors that are what they seem; subclasses bring rules of their own."""

decomposing = False
"""Whether the operators take their plain form; set by :func:`sdn_triton.export.decomposed`."""


def is_plain(tensor: Tensor) -> bool:
    """Whether nobody traces or intercepts what is done to ``tensor``."""
    return not torch.compiler.is_compiling() and type(tensor) in ORDINARY and torch._C._len_torch_dispatch_stack() == 0


def is_transformed() -> bool:
    """Whether ``torch.func`` or forward-mode differentiation may be at work."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
