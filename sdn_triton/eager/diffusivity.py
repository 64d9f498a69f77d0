"""The diffusivities g and their slopes, each formula once, as functions of ``a = d^2 / k^2``."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from sdn_triton.options import DifferenceOptions


def diffusivity(name: str, a: Tensor) -> Tensor:
    """g: charbonnier (1 + a)^(-1/2), exponential exp(-a), rational 1 / (1 + a), constant 1; differentiable."""
    return _of_sum(name, a + 1 if _adds_one(name) else a)


def diffusivity_of_step(name: str, step: Tensor, out: Tensor) -> Tensor:
    """g at ``a = step^2``, in ``out``, which may be ``step``."""
    if _adds_one(name):
        torch.addcmul(_number(1, step), step, step, out=out)
    else:
        torch.mul(step, step, out=out)
    return _of_sum(name, out, out)


def diffusivity_of_vector(name: str, step: Tensor, out: Tensor) -> Tensor:
    """g at ``a = sum over channels of step^2``, ``[..., 1]``; ``out``, which may be ``step``, is used up."""
    a = torch.mul(step, step, out=out).sum(-1, keepdim=True)
    return _of_sum(name, a.add_(1) if _adds_one(name) else a, a)


def similarity(options: DifferenceOptions, step: Tensor, out: Tensor) -> Tensor:
    """g of steps in units of the contrast, ``[N, Cg, H, W]`` or, of vectors, ``[..., 1]``; ``out`` is used up."""
    similar = diffusivity_of_vector if options.similarity == "vector" else diffusivity_of_step
    return similar(options.diffusivity, step, out)


def times_steepness(name: str, x: Tensor, g: Tensor) -> float:
    """Multiply ``x`` by ``-2 g'(a) / g(a)`` as a function of g, but for the factor that is returned.

    Charbonnier g^2, exponential 2, rational 2 g, constant 0. Where d changes by k, g changes by
    ``-steepness * g * d / k``, which is finite where g underflows.
    """
    if name == "charbonnier":
        x.mul_(g).mul_(g)
        return 1.0
    if name == "rational":
        x.mul_(g)
        return 2.0
    return 2.0 if name == "exponential" else 0.0


def _adds_one(name: str) -> bool:
    return name in ("charbonnier", "rational")


def _of_sum(name: str, x: Tensor, out: Tensor | None = None) -> Tensor:
    """g as a function of ``1 + a`` where it adds one, else of ``a``; differentiable without ``out``."""
    if name == "charbonnier":
        # On a CPU the power has an AVX-512 kernel and takes half as long as rsqrt, which compilers like better.
        return x.rsqrt() if out is None else torch.pow(x, -0.5, out=out)
    if name == "exponential":
        # On a CPU exp2 takes a third of exp's time.
        return torch.exp(-x) if out is None else torch.exp2(torch.mul(x, -1 / math.log(2), out=out), out=out)
    if name == "rational":
        return torch.reciprocal(x, out=out)
    return torch.ones_like(x) if out is None else out.fill_(1)


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
