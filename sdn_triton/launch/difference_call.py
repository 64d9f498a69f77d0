"""What the launches of one difference convolution have in common: tensors, their layout, configurations."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sdn_triton.backend import is_interpreted
from sdn_triton.launch import similarity
from sdn_triton.launch.difference_layout import DifferenceLayout
from sdn_triton.launch.image_copy import in_channels_last
from sdn_triton.launch.plan import Rest, Tensors, launch
from sdn_triton.launch.run import as_factor
from sdn_triton.options import Contrast, DifferenceArguments, DifferenceOptions
from sdn_triton.outputs import empty_output
from sdn_triton.tuning.configs import BLOCK_WORDS, Configs, KernelConfig
from sdn_triton.tuning.lookup import config_for


@dataclass(frozen=True, eq=False)
class DifferenceCall:
    """One call, with what its kernels are told again and again."""

    input: Tensor
    guidance: Tensor
    weight: Tensor
    bias: Tensor | None
    contrast: Contrast
    layout: DifferenceLayout
    configs: Configs

    @staticmethod
    def of(arguments: DifferenceArguments, options: DifferenceOptions, configs: Configs | None) -> DifferenceCall:
        input, guidance, weight, bias, contrast = arguments
        if options.diffusivity == "constant":
            # Nothing looks at the guidance then, and the input has the one shape that every kernel can read.
            options, guidance, contrast = replace(options, similarity="channel"), input, 1.0
        layout = DifferenceLayout.of(input, guidance, weight, options)
        return DifferenceCall(input, guidance, weight, bias, contrast, layout, configs or {})

    def empty_output(self) -> Tensor:
        """A tensor for the output, with nothing in it."""
        return empty_output((self.input.shape[0], self.weight.shape[0], *self.layout.output_size), like=self.input)

    @property
    def in_pairs(self) -> DifferenceCall:
        """This call if its channels can be read packed, else the same call on copies."""
        # Were the property kept, the call would refer to itself, and its tensors stay until a garbage collection.
        return self if self.layout.can_pair else self._copied

    @cached_property
    def _copied(self) -> DifferenceCall:
        """This call on channels-last copies, made at the first use.

        Channels that were added have differences of 0, whatever their weight; that is 0, too.
        """
        channels = self.layout.copied_channels
        added = channels // self.layout.groups - self.layout.channels
        input = in_channels_last(self.input, channels)
        guidance = input if self.layout.is_one_image else in_channels_last(self.guidance, channels)
        contrast, weight = self.contrast, self.weight
        if added:
            weight = F.pad(weight, (0, 0, 0, 0, 0, added))
            if isinstance(contrast, Tensor) and contrast.ndim:
                contrast = F.pad(contrast, (0, added), value=1.0)
        layout = DifferenceLayout.of(input, guidance, weight, self.layout.options)
        return replace(self, input=input, guidance=guidance, weight=weight, contrast=contrast, layout=layout)

    def config(self, kernel: str, needs_contrast: bool = False) -> KernelConfig:
        """The configuration of a kernel: the caller's, or the one for this size.

        Raises:
            ValueError: the caller's is packed, where no copy of the tensors could be read packed.
        """
        layout = self.layout
        if kernel not in self.configs:
            return config_for(kernel, layout.work(kernel, needs_contrast), layout.target)
        config = self.configs[kernel]
        can_pair = layout.can_pair_in(kernel, needs_contrast) or layout.can_pair_copies(kernel, needs_contrast)
        if config.pairs and not (can_pair and config.block_c == BLOCK_WORDS * layout.in_word):
            raise ValueError(f"{kernel} cannot read packed channels here: {config}")
        return config

    def similarity_maps(self) -> Tensor | None:
        """The similarity of every tap, for all channels at once; None where each channel has its own."""
        if not self.layout.uses_maps:
            return None
        return similarity.forward(
            self.guidance, self.contrast, self.layout.options, self.layout.output_size, self.config("similarity")
        )

    def packed_weight(self) -> Tensor:
        """The weight as [O, kh, kw, C / groups], contiguous; a copy only where it is stored otherwise or rounded."""
        weight = self.weight if self.layout.is_depthwise else as_factor(self.weight, self.layout.arithmetic)
        return weight.permute(0, 2, 3, 1).contiguous()

    def launch(
        self,
        *,
        kernel: Any,
        tensors: Tensors,
        config: KernelConfig,
        rest: Callable[[], Rest],
        tuned: str,
        facts: tuple[Hashable, ...] = (),
    ) -> None:
        """Launch ``kernel``; ``facts`` are what ``rest`` depends on besides layout and tensors."""
        launch(kernel=kernel, tensors=tensors, config=config, rest=rest, facts=(self.layout, *facts), tuned=tuned)

    def pair_constants(self) -> dict[str, Any]:
        """What kernels that read pairs are told besides ``constants``."""
        return {
            "UNIT_CONTRAST": not isinstance(self.contrast, Tensor) and self.contrast == 1.0,
            "PTX": torch.version.hip is None and not is_interpreted(),
        }
