"""What is compared: each provider computes a 3x3 layer, a block and a neck of them; a new one is one function."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdn_triton import SDN, FeatureFusion, SDNNeck, SemanticDifferenceConv2d, explain, semantic_difference_conv2d
from sdn_triton.backend import BackendUnavailableError
from sdn_triton.eager.composite import difference_conv2d
from sdn_triton.options import Backend, DifferenceArguments, DifferenceOptions
from sdn_triton.tuning import lookup

from ..measuring.environment import cpp_compiler
from .plain import (
    DifferenceFunction,
    PlainBlock,
    PlainLayer,
    PlainNeck,
    reference_central_difference,
    reference_difference,
)

KINDS = ("layer", "block", "neck")
COMPILE_OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {"layout_optimization": False}
"""Inductor's layout pass of torch 2.13 drops a guidance's gradient in a neck on a CPU, and slows layers down."""


def _always(device: torch.device, dtype: torch.dtype) -> None:
    return None


@dataclass(frozen=True)
class Provider:
    """One way to compute the layer, the block and the neck.

    ``role`` is "floor" (another, cheaper operator that users would otherwise run), "baseline" (another way to the
    same result) or "ours" (a path of sdn_triton). ``exact`` is the same function for use in float64, ``unavailable``
    says why it cannot run, ``compiled`` that it takes a while before its first call. ``kinds`` are the workloads in
    which it differs from another provider, and ``around`` is entered around every call.
    """

    name: str
    title: str
    layer: Callable[[int], nn.Module]
    block: Callable[[int], nn.Module]
    neck: Callable[[Sequence[int]], nn.Module]
    exact: DifferenceFunction = reference_difference
    guided: bool = True
    compiled: bool = False
    role: str = "baseline"
    kinds: tuple[str, ...] = KINDS
    unavailable: Callable[[torch.device, torch.dtype], str | None] = _always
    around: Callable[[], AbstractContextManager[Any]] = nullcontext

    @property
    def ours(self) -> bool:
        """Whether it is a path of sdn_triton."""
        return self.role == "ours"


PROVIDERS: dict[str, Provider] = {}
FLOOR = "conv2d"
"""The provider that all times are divided by: the convolution that users would otherwise run."""


def register(provider: Provider) -> None:
    """Add a provider to the comparison, in the order of the tables."""
    PROVIDERS[provider.name] = provider


def plain(name: str, title: str, difference: DifferenceFunction, **fields: Any) -> Provider:
    """A provider that is one function ``(input, guidance, weight, bias) -> output``, composed by plain modules."""
    guided = fields.get("guided", True)
    return Provider(
        name,
        title,
        layer=partial(PlainLayer, difference=difference),
        block=partial(PlainBlock, guidance_channels=None, difference=difference),
        neck=partial(PlainNeck, difference=difference, guided=guided),
        **fields,
    )


def compiled(name: str, title: str, difference: DifferenceFunction, **fields: Any) -> Provider:
    """The provider that :func:`plain` makes, under torch.compile."""
    made = plain(name, title, difference, compiled=True, unavailable=_no_compiler, **fields)

    def compile_made(make: Callable[..., nn.Module], channels: int | Sequence[int]) -> nn.Module:
        module = make(channels)
        module.compile(dynamic=False, options=COMPILE_OPTIONS)
        return module

    layer, block, neck = (partial(compile_made, make) for make in (made.layer, made.block, made.neck))
    return replace(made, layer=layer, block=block, neck=neck)


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
    arguments = DifferenceArguments(input, guidance, weight, bias, 1.0)
    return difference_conv2d(arguments, DifferenceOptions((3, 3), padding=(1, 1)))


def central_difference(input: Tensor, guidance: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A central difference convolution: all similarities are one, so that two convolutions without differences do."""
    centre = weight.sum(dim=(2, 3), keepdim=True)
    return F.conv2d(input, weight, bias, padding=1) - F.conv2d(input, centre)


