"""What the launches of a difference convolution depend on besides values: sizes, strides, options, and what follows.

A network makes the same calls in every step. Calls of equal layout share one object, which remembers what was derived
from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from sdn_triton.kernels.arguments import Strides
from sdn_triton.launch.image_layout import (
    LOADED_BYTES,
    MOST_LAYOUTS,
    WORD_BYTES,
    Image,
    Layout,
    lies_in_words,
    needs_64_bits,
    reaches_64_bits,
    starts_at_word,
)
from sdn_triton.launch.run import arithmetic_of, steps_of, target_of
from sdn_triton.options import DifferenceOptions
from sdn_triton.tuning.channels_last import copies_pay, padded
from sdn_triton.tuning.configs import PAIRED_CHANNELS, KernelConfig, Target
from sdn_triton.tuning.defaults import Work, edges_pay, has_pairs
from sdn_triton.tuning.kernels import KERNELS

MOST_TILE_ROWS = 64
"""Of pixels in a tile, at most."""


@dataclass(frozen=True, eq=False)
class DifferenceLayout:
    """A call without its tensors; calls that look alike share one."""

    input: Layout
    guidance: Layout
    weight: tuple[int, ...]
    dtype: torch.dtype
    options: DifferenceOptions
    arithmetic: str
    target: Target
    start_at_words: bool
    """Whether input and guidance both start at a whole word."""
    is_one_image: bool
    """Whether input and guidance are the same tensor."""

    @staticmethod
    def of(input: Tensor, guidance: Tensor, weight: Tensor, options: DifferenceOptions) -> DifferenceLayout:
        return _layout(
            Layout.of(input),
            Layout.of(guidance),
            weight.shape,
            input.dtype,
            options,
            arithmetic_of(input.dtype),
            target_of(input.device),
            starts_at_word(input) and starts_at_word(guidance),
            guidance is input,
        )

    @cached_property
    def uses_maps(self) -> bool:
        """Whether all channels share one similarity, which is computed before."""
        return self.options.similarity == "vector"

    @cached_property
    def is_depthwise(self) -> bool:
        return self.options.groups == self.input.shape[1] > 1 and not self.uses_maps

    @cached_property
    def output_size(self) -> tuple[int, int]:
        return self.options.output_size(self.input.shape[2], self.input.shape[3])

    @cached_property
    def channels(self) -> int:
        """Channels of one group; all of them in a depthwise convolution, whose kernels know no groups."""
        return self.input.shape[1] if self.is_depthwise else self.weight[1]

    @cached_property
    def outputs(self) -> int:
        """Outputs of one group, or all of them likewise."""
        return self.weight[0] if self.is_depthwise else self.weight[0] // self.options.groups

    @cached_property
    def groups(self) -> int:
        return 1 if self.is_depthwise else self.options.groups

    @cached_property
    def multiplier(self) -> int:
        """Outputs of each channel of a depthwise convolution."""
        return self.weight[0] // self.input.shape[1]

    @cached_property
    def taps(self) -> int:
        return self.options.kernel_size[0] * self.options.kernel_size[1]

    @cached_property
    def pixels(self) -> int:
        """Those of the batch of inputs."""
        images, _, rows, columns = self.input.shape
        return images * rows * columns

    @cached_property
    def margin(self) -> int:
        """Pixels outside an image that offsets may reach."""
        return sum(self.options.reach) + sum(self.options.padding)

    @cached_property
    def in_word(self) -> int:
        """Channels in a word."""
        return WORD_BYTES // self.dtype.itemsize

    @cached_property
    def loaded_at_once(self) -> int:
        """Numbers that a thread loads at once."""
        return LOADED_BYTES // self.dtype.itemsize

    @cached_property
    def channels_at_once(self) -> int:
        """Packed kernels take a multiple of so many channels: those of a product, or what a thread loads."""
        return self.loaded_at_once if self.is_depthwise else PAIRED_CHANNELS

    @cached_property
    def copied_channels(self) -> int:
        """Those of a channels-last copy, all groups together."""
        return self.groups * (self.channels if self.is_depthwise else padded(self.channels))

    @cached_property
    def word_strides(self) -> Strides:
        """The strides of input and guidance, which are the same, in words; those of a pixel lie together."""
        n, _, h, w = self.input.strides
        return Strides(n // self.in_word, 1, h // self.in_word, w // self.in_word)

    @cached_property
    def has_pairs(self) -> bool:
        """Whether there are packed kernels for such tensors, however these lie."""
        rows, columns = self.output_size
        return (
            self.arithmetic != "ieee"
            and self.options.similarity == "channel"
            and self.taps > 1
            and not (self.is_depthwise and self.multiplier > 1)
            and self.weight[0] * rows * columns < 2**31
        )

    @cached_property
    def can_pair(self) -> bool:
        """Whether channels of input and guidance can be read packed: they lie together, alike in both."""
        return (
            self.has_pairs
            and self.channels % self.channels_at_once == 0
            and self.input.strides == self.guidance.strides
            and lies_in_words(self.input, self.dtype.itemsize)
            and self.start_at_words
            and not needs_64_bits(self.input, margin=self.margin)
        )

    def can_pair_in(self, kernel: str, needs_contrast: bool) -> bool:
        """Whether channels can be read packed in ``kernel``.

        That of a data gradient knows no groups, and no gradient of the contrast. It writes packed channels, too: the
        gradient of an image whose pixels share memory is larger than that image, and where they share all of it (a
        stride of 0) ``empty_like`` need not put its channels together.
        """
        if not has_pairs(kernel, self.arithmetic):
            return False
        if KERNELS[kernel].step != "data_gradient":
            return self.can_pair
        _, channels, rows, columns = self.input.shape
        return (
            self.can_pair
            and self._has_paired_gradient(needs_contrast)
            and 0 not in self.input.strides
            and channels * rows * columns < 2**31
        )

    def _has_paired_gradient(self, needs_contrast: bool) -> bool:
        return self.groups == 1 and not needs_contrast and (self.is_depthwise or self._products_are_near)

    @cached_property
    def _products_are_near(self) -> bool:
        """Whether offsets into the products of one row of tiles stay below 32 bits, however far the taps reach."""
        rows = min(self.output_size[0], MOST_TILE_ROWS + 2 * self.options.reach[0])
        numbers = rows * self.output_size[1] * (self.taps - 1) * padded(self.channels)
        return numbers // self.in_word < 2**31

    def can_pair_copies(self, kernel: str, needs_contrast: bool) -> bool:
        """Whether they could be in channels-last copies, which have more channels where these are no multiple of 32.

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
        """Whether ``kernel`` reads channels-last copies with this configuration: the tensors cannot be read packed."""
        return config.pairs and not self.can_pair_in(kernel, needs_contrast)

    @cached_property
    def work(self) -> Callable[[str, bool], Work]:
        """The size that the configuration of a kernel is chosen by.

        Channels may be read packed where they lie together, and where copies pay in which they do.
        """
        return cache(self._work)

    def _work(self, kernel: str, needs_contrast: bool) -> Work:
        work = self._work_as_it_lies(kernel, needs_contrast)
        if work.can_pair or not self.can_pair_copies(kernel, needs_contrast):
            return work
        images = 1 if self.is_one_image else 2
        return work._replace(can_pair=copies_pay(kernel, work, self.pixels, images, self.target))

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

    def _channels_in(self, kernel: str) -> int:
        if KERNELS[kernel].family == "similarity":
            return self.guidance.shape[1]
        if KERNELS[kernel].step == "products":
            channels = padded(self.channels) if self.work("difference_data_gradient", False).can_pair else self.channels
            return channels if kernel == "edge_products" else (self.taps - 1) * channels
        return self.channels

    @cached_property
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

    def constants(self, *images: Image) -> dict[str, Any]:
        """The compile-time options; ``images`` are those that a kernel addresses besides input and guidance.

        Of the guidance of vectors it addresses none: there it reads maps, which are among ``images``.
        """
        own = (self.input,) if self.uses_maps else (self.input, self.guidance)
        return {
            "KERNEL_H": self.options.kernel_size[0],
            "KERNEL_W": self.options.kernel_size[1],
            "DIFFUSIVITY": self.options.diffusivity,
            "ZERO_FLUX": self.options.border == "zero_flux",
            "INT64": needs_64_bits(*own, *images, margin=self.margin),
        }


_layout = lru_cache(maxsize=MOST_LAYOUTS)(DifferenceLayout)
