"""The weighted differences of a strip's pairs of pixels, from padded copies of the image: any stride and padding."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sdn_triton.eager.diffusivity import similarity as similarity_of
from sdn_triton.eager.strips import Field, Place, Strip, close, closed_pairs
from sdn_triton.options import Contrast, DifferenceOptions

Ends = tuple[Tensor, Tensor]
"""The values at the near and at the far ends of pairs of pixels."""


class Difference(NamedTuple):
    """The differences of pairs of pixels."""

    weighted: Tensor
    """``f = g(d) e``, C channels."""
    similarity: Tensor
    """``g(d)``, C channels or, of vectors, one."""
    step: Tensor
    """``d / k``, Cg channels."""


def weighted_difference(
    u: Ends,
    v: Ends,
    options: DifferenceOptions,
    f: Tensor,
    step: Tensor | None = None,
    similarity: Tensor | None = None,
) -> Difference:
    """``f = g(v_far - v_near) (u_far - u_near)``, with v in units of the contrast, in the given buffers.

    That of the similarity has Cg channels; without one the step's memory is used again.
    """
    step = torch.sub(v[1], v[0], out=step)
    g = similarity_of(options, step, out=step if similarity is None else similarity)
    return Difference(torch.sub(u[1], u[0], out=f).mul_(g), g, step)


class Pairs:
    """The pairs of the outputs of a strip."""

    def __init__(self, strip: Strip, input: Tensor, guidance: Tensor, k: Contrast, dtype: torch.dtype) -> None:
        self.strip, self.input, self.guidance, self.k = strip, input, guidance, k
        self.u, self.v = Field(strip, input, dtype), Field(strip, guidance, dtype)
        self.fs = strip.pair_buffers(input.shape[1], input, dtype)

    def read(self, place: Place) -> None:
        """Copy the pixels at ``place``."""
        self.u.read(self.input, place)
        scale(self.v.read(self.guidance, place), self.k)
        self.closed = closed_pairs(self.strip, place, self.u.values)

    def weighted(self, link: int) -> Tensor:
        """``f`` of a link, for ``Products``."""
        f = weighted_difference(self.u.ends[link], self.v.ends[link], self.strip.options, self.fs[link]).weighted
        close(f, self.closed, link)
        return f


def is_scaled(k: Contrast) -> bool:
    """Whether guidance in units of the contrast is another."""
    return isinstance(k, Tensor) or k != 1


def scale(guidance: Tensor, k: Contrast) -> None:
    """Bring ``guidance`` to units of the contrast."""
    if is_scaled(k):
        guidance.div_(k)
