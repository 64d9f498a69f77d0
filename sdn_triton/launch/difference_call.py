"""What the launches of one difference convolution have in common: sizes, options, arguments, configurations."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sdn_triton.backend import is_interpreted
from sdn_triton.kernels.arguments import Strides
from sdn_triton.launch import similarity
from sdn_triton.launch.image_copy import in_channels_last
from sdn_triton.launch.plan import Rest, Tensors, launch
from sdn_triton.launch.run import (
    WORD_BYTES,
    arithmetic_of,
    as_factor,
    needs_64_bits,
    reaches_64_bits,
    starts_at_word,
    steps_of,
    target_of,
)
from sdn_triton.options import Contrast, DifferenceArguments, DifferenceOptions
from sdn_triton.outputs import empty_output
from sdn_triton.tuning.channels_last import copies_pay, padded
from sdn_triton.tuning.configs import BLOCK_WORDS, PAIRED_CHANNELS, Configs, KernelConfig
from sdn_triton.tuning.defaults import Work, edges_pay, has_pairs
from sdn_triton.tuning.kernels import KERNELS
from sdn_triton.tuning.lookup import config_for

MOST_TILE_ROWS = 64
"""Of pixels, in a tile."""
LOADED_BYTES = 16
"""What a thread loads at once."""


def lies_in_words(image: Tensor) -> bool:
    """Whether the channels of each pixel lie together, and all pixels as far apart as loads of 16 bytes want them."""
    n, c, h, w = image.stride()
    return (
        c == 1
        and all(stride * image.element_size() % LOADED_BYTES == 0 for stride in (n, h, w))
        and starts_at_word(image)
    )


@dataclass(frozen=True, eq=False)
class DifferenceCall:
    """One call, with what its kernels are told again and again."""

    input: Tensor
    guidance: Tensor
    weight: Tensor
    bias: Tensor | None
    contrast: Contrast
    options: DifferenceOptions
    configs: Configs

    @staticmethod
    def of(arguments: DifferenceArguments, options: DifferenceOptions, configs: Configs | None) -> DifferenceCall:
        input, guidance, weight, bias, contrast = arguments
        if options.diffusivity == "constant":
            # Nothing looks at the guidance then, and the input has the one shape that every kernel can read.
            options, guidance, contrast = replace(options, similarity="channel"), input, 1.0
        return DifferenceCall(input, guidance, weight, bias, contrast, options, configs or {})

    @property
    def is_depthwise(self) -> bool:
        return self.options.groups == self.input.shape[1] > 1 and not self.uses_maps

    @property
    def uses_maps(self) -> bool:
        return self.options.similarity == "vector"

    @cached_property
    def output_size(self) -> tuple[int, int]:
        return self.options.output_size(self.input.shape[2], self.input.shape[3])

    def empty_output(self) -> Tensor:
        """A tensor for the output, with nothing in it."""
        return empty_output((self.input.shape[0], self.weight.shape[0], *self.output_size), like=self.input)

    @property
    def channels(self) -> int:
        """Channels of one group; all of them in a depthwise convolution, whose kernels know no groups."""
        return self.input.shape[1] if self.is_depthwise else self.weight.shape[1]

    @property
    def outputs(self) -> int:
        """Outputs of one group, or all of them likewise."""
        return self.weight.shape[0] if self.is_depthwise else self.weight.shape[0] // self.options.groups

    @property
    def groups(self) -> int:
        return 1 if self.is_depthwise else self.options.groups

    @property
    def multiplier(self) -> int:
        return self.weight.shape[0] // self.input.shape[1]

    @property
    def taps(self) -> int:
        return self.options.kernel_size[0] * self.options.kernel_size[1]

    @cached_property
    def arithmetic(self) -> str:
        return arithmetic_of(self.input.dtype)

    @cached_property
    def can_pair(self) -> bool:
        """Whether channels of input and guidance can travel in words: they lie together, alike in both."""
        return (
            self.has_pairs
            and self.channels % self.channels_at_once == 0
            and self.input.stride() == self.guidance.stride()
            and lies_in_words(self.input)
            and starts_at_word(self.guidance)
            and not needs_64_bits(self.input, margin=self.margin)
        )

    @property
    def in_word(self) -> int:
        """Channels in a word."""
        return WORD_BYTES // self.input.element_size()

    @property
    def loaded_at_once(self) -> int:
        """Numbers that a thread loads at once."""
        return LOADED_BYTES // self.input.element_size()

    @property
    def channels_at_once(self) -> int:
        """Kernels in words take a multiple of so many channels: those of a product, or what a thread loads."""
        return self.loaded_at_once if self.is_depthwise else PAIRED_CHANNELS

    @cached_property
    def has_pairs(self) -> bool:
        """Whether there are kernels that take channels in words for such tensors, however they lie."""
        rows, columns = self.output_size
        return (
            self.arithmetic != "ieee"
            and self.options.similarity == "channel"
            and self.taps > 1
            and not (self.is_depthwise and self.multiplier > 1)
            and self.weight.shape[0] * rows * columns < 2**31
        )

    def can_pair_in(self, kernel: str, needs_contrast: bool) -> bool:
        """Whether they can in ``kernel``: a data gradient's knows no groups, and no gradient of the contrast.

        It writes pairs, too. The gradient of an image whose pixels share memory is larger than that image, and where
        they share all of it (a stride of 0) ``empty_like`` need not put its channels together.
        """
        if not has_pairs(kernel, self.arithmetic):
            return False
        if KERNELS[kernel].step != "data_gradient":
            return self.can_pair
        return (
            self.can_pair
            and self._has_paired_gradient(needs_contrast)
            and 0 not in self.input.stride()
            and self.input.shape[1:].numel() < 2**31
        )

    def _has_paired_gradient(self, needs_contrast: bool) -> bool:
        return self.groups == 1 and not needs_contrast and (self.is_depthwise or self._products_are_near)

    @property
    def _products_are_near(self) -> bool:
        """Whether offsets into the products of one row of tiles stay below 32 bits, however far the taps reach."""
        rows = min(self.output_size[0], MOST_TILE_ROWS + 2 * self.options.reach[0])
        numbers = rows * self.output_size[1] * (self.taps - 1) * padded(self.channels)
        return numbers // self.in_word < 2**31

    def can_pair_copies(self, kernel: str, needs_contrast: bool) -> bool:
        """Whether they could in channels-last copies, which have more channels where these are no multiple of 32.

        Channels are added to one group only: to many small ones it would be many times what they have. To those of a
        depthwise convolution, which are groups themselves, none are.
        """
        rows, columns = self.input.shape[2:]
        channels = self.copied_channels
        can_fill_up = self.groups == 1 and not self.is_depthwise
        return (
            self.has_pairs
            and has_pairs(kernel, self.arithmetic)
            and (can_fill_up or self.channels % self.channels_at_once == 0)
            and (KERNELS[kernel].step != "data_gradient" or self._has_paired_gradient(needs_contrast))
            and not reaches_64_bits((rows, columns), (columns * channels, channels), self.margin)
        )

    def reads_copies(self, kernel: str, config: KernelConfig, needs_contrast: bool = False) -> bool:
        """Whether ``kernel`` reads channels-last copies with this configuration, for want of pairs in the tensors."""
        return config.pairs and not self.can_pair_in(kernel, needs_contrast)

    @cached_property
    def in_pairs(self) -> DifferenceCall:
        """This call if its channels can be read in pairs, else the same call on copies, made at the first use.

        Channels that were added have differences of 0, whatever their weight; that is 0, too.
        """
        if self.can_pair:
            return self
        channels = self.copied_channels
        added = channels // self.groups - self.channels
        input = in_channels_last(self.input, channels)
        guidance = input if self.guidance is self.input else in_channels_last(self.guidance, channels)
        contrast, weight = self.contrast, self.weight
        if added:
            weight = F.pad(weight, (0, 0, 0, 0, 0, added))
            if isinstance(contrast, Tensor) and contrast.ndim:
                contrast = F.pad(contrast, (0, added), value=1.0)
        return replace(self, input=input, guidance=guidance, weight=weight, contrast=contrast)

    @property
    def copied_channels(self) -> int:
        """Those of a channels-last copy, all groups together."""
        return self.groups * (self.channels if self.is_depthwise else padded(self.channels))

    @property
    def pixels(self) -> int:
        """Those of the batch of inputs."""
        return self.input.shape[0] * self.input.shape[2:].numel()

    @property
    def images(self) -> int:
        """How many there are to copy: input and guidance, if they are not one."""
        return 1 if self.guidance is self.input else 2

    def _channels_in(self, kernel: str) -> int:
        if KERNELS[kernel].family == "similarity":
            return self.guidance.shape[1]
        if KERNELS[kernel].step == "products":
            in_pairs = self.work("difference_data_gradient").can_pair
            channels = padded(self.channels) if in_pairs else self.channels
            return channels if kernel == "edge_products" else (self.taps - 1) * channels
        return self.channels

    @property
    def margin(self) -> int:
        """Pixels outside an image that offsets may reach."""
        return sum(self.options.reach) + sum(self.options.padding)

    def config(self, kernel: str, needs_contrast: bool = False) -> KernelConfig:
        """The configuration of a kernel: the caller's, or the one for this size.

        Raises:
            ValueError: the caller's asks for pairs where no copy of the tensors could be read in pairs.
        """
        if kernel in self.configs:
            config = self.configs[kernel]
            can_pair = self.can_pair_in(kernel, needs_contrast) or self.can_pair_copies(kernel, needs_contrast)
            if config.pairs and not (can_pair and config.block_c == BLOCK_WORDS * self.in_word):
                raise ValueError(f"{kernel} cannot read channels in pairs here: {config}")
            return config
        return config_for(kernel, self.work(kernel, needs_contrast), target_of(self.input.device))

    def work(self, kernel: str, needs_contrast: bool = False) -> Work:
        """The size that the configuration of a kernel is chosen by.

        Channels may travel in pairs where they lie together, and where copies pay in which they do.
        """
        work = self._work_as_it_lies(kernel, needs_contrast)
        if work.can_pair or not self.can_pair_copies(kernel, needs_contrast):
            return work
        pays = copies_pay(kernel, work, self.pixels, self.images, target_of(self.input.device))
        return work._replace(can_pair=pays)

    def _work_as_it_lies(self, kernel: str, needs_contrast: bool) -> Work:
        rows, columns = self.input.shape[2:] if KERNELS[kernel].is_over_input else self.output_size
        return Work(
            arithmetic=self.arithmetic,
            images=self.input.shape[0],
            rows=rows,
            columns=columns,
            channels=self._channels_in(kernel),
            outputs=self.outputs,
            groups=self.groups,
            taps=self.taps,
            can_pair=self.can_pair_in(kernel, needs_contrast),
            channels_last=self.input.stride(1) == 1,
        )

    @property
    def forward_kernel(self) -> str:
        """The kernel that fills the output."""
        return "depthwise_forward" if self.is_depthwise else "difference_forward"

    def products_kernel(self, channels_last: bool) -> str:
        """The kernel whose products the data gradient gathers, of an incoming gradient in such a layout."""
        takes_edges = (
            channels_last
            and self.input.stride(1) == 1
            and self.options.stride == (1, 1)
            and not self.uses_maps
            and edges_pay(self.channels)
        )
        return "edge_products" if takes_edges else "tap_products"

    def similarity_maps(self) -> Tensor | None:
        """The similarity of every tap, for all channels at once; None where each channel has its own."""
        if not self.uses_maps:
            return None
        return similarity.forward(
            self.guidance, self.contrast, self.options, self.output_size, self.config("similarity")
        )

    def packed_weight(self) -> Tensor:
        """The weight as [O, kh, kw, C / groups], contiguous; a copy only where it is stored otherwise or rounded."""
        weight = self.weight if self.is_depthwise else as_factor(self.weight, self.arithmetic)
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
        """Launch ``kernel``; ``facts`` are what ``rest`` depends on besides what is known of the call."""
        known = self.options, self.arithmetic, *facts
        launch(kernel=kernel, tensors=tensors, config=config, rest=rest, facts=known, tuned=tuned)

    @property
    def word_strides(self) -> Strides:
        """The strides of input and guidance, which are the same, in words; those of a pixel lie together."""
        n, _, h, w = self.input.stride()
        return Strides(n // self.in_word, 1, h // self.in_word, w // self.in_word)

    def pair_constants(self) -> dict[str, Any]:
        """What kernels that read pairs are told besides ``constants``."""
        return {
            "UNIT_CONTRAST": not isinstance(self.contrast, Tensor) and self.contrast == 1.0,
            "PTX": torch.version.hip is None and not is_interpreted(),
        }

    def geometry(self) -> dict[str, Any]:
        """Sizes, and where centres and taps are."""
        return {
            "H": self.input.shape[2],
            "W": self.input.shape[3],
            "HO": self.output_size[0],
            "WO": self.output_size[1],
            "origin_h": self.options.origin[0],
            "origin_w": self.options.origin[1],
            "steps": steps_of(self.options),
        }

    def constants(self, *tensors: Tensor) -> dict[str, Any]:
        """The compile-time options; ``tensors`` are the images that a kernel addresses besides input and guidance.

        Of the guidance of vectors it addresses none: there it reads maps, which are among ``tensors``.
        """
        images = (self.input,) if self.uses_maps else (self.input, self.guidance)
        return {
            "KERNEL_H": self.options.kernel_size[0],
            "KERNEL_W": self.options.kernel_size[1],
            "DIFFUSIVITY": self.options.diffusivity,
            "ZERO_FLUX": self.options.border == "zero_flux",
            "INT64": needs_64_bits(*images, *tensors, margin=self.margin),
        }
