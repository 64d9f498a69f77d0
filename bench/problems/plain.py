"""The layer and the neck in plain modules around any difference convolution, with the parameter names of sdn_triton."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

DifferenceFunction = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""``(input, guidance, weight, bias) -> output``: 3x3, stride 1, padding 1, contrast 1."""


def reference_difference(input: Tensor, guidance: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The definition, tap by tap: ``y[o,p] = b[o] + sum_{c,q} K[o,c,q-p] (u_q - u_p) / sqrt(1 + (v_q - v_p)^2)``.

    Run in float64 it is what every provider is held to. It shares nothing with the library and keeps one tap at a
    time in memory, also for its gradients.
    """
    height, width = input.shape[2:]
    padded = [F.pad(x, (1, 1, 1, 1)) for x in (input, guidance)]

    def add_tap(y: Tensor, u_q: Tensor, u_p: Tensor, v_q: Tensor, v_p: Tensor, kernel: Tensor) -> Tensor:
        return y + torch.einsum("oc,nchw->nohw", kernel, (u_q - u_p) / torch.sqrt(1 + (v_q - v_p) ** 2))

    y: Tensor = input.new_zeros(input.shape[0], weight.shape[0], height, width)
    if bias is not None:
        y = y + bias.view(1, -1, 1, 1)
    for row, column in ((i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)):
        u_q, v_q = (x[:, :, row : row + height, column : column + width] for x in padded)
        y = checkpoint(add_tap, y, u_q, input, v_q, guidance, weight[:, :, row, column], use_reentrant=False)
    return y


def reference_central_difference(input: Tensor, guidance: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The definition with a similarity of one everywhere: ``y[o,p] = b[o] + sum_{c,q} K[o,c,q-p] (u_q - u_p)``."""
    # Where the guidance is constant inside and outside of the image, every similarity is one.
    return reference_difference(input, torch.zeros_like(input), weight, bias)


class PlainLayer(nn.Conv2d):
    """A 3x3 layer as many channels wide as its input, computed by ``difference``."""

    def __init__(self, channels: int, difference: DifferenceFunction, bias: bool = True) -> None:
        super().__init__(channels, channels, 3, padding=1, bias=bias)
        self.difference = difference

    def forward(self, input: Tensor, guidance: Tensor) -> Tensor:  # type: ignore[override]
        return self.difference(input, guidance, self.weight, self.bias)


class PlainFusion(nn.Conv2d):
    """``Conv1x1([u, relu(BatchNorm(y))])`` over a concatenation in memory."""

    def __init__(self, channels: int) -> None:
        super().__init__(2 * channels, channels, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, input: Tensor, response: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(torch.cat((input, F.relu(self.norm(response))), dim=1))


class PlainBlock(nn.Module):
    """A 3x3 layer and its fusion; the guidance, where there is one, is projected and resized."""

    def __init__(self, channels: int, guidance_channels: int | None, difference: DifferenceFunction) -> None:
        super().__init__()
        self.sdc = PlainLayer(channels, difference, bias=False)
        self.fusion = PlainFusion(channels)
        needs_projection = guidance_channels is not None and guidance_channels != channels
        self.project = nn.Conv2d(guidance_channels or channels, channels, 1) if needs_projection else nn.Identity()

    def forward(self, input: Tensor, guidance: Tensor | None) -> Tensor:
        guide: Tensor = input if guidance is None else self.project(guidance)
        if guide.shape[-2:] != input.shape[-2:]:
            guide = F.interpolate(guide, size=input.shape[-2:], mode="bilinear", align_corners=False)
        output: Tensor = self.fusion(input, self.sdc(input, guide))
        return output


class PlainNeck(nn.Module):
    """A block for every stage of a pyramid; with ``guided=False`` no work is done for a guidance that nobody reads."""

    def __init__(self, channels: Sequence[int], difference: DifferenceFunction, guided: bool = True) -> None:
        super().__init__()
        guides = [*channels[1:], channels[-1]] if guided else [None] * len(channels)
        self.stages = nn.ModuleList(
            PlainBlock(own, guide, difference) for own, guide in zip(channels, guides, strict=True)
        )
        self.guidance = nn.Conv2d(channels[-1], channels[-1], 3, stride=2, padding=1) if guided else None

    def forward(self, features: Iterable[Tensor]) -> tuple[Tensor, ...]:
        stages = tuple(features)
        guides = [None] * len(stages) if self.guidance is None else [*stages[1:], self.guidance(stages[-1])]
        return tuple(block(own, guide) for block, own, guide in zip(self.stages, stages, guides, strict=True))
