"""Where the elements of images lie, which is what kernels are told about tensors besides their addresses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from sdn_triton.kernels.arguments import Strides

WORD_BYTES = 4
"""What two channels of a half type take."""
LOADED_BYTES = 16
"""What a thread loads at once."""
MOST_LAYOUTS = 4096
"""That are remembered."""


class Layout(NamedTuple):
    """Sizes and strides of an image."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def stride(self, axis: int) -> int:
        """As a tensor says it."""
        return self.strides[axis]

    @staticmethod
    def of(tensor: Tensor) -> Layout:
        return Layout(tensor.shape, tensor.stride())


Image: TypeAlias = Tensor | Layout


def strides_of(image: Image | None) -> Strides:
    """The strides of an image as kernels take them; zeros where there is no image."""
    if image is None:
        return Strides(0, 0, 0, 0)
    return Strides(*(image.strides if isinstance(image, Layout) else image.stride()))


def needs_64_bits(*images: Image, margin: int = 0) -> bool:
    """Whether offsets inside one image pass 32 bits, or up to ``margin`` pixels outside it.

    Images themselves are always told apart in 64 bits.
    """
    return any(reaches_64_bits(image.shape[1:], strides_of(image)[1:], margin) for image in images)


def reaches_64_bits(sizes: Sequence[int], strides: Sequence[int], margin: int = 0) -> bool:
    """The same of an image of these sizes and strides."""
    return sum((size + margin) * stride for size, stride in zip(sizes, strides)) >= 2**31


def starts_at_word(tensor: Tensor) -> bool:
    """Whether the elements start at a whole word of memory; by their place in the storage where there is no memory.

    That of another library, which PyTorch took over, need not start there itself.
    """
    if tensor.is_meta or isinstance(tensor, FakeTensor):  # a fake one has an address, but warns who asks for it
        return tensor.storage_offset() * tensor.itemsize % WORD_BYTES == 0
    return tensor.data_ptr() % WORD_BYTES == 0


def lies_in_words(image: Image, item_bytes: int) -> bool:
    """Whether the channels of each pixel lie together, and all pixels as far apart as loads of 16 bytes want them.

    Where the first pixel lies is another question: :func:`starts_at_word`.
    """
    n, c, h, w = strides_of(image)
    return c == 1 and all(stride * item_bytes % LOADED_BYTES == 0 for stride in (n, h, w))


def as_long_rows(*images: Tensor) -> tuple[Layout, ...]:
    """The same memory as images of one long row, or as one image, where the strides of all of them allow it.

    What treats every pixel alike then has no tiles that overhang the end of a row.
    """
    return _long_rows(tuple([Layout.of(image) for image in images]))


@lru_cache(maxsize=MOST_LAYOUTS)
def _long_rows(images: tuple[Layout, ...]) -> tuple[Layout, ...]:
    if all(x.stride(2) == x.shape[3] * x.stride(3) or x.shape[2] == 1 for x in images):
        images = tuple(
            Layout((*x.shape[:2], 1, x.shape[2] * x.shape[3]), (*x.strides[:2], 0, x.stride(3))) for x in images
        )
    if all(x.shape[2] == 1 and (x.stride(0) == x.shape[3] * x.stride(3) or x.shape[0] == 1) for x in images):
        images = tuple(
            Layout((1, x.shape[1], 1, x.shape[0] * x.shape[3]), (0, x.stride(1), 0, x.stride(3))) for x in images
        )
    return images
