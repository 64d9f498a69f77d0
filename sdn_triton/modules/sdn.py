"""The whole block, and the neck made of such blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from sdn_triton.checks import Size, integer, integers, shape
from sdn_triton.dispatch_state import is_jit_traced, is_symbolic, symbolic_call
from sdn_triton.modules import fusing
from sdn_triton.modules.difference_conv import SemanticDifferenceConv2d
from sdn_triton.modules.fusion import FeatureFusion
from sdn_triton.modules.pyramid import check_stages, in_the_form_of, stages_of
from sdn_triton.ops.resize import resized, size_of
from sdn_triton.options import Backend, Contrast, Diffusivity, PaddingMode, Similarity

Features: TypeAlias = Tensor | Iterable[Tensor] | Mapping[str, Tensor]
"""The stages of a pyramid, fine to coarse; a tensor is one stage."""


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
        input ``[N, C, H, W]``, guidance ``[N, Cg, any, any]`` or None (the input guides itself), output
        ``[N, O, H, W]``.

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
        padding_mode: PaddingMode = "zeros",
        diffusivity: Diffusivity = "charbonnier",
        contrast: Contrast = 1.0,
        learn_contrast: bool = False,
        similarity: Similarity = "channel",
        zero_init: bool = False,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        backend: Backend = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        in_channels = integer("in_channels", in_channels)
        guidance_channels = (
            in_channels if guidance_channels is None else integer("guidance_channels", guidance_channels)
        )
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

    def align_guidance(self, input: Tensor, guidance: Tensor | None = None) -> Tensor:
        """The guidance as the difference convolution sees it: projected, and resized to ``input``.

        Contrast is in units of this tensor: it is what :func:`sdn_triton.suggest_contrast` should be given.
        """
        return resized(self._projected(input if guidance is None else guidance), size_of(input))

    def _projected(self, guidance: Tensor) -> Tensor:
        """At its own size: a 1x1 convolution and an interpolation, whose weights add up to one, commute."""
        self.check_guidance(guidance)
        return guidance if self.project is None else self.project(guidance)

    def check_guidance(self, guidance: Tensor) -> None:
        """Raise unless ``guidance`` is a tensor of the channels that this block was made for."""
        if not isinstance(guidance, Tensor):
            raise TypeError(f"guidance must be a Tensor [N, Cg, any, any], got {type(guidance).__name__}")
        # What was put in the place of a part may say nothing. Vectors may be of any length; jit.trace has no numbers.
        takes_any = getattr(self.sdc, "similarity", None) != "channel" or is_jit_traced()
        expected = None if takes_any else getattr(self.project or self.sdc, "in_channels", None)
        if guidance.dim() in (3, 4) and expected is not None and guidance.shape[-3] != expected:
            raise ValueError(
                f"guidance {shape(guidance)} has {guidance.shape[-3]} channels, but this block is for {expected}: "
                f"make it with guidance_channels={guidance.shape[-3]}"
            )

    def forward(self, input: Tensor, guidance: Tensor | None = None) -> Tensor:
        """Sharpen ``input`` where ``guidance``, deeper features of the same image, changes; None: ``input`` itself."""
        if is_symbolic(input):
            return symbolic_call(self, input, guidance)
        if not isinstance(input, Tensor):
            raise TypeError(f"input must be a Tensor [N, C, H, W], got {type(input).__name__}")
        return fusing.forward(
            fusing.Parts(self.sdc, self.fusion), input, self._projected(input if guidance is None else guidance)
        )

    def load_unfold_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str = "") -> None:
        """Load a checkpoint of the public rewrite that computes this block by unfolding.

        Its keys, after ``prefix``, are ``SDC.weight``, ``BN.*``, ``out.weight`` and ``out.bias``. Keys without the
        prefix are left alone, so the state of a whole network may be given.

        Raises:
            ValueError: a key is unknown, as in a checkpoint of another operator of that name, or is missing.
        """
        names = {f"BN.{name}": f"fusion.norm.{name}" for name in self.fusion.norm.state_dict()}
        names |= {"SDC.weight": "sdc.weight", "out.weight": "fusion.weight", "out.bias": "fusion.bias"}
        loaded = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        if "BN.num_batches_tracked" not in loaded:  # as in checkpoints from before PyTorch 0.4.1
            names.pop("BN.num_batches_tracked", None)
        unknown, missing = sorted(loaded.keys() - names.keys()), sorted(names.keys() - loaded.keys())
        if unknown or missing:
            raise ValueError(
                f"state_dict is not that of an unfold-based SDN block under the prefix {prefix!r}: "
                f"unknown keys {unknown}, missing keys {missing}; expected {sorted(names)}"
            )
        own = self.state_dict()
        self.load_state_dict(own | {names[key]: value for key, value in loaded.items()})


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
        features: as many ``[N, C_i, H_i, W_i]`` as ``in_channels``, fine to coarse, in a sequence or, as torchvision's
        FPN returns them, a mapping; the output is a tuple of the same shapes, or a mapping of the same keys.

    Raises:
        TypeError, ValueError: an argument or a stage does not fit; the message names it and says what is allowed.

    Example:
        >>> import torch
        >>> neck = SDNNeck([32, 64])
        >>> features = torch.randn(2, 32, 64, 64), torch.randn(2, 64, 32, 32)
        >>> [list(f.shape) for f in neck(features)]
        [[2, 32, 64, 64], [2, 64, 32, 32]]
    """

    in_channels: tuple[int, ...] = ()  # not known of necks that were pickled before they kept it

    def __init__(
        self,
        in_channels: int | Sequence[int],
        *,
        kernel_size: Size = 3,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = False,
        padding_mode: PaddingMode = "zeros",
        diffusivity: Diffusivity = "charbonnier",
        contrast: Contrast | Sequence[Contrast] = 1.0,
        learn_contrast: bool = False,
        similarity: Similarity = "channel",
        zero_init: bool = False,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        backend: Backend = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        channels = self.in_channels = integers("in_channels", in_channels)
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

    def align_guidance(self, features: Features) -> tuple[Tensor, ...]:
        """Each stage's guidance as its difference convolution reads it (see :meth:`SDN.align_guidance`)."""
        return tuple(sdn.align_guidance(own, guide) for sdn, own, guide in self._guided(stages_of(features)))

    def forward(self, features: Features) -> Any:
        """Sharpen the stages of a feature pyramid, given fine to coarse; a mapping where they come in one."""
        if is_symbolic(features):
            return symbolic_call(self, features)
        stages = stages_of(features)
        if any(map(is_symbolic, stages)):
            return symbolic_call(self, features)
        return in_the_form_of(features, [sdn(own, guide) for sdn, own, guide in self._guided(stages)])

    def _guided(self, stages: tuple[Tensor, ...]) -> list[tuple[Any, Tensor, Tensor]]:
        check_stages(stages, len(self.stages), self.in_channels)
        return list(zip(self.stages, stages, (*stages[1:], self.guidance(stages[-1]))))
