"""What one call computes: names, sizes and taps, once checked, in a form every path understands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from torch import Tensor

Diffusivity = Literal["charbonnier", "exponential", "rational", "constant"]
"""The function ``g`` that damps a difference; :func:`sdn_triton.semantic_difference_conv2d` has the formulas."""
Similarity = Literal["channel", "vector"]
"""Whether guidance differs channel by channel, or as one vector for all channels."""
PaddingMode = Literal["zeros", "replicate", "reflect", "circular", "zero_flux"]
"""What lies outside the image: ``nn.Conv2d``'s modes, and taps that contribute nothing."""
Activation = Literal["relu", "identity"]
"""What follows the normalisation of a response."""
Backend = Literal["auto", "triton", "eager"]
"""Which path computes: the Triton kernels where they can, always, or never."""

DIFFUSIVITIES: tuple[Diffusivity, ...] = get_args(Diffusivity)
SIMILARITIES: tuple[Similarity, ...] = get_args(Similarity)
PADDING_MODES: tuple[PaddingMode, ...] = get_args(PaddingMode)
PADDED_BEFORE: tuple[PaddingMode, ...] = ("replicate", "reflect", "circular")
"""Padding modes for which the tensors are padded before an operator sees them."""
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
BACKENDS: tuple[Backend, ...] = get_args(Backend)

Contrast = float | Tensor
"""The contrast parameter k: a float, a 0-d tensor, or one value per channel ``[C]``."""


class Tap(NamedTuple):
    """One kernel position other than the centre, and the input pixel it reaches from the centre."""

    row: int
    column: int
    dy: int
    dx: int


@dataclass(frozen=True)
class DifferenceOptions:
    """The options of one semantic difference convolution, normalised to pairs.

    ``border`` is what happens at taps outside the image: ``"zeros"`` or ``"zero_flux"``. The other padding modes
    never get here: they pad the tensors first and leave nothing outside.
    """

    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    border: str = "zeros"
    diffusivity: str = "charbonnier"
    similarity: str = "channel"

    @property
    def reach(self) -> tuple[int, int]:
        """Rows and columns from the centre to the outermost tap."""
        return (
            self.dilation[0] * (self.kernel_size[0] // 2),
            self.dilation[1] * (self.kernel_size[1] // 2),
        )

    @property
    def origin(self) -> tuple[int, int]:
        """Row and column of the centre of output position (0, 0); negative where the centre lies in the padding."""
        return self.reach[0] - self.padding[0], self.reach[1] - self.padding[1]

    @property
    def taps(self) -> tuple[Tap, ...]:
        """All taps but the centre, row by row; tap ``i`` and tap ``-1 - i`` are opposite."""
        rows, columns = self.kernel_size
        return tuple(
            Tap(row, column, self.dilation[0] * (row - rows // 2), self.dilation[1] * (column - columns // 2))
            for row in range(rows)
            for column in range(columns)
            if (row, column) != (rows // 2, columns // 2)
        )

    def without_padding(self) -> DifferenceOptions:
        """The same options for tensors that were padded already."""
        # Spelled out: torch.compile of torch 2.6 cannot trace dataclasses.replace.
        return DifferenceOptions(
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=(0, 0),
            dilation=self.dilation,
            groups=self.groups,
            border=self.border,
            diffusivity=self.diffusivity,
            similarity=self.similarity,
        )

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the output, as for ``torch.nn.functional.conv2d``."""
        # Spelled out, since every call asks for it.
        down, right = self.dilation[0] * (self.kernel_size[0] - 1), self.dilation[1] * (self.kernel_size[1] - 1)
        rows = (height + 2 * self.padding[0] - down - 1) // self.stride[0] + 1
        columns = (width + 2 * self.padding[1] - right - 1) // self.stride[1] + 1
        return rows, columns


@dataclass(frozen=True)
class BlockOptions:
    """The options of one block in evaluation: a difference convolution, and the ``eps`` of its normalisation."""

    difference: DifferenceOptions
    eps: float


class DifferenceArguments(NamedTuple):
    """What a difference convolution is a function of."""

    input: Tensor
    guidance: Tensor
    weight: Tensor
    bias: Tensor | None
    contrast: Contrast


class FusionArguments(NamedTuple):
    """What a feature fusion is a function of."""

    input: Tensor
    response: Tensor
    weight: Tensor
    bias: Tensor | None
    scale: Tensor | None
    shift: Tensor | None


class BlockArguments(NamedTuple):
    """What a block in evaluation is a function of: a difference convolution, its normalisation and a fusion."""

    input: Tensor
    guidance: Tensor
    weight: Tensor
    bias: Tensor | None
    contrast: Contrast
    mean: Tensor
    variance: Tensor
    norm_weight: Tensor | None
    norm_bias: Tensor | None
    fusion_weight: Tensor
    fusion_bias: Tensor | None

    @property
    def difference(self) -> DifferenceArguments:
        """Those of the difference convolution."""
        return DifferenceArguments(self.input, self.guidance, self.weight, self.bias, self.contrast)


Arguments = DifferenceArguments | FusionArguments | BlockArguments


class DifferenceGradients(NamedTuple):
    """The gradients of a difference convolution; None where not asked for."""

    input: Tensor | None
    guidance: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    contrast: Tensor | None


class DifferenceNeeds(NamedTuple):
    """Which gradients of a difference convolution are asked for."""

    input: bool
    guidance: bool
    weight: bool
    bias: bool
    contrast: bool


class FusionGradients(NamedTuple):
    """The gradients of a feature fusion; None where not asked for."""

    input: Tensor | None
    response: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    scale: Tensor | None
    shift: Tensor | None


class FusionNeeds(NamedTuple):
    """Which gradients of a feature fusion are asked for."""

    input: bool
    response: bool
    weight: bool
    bias: bool
    scale: bool
    shift: bool


Needs = DifferenceNeeds | FusionNeeds
