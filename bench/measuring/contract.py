"""The precision contract: how far a result of the kernels may be from float64, beside the eager path's in its dtype."""

from __future__ import annotations

import torch
from torch import Tensor

FACTOR = 2.0
"""How many times the eager path's error a path of sdn_triton may have."""
TF32_EPS = 2.0**-10
"""Of a product in TF32."""
ROUNDINGS_OF_FLOAT32 = 8
"""How many roundings two float32 sums may differ by that differ in nothing but their order."""
CEILING = 0.25
"""Of benchmark and tuner: no error above this share of the result's size is right, whatever the plain formula's."""


def floor_of(eps: float) -> float:
    """The error that benchmark and tuner always allow, as a share of the result's size: a few roundings of ``eps``."""
    return 32 * eps if eps < 1e-6 else 2 * eps


def bound_of(peer: float, floor: float) -> float:
    """The largest error that they allow beside the plain formula's, which excuses no other if it is wrong itself."""
    return max(floor, min(FACTOR * peer, 16 * floor, CEILING))


def error_and_bound(
    result: Tensor, peer: Tensor, exact: Tensor, *, is_tf32: bool = False, terms: float = 0.0
) -> tuple[float, float]:
    """The largest error of ``result`` against the float64 ``exact``, and the largest that is allowed.

    ``peer`` is the eager path's result. Its errors may be small by chance: they count as at least one rounding of a
    half result, or as the few of float32 sums that differ in their order. Where the sum is far smaller than what is
    summed up, ``terms`` says how large that is, as the root of the sum of its squares. With ``is_tf32`` the eager path,
    which may not round to TF32, does not count: the bound is that of products with TF32's ten bits.
    """
    error, allowed = ((x.detach().cpu().double() - exact).abs().max().item() for x in (result, peer))
    size = max(exact.abs().max().item(), terms)
    if is_tf32:
        return error, FACTOR * TF32_EPS * size
    roundings = ROUNDINGS_OF_FLOAT32 if result.dtype == torch.float32 else 1
    return error, FACTOR * max(allowed, roundings * torch.finfo(result.dtype).eps * size)
