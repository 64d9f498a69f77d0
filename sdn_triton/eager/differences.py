"""A call of the difference convolution, the weighted differences of pairs of pixels, and what passes back through them.

One formula for every scheme; channels are the last dimension, ``[..., C]``, and guidance is in units of the contrast.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sdn_triton.eager.diffusivity import similarity, times_steepness, zero
from sdn_triton.eager.layouts import compute_dtype
from sdn_triton.options import Contrast, DifferenceArguments, DifferenceNeeds, DifferenceOptions


class Call(NamedTuple):
    """The arguments of a difference convolution, ``k`` in ``dtype``, which is computed in."""

    input: Tensor
    guidance: Tensor
    weight: Tensor
    bias: Tensor | None
    k: Contrast
    options: DifferenceOptions
    dtype: torch.dtype

    @staticmethod
    def of(arguments: DifferenceArguments, options: DifferenceOptions) -> Call:
        input, guidance, weight, bias, contrast = arguments
        dtype = compute_dtype(input)
        k = contrast.to(dtype) if isinstance(contrast, Tensor) else contrast
        return Call(input, guidance, weight, bias, k, options, dtype)

    @property
    def size(self) -> tuple[int, int]:
        """That of the images."""
        return self.input.shape[2], self.input.shape[3]


def weighted(e: Tensor, d: Tensor, options: DifferenceOptions, g: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``f = g(d) e`` in the memory of ``e``, and ``g(d)`` in that of ``g``, or of ``d`` where there is none."""
    g = similarity(options, d, out=d if g is None else g)
    return e.mul_(g), g


class Flow(NamedTuple):
    """What pairs add to the gradients at their far ends, and take from those at their near ends."""

    to_input: Tensor | None
    to_guidance: Tensor | None
    """In units of the contrast."""
    to_contrast: Tensor | None
    """By its logarithm, ``[Cg]``: once a pair."""


def flow(
    t: Tensor,
    f: Tensor,
    d: Tensor,
    g: Tensor,
    options: DifferenceOptions,
    needs: DifferenceNeeds,
    out: Tensor | None = None,
) -> Flow:
    """``t g`` in the memory of ``t = dL/df``, and ``-steepness(g) d f t`` in that of ``out`` or ``f``, where needed."""
    if options.diffusivity == "constant" or not (needs.guidance or needs.contrast):
        return Flow(t.mul_(g) if needs.input else None, None, None)
    along = torch.mul(f, t, out=f if out is None else out)
    to_input = t.mul_(g) if needs.input else None
    if options.similarity == "vector":
        along = along.sum(-1, keepdim=True)
    factor = times_steepness(options.diffusivity, along, g)
    along = torch.addcmul(zero(d), along, d, value=-factor, out=along if along.shape == d.shape else None)
    to_contrast = (along * d).flatten(0, -2).sum(0).neg_() if needs.contrast else None
    return Flow(to_input, along if needs.guidance else None, to_contrast)
