"""A small encoder-decoder and what is put between its halves, with as many parameters that matter in each variant.

``none``          nothing
``wide``          nothing, but an encoder with more channels: a control for the number of parameters
``conv``          ``FeatureFusion(u, Conv3x3(u))``: the block with a vanilla convolution
``conv_guided``   ``FeatureFusion(u, Conv3x3(u + v))``: a control that reads the deeper features too
``cdc``           ``FeatureFusion(u, SDC(u))`` with diffusivity 1: a central difference convolution
``sdn``           ``SDN(u, v)``, the block of the paper, with the library's defaults

and variants of ``sdn``, for the sweeps. ``u`` are a stage's features, ``v`` the next deeper stage's, projected and
resized; the deepest stage makes its own by a strided convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdn_triton import SDN, FeatureFusion, SDNNeck, SemanticDifferenceConv2d, suggest_contrast
from sdn_triton.options import Contrast

CHANNELS = (16, 32, 64)
"""Of the stages, at 1/2, 1/4 and 1/8 of the image's size by default."""

FIRST_STRIDES = {4: (1, 1), 8: (2, 1), 16: (2, 2)}
"""Of the first stage's two convolutions, by the stride of the deepest stage; each further stage halves the size."""

WIDER = (24, 48, 96)
"""Channels that give a network without a neck the parameters of one with an SDN neck."""


class Encoder(nn.Module):
    """Three stages of two 3x3 convolutions with batch normalisation; ``stride`` is that of the deepest stage.

    The finest stage is at a quarter of it. Whatever the stride, the parameters are as many.
    """

    def __init__(self, in_channels: int = 1, channels: Sequence[int] = CHANNELS, stride: int = 8) -> None:
        super().__init__()
        if stride not in FIRST_STRIDES:
            raise ValueError(f"stride must be one of {', '.join(map(str, FIRST_STRIDES))}, got {stride}")
        strides = (FIRST_STRIDES[stride], *[(2, 1)] * (len(channels) - 1))
        self.stages = nn.ModuleList(
            nn.Sequential(*_normalised(before, own, first), *_normalised(own, own, second))
            for before, own, (first, second) in zip((in_channels, *channels), channels, strides)
        )

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = []
        for stage in self.stages:
            image = stage(image)
            features.append(image)
        return tuple(features)


class Decoder(nn.Module):
    """Project every stage, resize to the finest, add, convolve once, classify, resize to the image."""

    def __init__(self, classes: int, channels: Sequence[int] = CHANNELS, width: int = 32) -> None:
        super().__init__()
        self.project = nn.ModuleList(nn.Conv2d(own, width, 1) for own in channels)
        self.mix = nn.Sequential(*_normalised(width, width))
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, features: Iterable[Tensor], size: Sequence[int]) -> Tensor:
        finest, *coarser = (project(feature) for project, feature in zip(self.project, features))
        for feature in coarser:
            finest = finest + _resize(feature, finest.shape[-2:])
        return _resize(self.classify(self.mix(finest)), size)


