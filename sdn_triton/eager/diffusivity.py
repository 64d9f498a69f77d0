"""The diffusivities g and their slopes, each formula once, as functions of ``a = d^2 / k^2``."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def diffusivity(name: str, a: Tensor, out: Tensor | None = None) -> Tensor:
    """g: charbonnier (1 + a)^(-1/2), exponential exp(-a), rational 1 / (1 + a), constant 1.

    Differentiable to any order without ``out``; with ``out``, which may be ``a`` itself, written there.
    """
    if name == "charbonnier":
        return _inverse_root(torch.add(a, 1, out=out), out)
    if name == "exponential":
        return _exponential_of_minus(a, out)
    if name == "rational":
        return torch.reciprocal(torch.add(a, 1, out=out), out=out)
    return torch.ones_like(a) if out is None else out.fill_(1)


def steepness(name: str, g: Tensor, out: Tensor) -> Tensor | float:
    """``-2 g'(a) / g(a)`` as a function of g: charbonnier g^2, exponential 2, rational 2 g, constant 0.

    With it a change of d by ``k`` changes g by ``-steepness * g * d / k``. It is finite where g underflows. A tensor is
    written to ``out``, which may be ``g`` itself.
    """
    if name == "charbonnier":
        return torch.mul(g, g, out=out)
    if name == "rational":
        return torch.mul(g, 2, out=out)
    return 2.0 if name == "exponential" else 0.0


def _inverse_root(x: Tensor, out: Tensor | None) -> Tensor:
    # On a CPU the power has an AVX-512 kernel and takes half as long as rsqrt, which compilers like better.
    return x.rsqrt() if out is None else torch.pow(x, -0.5, out=out)


def _exponential_of_minus(x: Tensor, out: Tensor | None) -> Tensor:
    # On a CPU exp2 takes a third of exp's time.
    return torch.exp(-x) if out is None else torch.exp2(torch.mul(x, -1 / math.log(2), out=out), out=out)
