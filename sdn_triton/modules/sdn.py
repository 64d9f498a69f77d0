"""The whole block, and the neck made of such blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sdn_triton.checks import Size
from sdn_triton.modules import fusing
from sdn_triton.modules.difference_conv import SemanticDifferenceConv2d
from sdn_triton.modules.fusion import FeatureFusion
from sdn_triton.ops.resize import resized, size_of
from sdn_triton.options import Contrast


class SDN(nn.Module):
    r"""A semantic diffusion network: a semantic difference convolution and its feature fusion.

    .. math:: z = K_2\,[\,u,\ \mathrm{relu}(\mathrm{BatchNorm}(\mathrm{SDC}(u, v)))\,] + b_2

    Guidance ``v`` of another channel count is projected by a 1x1 convolution for ``similarity="channel"`` and used as
    it is for ``"vector"``; guidance of another spatial size is resized bilinearly (``align_corners=False``).

    Args:
        in_channels: channels ``C`` of the features.
        guidance_channels: channels of the guidance; None is ``C``.
        out_channels: channels of the output; None is ``C``.
        response_channels: outputs of the difference convolution; None is ``C``.
        kernel_size, dilation, groups, bias, padding_mode, diffusivity, contrast, learn_contrast, similarity: of
            :class:`SemanticDifferenceConv2d`. No bias by default: the normalisation that follows takes it away.
        zero_init: make the output equal the input at first (needs ``out_channels == in_channels``), so that adding the
            layer to a pretrained network changes nothing until it is trained.
        eps, momentum: of the batch normalisation.
        backend: ``"auto"``, ``"triton"`` or ``"eager"``.

    Shape:
        input ``[N, C, H, W]``, guidance ``[N, Cg, any, any]``, output ``[N, O, H, W]``.

    Source: Tan, Wu, Pi: *Semantic Diffusion Network for Semantic Segmentation*, NeurIPS 2022.

    Example:
        >>> import torch
        >>> sdn = SDN(32, guidance_channels=64)
        >>> sdn(torch.randn(2, 32, 64, 64), torch.randn(2, 64, 32, 32)).shape
        torch.Size([2, 32, 64, 64])
    """

    def __init__(
        self,
        in_channels: int,
        guidance_channels: int | None = None,
        out_channels: int | None = None,
        *,
        response_channels: int | None = None,
        kernel_size: Size = 3,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
        padding_mode: str = "zeros",
        diffusivity: str = "charbonnier",
        contrast: Contrast = 1.0,
        learn_contrast: bool = False,
        similarity: str = "channel",
        zero_init: bool = False,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        guidance_channels = in_channels if guidance_channels is None else guidance_channels
        response_channels = in_channels if response_channels is None else response_channels
        self.sdc = SemanticDifferenceConv2d(
            in_channels,
            response_channels,
            kernel_size,
            padding="same",
            dilation=dilation,
            groups=groups,
            bias=bias,
            padding_mode=padding_mode,
            diffusivity=diffusivity,
            contrast=contrast,
            learn_contrast=learn_contrast,
            similarity=similarity,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        self.fusion = FeatureFusion(
            in_channels,
            response_channels,
            out_channels,
            zero_init=zero_init,
            eps=eps,
            momentum=momentum,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        needs_projection = similarity == "channel" and guidance_channels != in_channels
        self.project = (
            nn.Conv2d(guidance_channels, in_channels, 1, device=device, dtype=dtype) if needs_projection else None
        )

    def align_guidance(self, input: Tensor, guidance: Tensor) -> Tensor:
        """The guidance as the difference convolution sees it: projected, and resized to ``input``.

        Contrast is in units of this tensor: it is what :func:`sdn_triton.suggest_contrast` should be given.
        """
        return resized(self._projected(guidance), size_of(input))

    def _projected(self, guidance: Tensor) -> Tensor:
        """At its own size: a 1x1 convolution and an interpolation, whose weights add up to one, commute."""
        return guidance if self.project is None else self.project(guidance)

    def forward(self, input: Tensor, guidance: Tensor) -> Tensor:
        """Sharpen ``input`` where ``guidance``, deeper features of the same image, changes."""
        return fusing.forward(self, input, self._projected(guidance))

    def load_unfold_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str = "") -> None:
        """Load a checkpoint of the public rewrite that computes this block by unfolding.

        Its keys, after ``prefix``, are ``SDC.weight``, ``BN.*``, ``out.weight`` and ``out.bias``. Keys without the
        prefix are left alone, so the state of a whole network may be given.

        Raises:
            ValueError: a key is unknown, as in a checkpoint of another operator of that name, or is missing.
        """
        names = {f"BN.{name}": f"fusion.norm.{name}" for name in self.fusion.norm.state_dict()}
        names |= {"SDC.weight": "sdc.weight", "out.weight": "fusion.weight", "out.bias": "fusion.bias"}
        given = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        unknown, missing = sorted(given.keys() - names.keys()), sorted(names.keys() - given.keys())
        if unknown or missing:
            raise ValueError(
                f"state_dict is not that of an unfold-based SDN block under the prefix {prefix!r}: "
                f"unknown keys {unknown}, missing keys {missing}; expected {sorted(names)}"
            )
        own = self.state_dict()
        self.load_state_dict(own | {names[key]: value for key, value in given.items()})


class SDNNeck(nn.Module):
    r"""Semantic diffusion networks between an encoder and a decoder, one for each stage of the feature pyramid.

    .. math:: F_i' = \mathrm{SDN}(F_i, F_{i+1}), \qquad F_L' = \mathrm{SDN}(F_L, \mathrm{Conv3x3}_{stride 2}(F_L))

    Each stage is guided by the next coarser one as it came from the encoder; the last makes its own guidance. With a
    single stage this is the form for single-scale decoders.

    Args:
        in_channels: channels of each stage, fine to coarse; an int for one stage.
        contrast: as for :class:`SDN`, or a sequence of these, one a stage.
        others: as for :class:`SDN`; they hold for every stage.

    Shape:
        features: as many ``[N, C_i, H_i, W_i]`` as ``in_channels``; the output is a tuple of the same shapes.

    Example:
        >>> import torch
        >>> neck = SDNNeck([32, 64])
        >>> features = torch.randn(2, 32, 64, 64), torch.randn(2, 64, 32, 32)
        >>> [list(f.shape) for f in neck(features)]
        [[2, 32, 64, 64], [2, 64, 32, 32]]
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        *,
        kernel_size: Size = 3,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
        padding_mode: str = "zeros",
        diffusivity: str = "charbonnier",
        contrast: Contrast | Sequence[Contrast] = 1.0,
        learn_contrast: bool = False,
        similarity: str = "channel",
        zero_init: bool = False,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        channels = [in_channels] if isinstance(in_channels, int) else list(in_channels)
        if not channels:
            raise ValueError("in_channels must name the channels of at least one stage, got none")
        contrasts = list(contrast) if isinstance(contrast, Sequence) else [contrast] * len(channels)
        if len(contrasts) != len(channels):
            raise ValueError(
                f"contrast must be one for all or one for each of the {len(channels)} stages, got {len(contrasts)}"
            )
        options: dict[str, Any] = dict(
            kernel_size=kernel_size,
            dilation=dilation,
            groups=groups,
            bias=bias,
            padding_mode=padding_mode,
            diffusivity=diffusivity,
            learn_contrast=learn_contrast,
            similarity=similarity,
            zero_init=zero_init,
            eps=eps,
            momentum=momentum,
            backend=backend,
            device=device,
            dtype=dtype,
        )
        self.stages = nn.ModuleList(
            SDN(own, guidance, contrast=own_contrast, **options)
            for own, guidance, own_contrast in zip(channels, [*channels[1:], channels[-1]], contrasts)
        )
        self.guidance = nn.Conv2d(channels[-1], channels[-1], 3, stride=2, padding=1, device=device, dtype=dtype)

    def align_guidance(self, features: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """Each stage's guidance as its difference convolution reads it (see :meth:`SDN.align_guidance`)."""
        return tuple(sdn.align_guidance(own, guide) for sdn, own, guide in self._guided(features))

    def forward(self, features: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """Sharpen the stages of a feature pyramid, given fine to coarse."""
        return tuple(sdn(own, guide) for sdn, own, guide in self._guided(features))

    def _guided(self, features: Iterable[Tensor]) -> list[tuple[Any, Tensor, Tensor]]:
        stages = (features,) if isinstance(features, Tensor) else tuple(features)
        if len(stages) != len(self.stages):
            raise ValueError(f"features must have {len(self.stages)} stages, fine to coarse, got {len(stages)}")
        return list(zip(self.stages, stages, (*stages[1:], self.guidance(stages[-1]))))
