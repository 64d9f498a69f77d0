"""The products of differences with the taps of a weight, and their gradients: dense and depthwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sdn_triton.eager.layouts import channels_last
from sdn_triton.eager.strips import has_edges, linked_taps
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
        # One kernel [O, C / groups, 1, taps] a link, channels-last in memory; that of an opposite tap is negative.
        self.kernels = [channels_last((O, C, 1, len(taps)), weight, dtype) for taps in self.taps]
        for kernel, tap, sign in self._pairs(self.kernels, weight):
            torch.mul(tap, sign, out=kernel)

    def _pairs(self, kernels: Sequence[Tensor], weight: Tensor) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Each tap in ``kernels`` and in ``weight``, and the sign between them."""
        rows = [row.unbind(2) for row in weight.unbind(2)]  # faster than an index a tap
        for kernel, taps in zip(kernels, self.taps, strict=True):
            for part, tap in zip(kernel.squeeze(2).unbind(2), taps, strict=True):
                yield part, rows[tap.row][tap.column], 1 if tap is taps[-1] else -1

    @property
    def nbytes(self) -> int:
        """What the kernels take in memory, one of them twice: a convolution orders it anew."""
        return (len(self.kernels) + 1) * self.kernels[0].nbytes

    def add(self, link: int, spacing: int, f: Tensor, total: Tensor | None) -> Tensor:
        """``total`` and the products of one link; without a total yet the bias and these."""
        bias = self.bias if total is None else None
        part = torch.conv2d(self._dense(f), self.kernels[link], bias, dilation=(1, spacing), groups=self.groups)
        return part if total is None else total.add_(part)

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
        gradient = torch.zeros_like(weight)
        for kernel, tap, sign in self._pairs(kernels, gradient):
            tap.copy_(kernel if sign > 0 else -kernel)
        return gradient


class DepthwiseProducts(Products):
    """The same for ``groups == C``, element by element: there are no channels to sum over."""

    def add(self, link: int, spacing: int, f: Tensor, total: Tensor | None) -> Tensor:
        if total is None:
            N, _, H, W = f.shape
            total = channels_last((N, len(self.kernels[link]), H, W - spacing * (len(self.taps[link]) - 1)), f)
            total.zero_() if self.bias is None else total.copy_(self.bias.view(-1, 1, 1))
        for y, values, kernel in self._terms(spacing, total, f, self.kernels[link]):
            y.addcmul_(values, kernel)
        return total

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
        for end in range(kernel.shape[3]):
            values = f.narrow(3, end * spacing, y.shape[3])
            for multiple in range(outputs.shape[2]):
                yield outputs[:, :, multiple], values, weights[:, multiple, :, end, None]
