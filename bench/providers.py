"""What is compared: each provider computes a 3x3 layer, and a neck of such layers; a new one is one function."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdn_triton import SDNNeck, explain, semantic_difference_conv2d
from sdn_triton.backend import BackendUnavailableError
from sdn_triton.eager.composite import difference_conv2d
from sdn_triton.options import DifferenceOptions

from .environment import cpp_compiler
from .plain import DifferenceFunction, PlainLayer, PlainNeck, reference_difference


def _always(device: torch.device, dtype: torch.dtype) -> None:
    return None


@dataclass(frozen=True)
class Provider:
    """One way to compute the layer and the neck.

    ``exact`` is the same function for use in float64, ``unavailable`` says why it cannot run, ``compiled`` that it
    takes a while before its first call, and ``ours`` that it is a path of sdn_triton.
    """

    name: str
    title: str
    layer: Callable[[int], nn.Module]
    neck: Callable[[Sequence[int]], nn.Module]
    exact: DifferenceFunction = reference_difference
    guided: bool = True
    compiled: bool = False
    ours: bool = False
    unavailable: Callable[[torch.device, torch.dtype], str | None] = _always


PROVIDERS: dict[str, Provider] = {}
FLOOR = "conv2d"
"""The provider that all times are divided by: the convolution that users would otherwise run."""


def register(provider: Provider) -> None:
    """Add a provider to the comparison, in the order of the tables."""
    PROVIDERS[provider.name] = provider


def plain(name: str, title: str, difference: DifferenceFunction) -> Provider:
    """A provider that is one function ``(input, guidance, weight, bias) -> output``."""
    return Provider(name, title, partial(PlainLayer, difference=difference), partial(PlainNeck, difference=difference))


def convolution(input: Tensor, guidance: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The vanilla 3x3 convolution: the floor."""
    return F.conv2d(input, weight, bias, padding=1)


def unfold(input: Tensor, guidance: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The formulation of the public rewrites: nine copies of features and guidance, one product."""
    batch, channels, height, width = input.shape
    u, v = (F.unfold(x, 3, padding=1).view(batch, channels, 9, height * width) for x in (input, guidance))
    u_p, v_p = (x.flatten(2).unsqueeze(2) for x in (input, guidance))
    differences = (u - u_p) * torch.rsqrt(1 + (v - v_p) ** 2)
    y: Tensor = torch.einsum("oct,nctp->nop", weight.flatten(2), differences)
    if bias is not None:
        y = y + bias.view(1, -1, 1)
    return y.view(batch, -1, height, width)


def composite(input: Tensor, guidance: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The plain formula in differentiable operations, whose error in the same dtype sets the bound for all."""
    return difference_conv2d(input, guidance, weight, bias, 1.0, DifferenceOptions((3, 3), padding=(1, 1)))


def _compiled(make: Callable[..., nn.Module], channels: int | Sequence[int]) -> nn.Module:
    module = make(channels, difference=composite)
    # Inductor's layout pass of torch 2.13 drops the guidance's gradient in a neck on a CPU, and makes layers slower.
    module.compile(dynamic=False, options={"layout_optimization": False})
    return module


def _no_compiler(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") else "torch.compile on a GPU needs triton"
    return None if cpp_compiler() else "torch.compile on a CPU needs a C++ compiler (g++ or clang++)"


def _library(backend: str, title: str) -> Provider:
    difference = partial(semantic_difference_conv2d, padding=1, backend=backend)

    def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
        if backend == "triton" and device.type == "cpu":
            return "Triton kernels need a GPU (on a CPU they are only interpreted, to test them)"
        sample = torch.zeros(1, 32, 8, 8, device=device, dtype=dtype)
        try:
            explain(difference, sample, sample, sample.new_zeros(32, 32, 3, 3))
        except BackendUnavailableError as error:
            return str(error)
        return None

    layer, neck = partial(PlainLayer, difference=difference), partial(SDNNeck, backend=backend)
    return Provider(backend, title, layer, neck, ours=True, unavailable=unavailable)


register(
    Provider(
        FLOOR,
        "the vanilla 3x3 convolution: the floor",
        layer=partial(PlainLayer, difference=convolution),
        neck=partial(PlainNeck, difference=convolution, guided=False),
        exact=convolution,
        guided=False,
    )
)
register(_library("triton", "sdn_triton's Triton kernels"))
register(_library("eager", "sdn_triton's eager path"))
register(
    Provider(
        "compile",
        "torch.compile of the plain formula",
        layer=partial(_compiled, PlainLayer),
        neck=partial(_compiled, PlainNeck),
        compiled=True,
        unavailable=_no_compiler,
    )
)
register(plain("unfold", "the unfold formulation of public rewrites", unfold))