def _normalised(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def _resize(features: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)


class SegmentationNetwork(nn.Module):
    """Encoder, neck (None: nothing) and decoder: images ``[N, 1, H, W]`` to logits ``[N, classes, H, W]``."""

    def __init__(self, encoder: nn.Module, neck: nn.Module | None, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.neck, self.decoder = encoder, neck, decoder

    def forward(self, image: Tensor) -> Tensor:
        features = self.encoder(image)
        if self.neck is not None:
            features = self.neck(features)
        logits: Tensor = self.decoder(features, image.shape[-2:])
        return logits


class SelfGuidedBlock(nn.Module):
    """``FeatureFusion(u, conv(u))`` with any 3x3 convolution."""

    def __init__(self, channels: int, responses: int, convolution: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.conv = convolution(channels, responses, 3, padding=1, bias=False)
        self.fusion = FeatureFusion(channels, responses)

    def forward(self, features: Tensor) -> Tensor:
        fused: Tensor = self.fusion(features, self.conv(features))
        return fused


class GuidedConvolutionBlock(SDN):
    """An SDN block whose difference convolution is a vanilla one, over ``u + v``."""

    def __init__(self, channels: int, guidance_channels: int) -> None:
        super().__init__(channels, guidance_channels)
        self.sdc = nn.Conv2d(channels, channels, 3, padding=1, bias=False)  # type: ignore[assignment]

    def forward(self, input: Tensor, guidance: Tensor | None = None) -> Tensor:
        return self.fusion(input, self.sdc(input + self.align_guidance(input, guidance)))


class StageBlocks(nn.Module):
    """A block of its own for every stage, none of which looks at another."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(blocks)

    def forward(self, features: Iterable[Tensor]) -> tuple[Tensor, ...]:
        return tuple(block(feature) for block, feature in zip(self.stages, features))


class GuidedNeck(nn.Module):
    """Blocks guided from another depth than :class:`sdn_triton.SDNNeck`'s: ``"own"`` or ``"deepest"``."""

    def __init__(self, channels: Sequence[int], depth: str, **options: Any) -> None:
        super().__init__()
        guides = channels if depth == "own" else [channels[-1]] * len(channels)
        self.depth = depth
        self.stages = nn.ModuleList(SDN(own, guide, **options) for own, guide in zip(channels, guides))

    def forward(self, features: Iterable[Tensor]) -> tuple[Tensor, ...]:
        stages = tuple(features)
        guides = stages if self.depth == "own" else (stages[-1],) * len(stages)
        return tuple(block(own, guide) for block, own, guide in zip(self.stages, stages, guides))

    def align_guidance(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """As :meth:`sdn_triton.SDNNeck.align_guidance`, for the finest stage alone."""
        guide = features[0] if self.depth == "own" else features[-1]
        block = self.stages[0]
        assert isinstance(block, SDN)
        return (block.align_guidance(features[0], guide),)


def finest_response(neck: nn.Module, features: Sequence[Tensor]) -> Tensor:
    """The output of the 3x3 layer of the finest stage's block."""
    block = neck.get_submodule("stages.0")
    if isinstance(block, SelfGuidedBlock):
        response: Tensor = block.conv(features[0])
        return response
    assert isinstance(neck, (SDNNeck, GuidedNeck))
    guide, layer = neck.align_guidance(features)[0], block.get_submodule("sdc")
    guided = isinstance(layer, SemanticDifferenceConv2d)
    output: Tensor = layer(features[0], guide) if guided else layer(features[0] + guide)
    return output


def live_parameters(module: nn.Module | None) -> int:
    """Parameters that can change the output: all but the middle taps of difference convolutions."""
    if module is None:
        return 0
    dead = sum(
        layer.out_channels * layer.in_channels // layer.groups
        for layer in module.modules()
        if isinstance(layer, SemanticDifferenceConv2d)
    )
    return sum(parameter.numel() for parameter in module.parameters()) - dead


def _matched_blocks(channels: Sequence[int], convolution: Callable[..., nn.Module]) -> nn.Module:
    """Self-guided blocks, each with as many responses as bring its live parameters closest to the SDN neck's.

    What an SDN block spends on the projection of its guidance goes into more outputs of the convolution here.
    """
    with torch.random.fork_rng(devices=[]):
        neck = SDNNeck(channels)
    budgets = [live_parameters(stage) for stage in neck.stages]
    budgets[-1] += live_parameters(neck.guidance)

    def block(own: int, budget: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            sizes = [live_parameters(SelfGuidedBlock(own, responses, convolution)) for responses in (own, own + 1)]
        each = sizes[1] - sizes[0]
        return SelfGuidedBlock(own, own + round((budget - sizes[0]) / each), convolution)

    return StageBlocks(block(own, budget) for own, budget in zip(channels, budgets, strict=True))


def _central_difference(*sizes: Any, **options: Any) -> nn.Module:
    return SemanticDifferenceConv2d(*sizes, **options, diffusivity="constant")


def _guided_convolutions(channels: Sequence[int]) -> nn.Module:
    neck = SDNNeck(channels)
    guides = [*channels[1:], channels[-1]]
    neck.stages = nn.ModuleList(GuidedConvolutionBlock(own, guide) for own, guide in zip(channels, guides))
    return neck


@dataclass(frozen=True)
class Variant:
    """What is put between encoder and decoder.

    ``suggested`` has the contrast of every block set, before the training, to :func:`sdn_triton.suggest_contrast` of
    its guidance on the first batch.
    """

    name: str
    title: str
    neck: Callable[[Sequence[int]], nn.Module] | None
    sweep: str = ""
    suggested: bool = False
    channels: tuple[int, ...] = CHANNELS


def _sdn(**options: Any) -> Callable[[Sequence[int]], nn.Module]:
    return lambda channels: SDNNeck(channels, **options)


BASE = (
    Variant("none", "nothing", None),
    Variant("wide", "nothing, wider encoder", None, channels=WIDER),
    Variant("conv", "vanilla 3x3 block", lambda channels: _matched_blocks(channels, nn.Conv2d)),
    Variant("conv_guided", "vanilla 3x3 block, guided", _guided_convolutions),
    Variant("cdc", "central difference block", lambda channels: _matched_blocks(channels, _central_difference)),
    Variant("sdn", "SDN", _sdn()),
)
SWEEPS = (
    Variant("contrast_0.03", "contrast 0.03", _sdn(contrast=0.03), "contrast"),
    Variant("contrast_0.3", "contrast 0.3", _sdn(contrast=0.3), "contrast"),
    Variant("contrast_3", "contrast 3", _sdn(contrast=3.0), "contrast"),
    Variant("contrast_suggested", "suggest_contrast", _sdn(), "contrast", suggested=True),
    Variant("contrast_learned", "contrast learned, from 1", _sdn(learn_contrast=True), "contrast"),
    Variant("vector", "similarity vector", _sdn(similarity="vector"), "similarity"),
    Variant("vector_suggested", "vector, suggest_contrast", _sdn(similarity="vector"), "similarity", suggested=True),
    Variant("own", "guided by itself", lambda channels: GuidedNeck(channels, "own"), "guidance"),
    Variant("deepest", "guided by the deepest stage", lambda channels: GuidedNeck(channels, "deepest"), "guidance"),
)
VARIANTS = {variant.name: variant for variant in (*BASE, *SWEEPS)}


def build_network(variant: Variant, classes: int, seed: int, stride: int = 8) -> SegmentationNetwork:
    """The network with a variant's neck; for a seed, encoder and decoder start alike whatever the neck."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(channels=variant.channels, stride=stride)
        decoder = Decoder(classes, variant.channels)
        torch.manual_seed(seed + 1_000_000)
        neck = None if variant.neck is None else variant.neck(variant.channels)
    return SegmentationNetwork(encoder, neck, decoder)


def set_suggested_contrast(network: SegmentationNetwork, images: Tensor) -> list[Contrast]:
    """Set every block's contrast to the median difference between neighbours of its guidance on ``images``."""
    neck = network.neck
    assert isinstance(neck, SDNNeck)
    with torch.no_grad():
        guides = neck.align_guidance(network.encoder(images))
    values: list[Contrast] = []
    for stage, guide in zip(neck.stages, guides, strict=True):
        assert isinstance(stage, SDN)
        values.append(suggest_contrast(guide, similarity=stage.sdc.similarity))
        stage.sdc.contrast = values[-1]
    return values