def _no_compiler(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") else "torch.compile on a GPU needs triton"
    return None if cpp_compiler() else "torch.compile on a CPU needs a C++ compiler (g++ or clang++)"


class UnfusedBlock(nn.Module):
    """The library's two layers, composed by hand: what the block's own kernels are held against."""

    def __init__(self, channels: int, guidance_channels: int | None = None, *, backend: Backend) -> None:
        super().__init__()
        self.sdc = SemanticDifferenceConv2d(channels, channels, 3, padding=1, bias=False, backend=backend)
        self.fusion = FeatureFusion(channels, channels, backend=backend)
        needs_projection = guidance_channels is not None and guidance_channels != channels
        self.project = nn.Conv2d(guidance_channels or channels, channels, 1) if needs_projection else nn.Identity()

    def forward(self, input: Tensor, guidance: Tensor) -> Tensor:
        guide = self.project(guidance)
        if guide.shape[-2:] != input.shape[-2:]:
            guide = F.interpolate(guide, size=input.shape[-2:], mode="bilinear", align_corners=False)
        output: Tensor = self.fusion(input, self.sdc(input, guide))
        return output


class UnfusedNeck(PlainNeck):
    """A neck of such blocks."""

    def __init__(self, channels: Sequence[int], *, backend: Backend) -> None:
        super().__init__(channels, reference_difference)
        guides = [*channels[1:], channels[-1]]
        self.stages = nn.ModuleList(
            UnfusedBlock(own, guide, backend=backend) for own, guide in zip(channels, guides, strict=True)
        )


def _why_no_path(backend: Backend, device: torch.device, dtype: torch.dtype) -> str | None:
    if backend == "triton" and device.type == "cpu":
        return "Triton kernels need a GPU (on a CPU they are only interpreted, to test them)"
    sample = torch.zeros(1, 32, 8, 8, device=device, dtype=dtype)
    difference = partial(semantic_difference_conv2d, padding=1, backend=backend)
    try:
        explain(difference, sample, sample, sample.new_zeros(32, 32, 3, 3))
    except BackendUnavailableError as error:
        return str(error)
    return None


def library(name: str, title: str, backend: Backend, **fields: Any) -> Provider:
    """A path of sdn_triton: its function, its block and its neck."""
    difference = partial(semantic_difference_conv2d, padding=1, backend=backend)
    made = Provider(
        name,
        title,
        layer=partial(PlainLayer, difference=difference),
        block=partial(SDN, backend=backend),
        neck=partial(SDNNeck, backend=backend),
        role="ours",
        unavailable=partial(_why_no_path, backend),
    )
    return replace(made, **fields)


def _why_no_tables(device: torch.device, dtype: torch.dtype) -> str | None:
    if obstacle := _why_no_path("triton", device, dtype):
        return obstacle
    from sdn_triton.launch.run import target_of  # imports triton's part of the package

    if lookup.has_tables(target_of(device)):
        return None
    return "no table of measured configurations is for this GPU, so that `triton` has the heuristic's, too"


register(plain(FLOOR, "vanilla 3x3 convolution", convolution, exact=convolution, guided=False, role="floor"))
register(
    compiled(
        "conv2d-compile",
        "torch.compile of the vanilla convolution and its fusion",
        convolution,
        exact=convolution,
        guided=False,
        role="floor",
        kinds=("block", "neck"),
    )
)
register(
    plain(
        "central",
        "central difference convolution, two convolutions",
        central_difference,
        exact=reference_central_difference,
        guided=False,
        role="floor",
    )
)
register(library("triton", "sdn_triton's Triton kernels", "triton"))
register(
    library(
        "triton-default",
        "the same kernels with the heuristic's configurations, without tables",
        "triton",
        unavailable=_why_no_tables,
        around=lookup.without_tables,
    )
)
register(
    library(
        "unfused",
        "the same kernels, layer and fusion one after the other",
        "triton",
        block=partial(UnfusedBlock, backend="triton"),
        neck=partial(UnfusedNeck, backend="triton"),
        kinds=("block", "neck"),
    )
)
register(library("eager", "sdn_triton's eager path", "eager"))
register(compiled("compile", "torch.compile of the plain formula", composite))
register(compiled("unfold-compile", "torch.compile of the unfold formulation", unfold))
register(plain("unfold", "unfold formulation of public rewrites", unfold))
