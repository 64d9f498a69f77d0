"""Calls of the eager path with random tensors, and its schemes one by one."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from support.oracle import sdc
from torch import Tensor

from sdn_triton.eager import links, taps
from sdn_triton.options import DifferenceArguments, DifferenceOptions

SCHEMES = ("taps", "one link", "all links", "convolutions")
"""All taps of small maps at once; links one after another, all at once, and by convolutions, not matrix products."""


class Call(NamedTuple):
    """A call of the difference convolution."""

    arguments: DifferenceArguments
    options: DifferenceOptions

    def expected(self) -> Tensor:
        """The output by the oracle, in float64."""
        o = self.options
        u, v, K, b, k = (x.cpu().double().numpy() if isinstance(x, Tensor) else x for x in self.arguments)
        y = sdc(u, v, K, b, o.stride, o.padding, o.dilation, o.groups, o.border, o.diffusivity, k, o.similarity)
        return torch.from_numpy(y).to(self.arguments.input.device)

    def variables(self) -> list[Tensor]:
        """Float64 copies of the tensors, to differentiate by."""
        return [x.detach().double().requires_grad_() for x in self.arguments if isinstance(x, Tensor)]


def call(
    *,
    size: tuple[int, int] = (7, 6),
    batch: int = 2,
    channels: int = 4,
    outputs: int = 6,
    guides: int | None = None,
    kernel: tuple[int, int] = (3, 3),
    bias: bool = True,
    contrast: str = "channel",
    dtype: torch.dtype = torch.float64,
    layout: torch.memory_format = torch.contiguous_format,
    device: torch.device | str = "cpu",
    **options,
) -> Call:
    """A call with random tensors; its contrast is a float, a ``scalar`` tensor or one value per ``channel``."""
    settings = DifferenceOptions(kernel, **options)
    if settings.similarity == "vector":
        contrast = "scalar" if contrast == "channel" else contrast
    guides = channels if guides is None else guides
    make = dict(dtype=torch.float64)
    u, v = torch.randn(batch, channels, *size, **make), torch.randn(batch, guides, *size, **make)
    weight = torch.randn(outputs, channels // settings.groups, *kernel, **make)
    k = torch.rand(channels, **make) + 0.6
    given = {"float": 0.8, "scalar": k[0].to(device, dtype), "channel": k.to(device, dtype)}[contrast]
    u, v, weight, b = (x.to(device, dtype) for x in (u, v, weight, torch.randn(outputs, **make)))
    u, v = u.contiguous(memory_format=layout), v.contiguous(memory_format=layout)
    return Call(DifferenceArguments(u, v, weight, b if bias else None, given), settings)


def choose(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """Let nothing but ``scheme`` compute what it can."""
    capability = "AVX512" if scheme == "convolutions" else "AVX2"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(links, "TOGETHER", 2**40 if scheme == "all links" else 0)
    if scheme != "taps":
        monkeypatch.setattr(taps, "taps_of", lambda *_: None)
