"""The products of differences with the taps of a weight, and their gradients: dense and depthwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sdn_triton.eager.strips import Strip, has_edges, linked_taps
from sdn_triton.options import DifferenceOptions


def products(weight: Tensor, bias: Tensor | None, options: DifferenceOptions, dtype: torch.dtype) -> Products:
    """The products with a dense, grouped or depthwise weight."""
    depthwise = options.groups > 1 and weight.shape[1] == 1
    return (DepthwiseProducts if depthwise else Products)(weight, bias, options, dtype)


class Products:
    """``y[p] += K_tap f[p]`` for a tap, ``K_tap f[p] - K_opposite f[p - spacing]`` for an edge, as convolutions.

    ``f`` is the map of a link's weighted differences. A convolution of two taps serves an edge; on a CPU it is as fast
    as a matrix product or up to twice as fast.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, options: DifferenceOptions, dtype: torch.dtype) -> None:
        self.groups, self.taps, self.by_edges = options.groups, linked_taps(options), has_edges(options)
        self.bias = None if bias is None else bias.to(dtype)
        O, C = weight.shape[:2]
        taps = weight.flatten(2).permute(2, 0, 1)
        before, after = taps[: len(taps) // 2], taps[len(taps) // 2 + 1 :]
        if self.by_edges:
            kernels = weight.new_empty((len(after), O, 2, C), dtype=dtype)
            kernels[:, :, 0].copy_(before.flip(0)).neg_()
            kernels[:, :, 1].copy_(after)
        else:
            kernels = weight.new_empty((2 * len(after), O, 1, C), dtype=dtype)
            kernels[: len(before), :, 0].copy_(before)
            kernels[len(before) :, :, 0].copy_(after)
        # One kernel [O, C / groups, 1, taps] a link, channels-last in memory; that of an opposite tap is negative.
        self.kernels = [kernel.transpose(1, 2).unsqueeze(2) for kernel in kernels]

    @property
    def nbytes(self) -> int:
        """What the kernels take in memory, one of them twice: a convolution orders it anew."""
        return (len(self.kernels) + 1) * self.kernels[0].nbytes

    def add(self, strip: Strip, link: int, f: Tensor, total: Tensor) -> None:
        """Add one link's products to ``total [images, O, rows, columns]``; the first are put there, with the bias."""
        bias, spacing = None if link else self.bias, strip.links[link].spacing
        part = torch.conv2d(self._dense(f), self.kernels[link], bias, dilation=(1, spacing), groups=self.groups)
        part = strip.images_of(part)
        total.add_(part) if link else total.copy_(part)

    def back(
        self, link: int, spacing: int, f: Tensor, grad: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of one link's differences and of its kernel, as ``needs`` says."""
        by_f, by_kernel, _ = torch.ops.aten.convolution_backward(
            grad, self._dense(f), self.kernels[link], None,
            (1, 1), (0, 0), (1, spacing), False, (0, 0), self.groups, (*needs, False),
        )  # fmt: skip
        return by_f, by_kernel

    def _dense(self, f: Tensor) -> Tensor:
        """``f`` with the strides of its sizes: torch misreads others in float64, even those of a size of 1."""
        if self.by_edges:
            return f
        _, C, H, W = f.shape
        return f.as_strided(f.shape, (C * H * W, 1, C * W, C))

    def unpack(self, kernels: Sequence[Tensor], weight: Tensor) -> Tensor:
        """The gradient of ``weight`` from those of the kernels."""
        taps = [kernel[:, :, 0, -1] for kernel in kernels]
        if self.by_edges:
            before, after = [-kernel[:, :, 0, 0] for kernel in reversed(kernels)], taps
        else:
            before, after = taps[: len(taps) // 2], taps[len(taps) // 2 :]
        centre = torch.zeros_like(weight[:, :, 0, 0])
        return torch.empty_like(weight).copy_(torch.stack((*before, centre, *after), 2).view(weight.shape))


class DepthwiseProducts(Products):
    """The same for ``groups == C``, element by element: there are no channels to sum over."""

    def add(self, strip: Strip, link: int, f: Tensor, total: Tensor) -> None:
        if link == 0:
            total.zero_() if self.bias is None else total.copy_(self.bias.view(-1, 1, 1))
        for y, values, kernel in self._terms(strip.links[link].spacing, total, f, self.kernels[link]):
            y.addcmul_(strip.images_of(values), kernel)

    def back(
        self, link: int, spacing: int, f: Tensor, grad: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        by_f = torch.zeros_like(f) if needs[0] else None
        by_kernel = torch.empty_like(self.kernels[link]) if needs[1] else None
        if by_f is not None:
            for y, values, kernel in self._terms(spacing, grad, by_f, self.kernels[link]):
                values.addcmul_(y, kernel)
        if by_kernel is not None:
            for y, values, kernel in self._terms(spacing, grad, f, by_kernel):
                kernel.copy_((y * values).sum((0, 2, 3)).view(-1, 1, 1))
        return by_f, by_kernel

    @staticmethod
    def _terms(spacing: int, y: Tensor, f: Tensor, kernel: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each tap, and each output of a channel, what is multiplied: outputs, differences and ``[C, 1, 1]``."""
        split = f.shape[1], -1
        outputs, weights = y.unflatten(1, split), kernel.squeeze(2).unflatten(0, split)
        length = f.shape[3] - spacing * (kernel.shape[3] - 1)
        for end in range(kernel.shape[3]):
            values = f.narrow(3, end * spacing, length)
            for multiple in range(outputs.shape[2]):
                yield outputs[:, :, multiple], values, weights[:, multiple, :, end, None]
