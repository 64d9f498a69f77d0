"""Batch normalisation in closed form: what a normalisation with given statistics does to a response."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Statistics(NamedTuple):
    """A normalisation ``weight (y - mean) / sqrt(variance + eps) + bias``, one number a channel; no ``weight`` is 1."""

    mean: Tensor
    variance: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def scale(self) -> Tensor:
        """``weight / sqrt(variance + eps)``, in float32 or wider."""
        wide = torch.float64 if self.variance.dtype == torch.float64 else torch.float32
        scale = (self.variance.to(wide) + self.eps).rsqrt()
        return scale if self.weight is None else scale * self.weight.to(wide)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The same as ``scale y + shift``, in float32 or wider."""
        scale = self.scale()
        shift = -self.mean.to(scale.dtype) * scale
        return scale, shift if self.bias is None else shift + self.bias.to(scale.dtype)
