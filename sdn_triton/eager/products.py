"""The products of differences with the taps of a weight, and their gradients, link by link.

For a link with its weighted differences ``f [pairs, C]``, ``y[p] += K_tap f[the pair that starts in p]`` and, of
edges, ``y[p] -= K_opposite f[the edge that ends in p]``. With the gradient G of the outputs at the near and the far
ends of pairs, ``t = dL/df = K_tap^T G_near - K_opposite^T G_far``, ``dK_tap = sum G_near f^T`` and
``dK_opposite = -sum G_far f^T``.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from sdn_triton.eager.differences import Call
from sdn_triton.eager.layouts import transposed
from sdn_triton.eager.strips import Link, Pairs, Strip


def products(call: Call) -> Products:
    """The way to multiply that suits a call.

    Convolutions know groups; on a GPU they follow the setting for TF32 that convolutions have; and with AVX-512 those
    of oneDNN were seen to take half the time of MKL's matrix products, which with AVX2 they do not.
    """
    groups, weight = call.options.groups, call.weight
    if groups > 1 and weight.shape[1] == 1:
        return DepthwiseProducts(call)
    if groups > 1 or weight.device.type != "cpu" or torch.backends.cpu.get_cpu_capability() == "AVX512":
        return Convolutions(call)
    return MatrixProducts(call)


class Products:
    """What all ways have in common: the weight's taps one after another."""

    def __init__(self, call: Call) -> None:
        weight, self.options = call.weight, call.options
        self.shape, self.taps = weight.shape, weight.shape[2:].numel()
        self.bias = None if call.bias is None else call.bias.to(call.dtype)
        # [O, taps, C], which a weight in channels_last is already.
        self.packed = in_dtype = weight.to(call.dtype)
        if not in_dtype.is_contiguous(memory_format=torch.channels_last):
            self.packed = transposed(in_dtype.contiguous(), weight.shape[1], self.taps)
        self.is_packed = self.packed is not weight

    @property
    def packed_bytes(self) -> int:
        """What the order of the taps takes in memory."""
        return self.packed.nbytes if self.is_packed else 0

    @cached_property
    def kernels(self) -> tuple[Tensor, ...]:
        """``[O, C]`` of each tap."""
        O, C = self.shape[:2]
        return self.packed.as_strided((self.taps, O, C), (C, self.taps * C, 1)).unbind(0)

    def add(self, strip: Strip, link: Link, f: Pairs, y: Tensor, is_first: bool) -> None:
        """Add a link's products to ``y [outputs, O]``; the first are put there, with the bias."""
        raise NotImplementedError

    def back(self, strip: Strip, link: Link, G: Tensor, t: Pairs) -> None:
        """``t [pairs, C]`` from ``G``, a list as ``strip.gradients`` has it."""
        raise NotImplementedError

    def add_gradient(self, strip: Strip, link: Link, f: Pairs, G: Tensor, sums: tuple[Tensor, ...]) -> None:
        """Add the gradients of a link's taps to ``sums``, ``[O, C]`` of each tap."""
        raise NotImplementedError

    def gradient(self, sums: Tensor, weight: Tensor) -> Tensor:
        """``sums [taps, O, C]`` in the shape, dtype and layout of the weight."""
        return torch.empty_like(weight).copy_(sums.permute(1, 2, 0).view(self.shape))


class MatrixProducts(Products):
    """By matrix products, straight into the sums."""

    @cached_property
    def transposed_kernels(self) -> tuple[Tensor, ...]:
        """``[C, O]`` of each tap."""
        O, C = self.shape[:2]
        return self.packed.as_strided((self.taps, C, O), (C, 1, self.taps * C)).unbind(0)

    def add(self, strip: Strip, link: Link, f: Pairs, y: Tensor, is_first: bool) -> None:
        kernels = self.transposed_kernels
        if not is_first:
            y.addmm_(f.starting, kernels[link.tap])
        elif self.bias is None:
            torch.mm(f.starting, kernels[link.tap], out=y)
        else:
            torch.addmm(self.bias, f.starting, kernels[link.tap], out=y)
        if link.opposite is not None:
            y.addmm_(f.ending, kernels[link.opposite], alpha=-1)

    def back(self, strip: Strip, link: Link, G: Tensor, t: Pairs) -> None:
        near, far = strip.at_ends(G, link)
        torch.mm(near, self.kernels[link.tap], out=t.all)
        if link.opposite is not None:
            t.all.addmm_(far, self.kernels[link.opposite], alpha=-1)

    def add_gradient(self, strip: Strip, link: Link, f: Pairs, G: Tensor, sums: tuple[Tensor, ...]) -> None:
        near, far = strip.at_ends(G, link)
        sums[link.tap].addmm_(near.t(), f.all)
        if link.opposite is not None:
            sums[link.opposite].addmm_(far.t(), f.all, alpha=-1)


