"""The weighted differences of pairs of pixels, and what passes back through them: one formula for every scheme.

Channels are the last dimension: ``[..., C]``; guidance is in units of the contrast.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sdn_triton.eager.diffusivity import similarity, times_steepness, zero
from sdn_triton.options import Contrast, DifferenceOptions


def is_scaled(k: Contrast) -> bool:
    """Whether guidance in units of the contrast is another."""
    return isinstance(k, Tensor) or k != 1


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
    """By its logarithm, ``[Cg]``."""


def flow(
    t: Tensor,
    f: Tensor,
    d: Tensor,
    g: Tensor,
    options: DifferenceOptions,
    needs: tuple[bool, bool, bool],
    out: Tensor | None = None,
) -> Flow:
    """``t g`` and ``-steepness(g) d f t`` for ``t = dL/df``, where needed, in the memory of ``t`` and of ``out`` or ``f``."""
    needs_input, needs_guidance, needs_contrast = needs
    if options.diffusivity == "constant" or not (needs_guidance or needs_contrast):
        return Flow(t.mul_(g) if needs_input else None, None, None)
    along = torch.mul(f, t, out=f if out is None else out)
    to_input = t.mul_(g) if needs_input else None
    if options.similarity == "vector":
        along = along.sum(-1, keepdim=True)
    factor = times_steepness(options.diffusivity, along, g)
    out = along if along.shape == d.shape else None
    along = torch.addcmul(zero(d), along, d, value=-factor, out=out)
    to_contrast = (along * d).flatten(0, -2).sum(0).neg_() if needs_contrast else None
    return Flow(to_input, along if needs_guidance else None, to_contrast)
