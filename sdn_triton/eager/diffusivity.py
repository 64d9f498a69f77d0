"""The diffusivities g and their slopes, each formula once, as functions of ``a = d^2 / k^2``."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from sdn_triton.options import DifferenceOptions


class Formula(NamedTuple):
    """A diffusivity as a function of ``x``, which is ``1 + a`` where it ``adds_one``, else ``a``."""

    adds_one: bool
    of: Callable[[Tensor], Tensor]
    """``g(x)``, differentiable."""
    into: Callable[[Tensor, Tensor], Tensor]
    """``g(x)`` in the memory of the second tensor, which may be ``x``; that of ``x`` is used up."""
    factor: float
    times: Callable[[Tensor, Tensor], Tensor]
    """Multiplies its first tensor, in place, by the steepness over ``factor`` at the second one, which is g.

    The steepness is ``-2 g'(a) / g(a)`` as a function of g: finite where g underflows.
    """


FORMULAS = {
    # On a CPU the power has an AVX-512 kernel and takes half as long as rsqrt, which compilers like better.
    "charbonnier": Formula(
        True,
        torch.rsqrt,
        lambda x, out: torch.pow(x, -0.5, out=out),
        factor=1.0,
        times=lambda x, g: x.mul_(g).mul_(g),
    ),
    # On a CPU exp2 takes a third of exp's time.
    "exponential": Formula(
        False,
        lambda x: torch.exp(-x),
        lambda x, out: torch.exp2(torch.mul(x, -1 / math.log(2), out=out), out=out),
        factor=2.0,
        times=lambda x, g: x,
    ),
    "rational": Formula(
        True,
        torch.reciprocal,
        lambda x, out: torch.reciprocal(x, out=out),
        factor=2.0,
        times=lambda x, g: x.mul_(g),
    ),
    "constant": Formula(False, torch.ones_like, lambda x, out: out.fill_(1), factor=0.0, times=lambda x, g: x),
}
"""Each name of ``options.DIFFUSIVITIES``; ``kernels/diffusivity.py`` has them for the Triton path."""


def diffusivity(name: str, a: Tensor) -> Tensor:
    """g, differentiable."""
    formula = FORMULAS[name]
    return formula.of(a + 1 if formula.adds_one else a)


def diffusivity_of_step(name: str, step: Tensor, out: Tensor) -> Tensor:
    """g at ``a = step^2``, in ``out``, which may be ``step``."""
    formula = FORMULAS[name]
    if formula.adds_one:
        torch.addcmul(_number(1, step), step, step, out=out)
    else:
        torch.mul(step, step, out=out)
    return formula.into(out, out)


def diffusivity_of_vector(name: str, step: Tensor, out: Tensor) -> Tensor:
    """g at ``a = sum over channels of step^2``, ``[..., 1]``; ``out``, which may be ``step``, is used up."""
    formula = FORMULAS[name]
    a = torch.mul(step, step, out=out).sum(-1, keepdim=True)
    return formula.into(a.add_(1) if formula.adds_one else a, a)


def similarity(options: DifferenceOptions, step: Tensor, out: Tensor) -> Tensor:
    """g of steps in units of the contrast, ``[N, Cg, H, W]`` or, of vectors, ``[..., 1]``; ``out`` is used up."""
    similar = diffusivity_of_vector if options.similarity == "vector" else diffusivity_of_step
    return similar(options.diffusivity, step, out)


def times_steepness(name: str, x: Tensor, g: Tensor) -> float:
    """Multiply ``x`` by the steepness at ``g``, but for the factor that is returned.

    Where d changes by k, g changes by ``-steepness * g * d / k``.
    """
    formula = FORMULAS[name]
    formula.times(x, g)
    return formula.factor


def zero(like: Tensor) -> Tensor:
    """0 as a tensor."""
    return _number(0, like)


def _number(value: int, like: Tensor) -> Tensor:
    """A number as a tensor of the dtype and device of ``like``.

    Kept for tensors in a CPU's memory only: on a GPU a first call may be inside a capture, and memory allocated there
    is the graph's own; a stand-in for a tensor belongs to those of its time.
    """
    if like.device.type == "cpu" and type(like) is Tensor:
        return _kept(value, like.dtype)
    return torch.full((), value, dtype=like.dtype, device=like.device)


@lru_cache
def _kept(value: int, dtype: torch.dtype) -> Tensor:
    return torch.full((), value, dtype=dtype, device="cpu")