class Convolutions(Products):
    """By convolutions along the list: of two taps for an edge, that of the opposite tap negative."""

    @cached_property
    def pairs_of_kernels(self) -> dict[int, Tensor]:
        """Of each tap ``[O, C / groups, 1, taps]``, channels-last in memory."""
        maps = {}
        for tap, kernel in enumerate(self.kernels):
            ends = (-self.kernels[-1 - tap], kernel) if self.options.stride == (1, 1) else (kernel,)
            maps[tap] = torch.stack(ends, 1).unsqueeze(1).permute(0, 3, 1, 2)
        return maps

    def add(self, strip: Strip, link: Link, f: Pairs, y: Tensor, is_first: bool) -> None:
        part = torch.conv2d(
            _as_map(strip.of_outputs(f.all, link)),
            self.pairs_of_kernels[link.tap],
            self.bias if is_first else None,
            dilation=(1, max(link.offset, 1)),
            groups=self.options.groups,
        )
        part = part[0, :, 0].t()
        y.copy_(part) if is_first else y.add_(part)

    def back(self, strip: Strip, link: Link, G: Tensor, t: Pairs) -> None:
        by_f, _ = self._backward(strip, link, t, G, (True, False))
        t.all.zero_()  # some edges belong to no output
        strip.of_outputs(t.all, link).copy_(by_f[0, :, 0].t())

    def add_gradient(self, strip: Strip, link: Link, f: Pairs, G: Tensor, sums: tuple[Tensor, ...]) -> None:
        _, by_kernel = self._backward(strip, link, f, G, (False, True))
        sums[link.tap].add_(by_kernel[:, :, 0, -1])
        if link.opposite is not None:
            sums[link.opposite].sub_(by_kernel[:, :, 0, 0])

    def _backward(
        self, strip: Strip, link: Link, f: Pairs, G: Tensor, needs: tuple[bool, bool]
    ) -> tuple[Tensor, Tensor]:
        by_f, by_kernel, _ = torch.ops.aten.convolution_backward(
            _as_map(strip.gradient_of_outputs(G)), _as_map(strip.of_outputs(f.all, link)),
            self.pairs_of_kernels[link.tap], None,
            (1, 1), (0, 0), (1, max(link.offset, 1)), False, (0, 0), self.options.groups, (*needs, False),
        )  # fmt: skip
        return by_f, by_kernel


class DepthwiseProducts(Products):
    """The same for ``groups == C``, element by element: there are no channels to sum over."""

    def _taps(self, values: Tensor, tap: int) -> tuple[Tensor, Tensor]:
        """``values [n, O]`` and the kernel of a tap as ``[..., C, outputs of a channel]``."""
        kernel = self.kernels[tap].view(self.options.groups, -1)
        return values.unflatten(1, kernel.shape), kernel

    def add(self, strip: Strip, link: Link, f: Pairs, y: Tensor, is_first: bool) -> None:
        if is_first:
            y.zero_() if self.bias is None else y.copy_(self.bias)
        outputs, kernel = self._taps(y, link.tap)
        outputs.addcmul_(f.starting.unsqueeze(2), kernel)
        if link.opposite is not None:
            outputs, kernel = self._taps(y, link.opposite)
            outputs.addcmul_(f.ending.unsqueeze(2), kernel, value=-1)

    def back(self, strip: Strip, link: Link, G: Tensor, t: Pairs) -> None:
        near, far = strip.at_ends(G, link)
        near, kernel = self._taps(near, link.tap)
        torch.sum(near * kernel, 2, out=t.all)
        if link.opposite is not None:
            far, kernel = self._taps(far, link.opposite)
            t.all.sub_((far * kernel).sum(2))

    def add_gradient(self, strip: Strip, link: Link, f: Pairs, G: Tensor, sums: tuple[Tensor, ...]) -> None:
        near, far = strip.at_ends(G, link)
        near, _ = self._taps(near, link.tap)
        sums[link.tap].add_((near * f.all.unsqueeze(2)).sum(0).view(-1, 1))
        if link.opposite is not None:
            far, _ = self._taps(far, link.opposite)
            sums[link.opposite].sub_((far * f.all.unsqueeze(2)).sum(0).view(-1, 1))


def _as_map(values: Tensor) -> Tensor:
    """A list ``[n, C]`` as a map ``[1, C, 1, n]``."""
    n, C = values.shape
    # With the strides of its sizes: torch misreads others in float64, even those of a size of 1.
    return values.as_strided((1, C, 1, n), (n * C, 1, n * C, C))
