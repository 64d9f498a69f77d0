"""PyTorch's setting for float32 convolutions, which the kernels follow: TF32 or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def convolutions_may_use_tf32() -> bool:
    """Whether a float32 convolution may round its factors to TF32."""
    if torch.version.hip:
        return False
    convolution = getattr(torch.backends.cudnn, "conv", None)  # torch 2.9 and newer
    if convolution is not None:
        return convolution.fp32_precision == "tf32"
    return torch.backends.cudnn.allow_tf32


@contextmanager
def convolutions_in(precision: str) -> Iterator[None]:
    """The setting for a while: "tf32" or "ieee"."""
    convolution = getattr(torch.backends.cudnn, "conv", None)
    owner, name, value = (
        (torch.backends.cudnn, "allow_tf32", precision == "tf32")
        if convolution is None
        else (convolution, "fp32_precision", precision)
    )
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
