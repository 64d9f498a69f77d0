"""What kernels take as one argument, and hand on as one: NamedTuples that the host fills.

Triton specialises the members as if they were arguments: a stride of 1 is a constant, a multiple of 16 is known to be
one, and None for a tensor is a constant that ``if x.ptr is not None`` asks for. Two things are different. A member
cannot be left out of that, so sizes that change from image to image are arguments of their own. And what is assigned
to a name in a kernel has no constants of the compiler any more: a tuple with a None in it can be handed on, not made.
"""

from typing import Any, NamedTuple


class Strides(NamedTuple):
    """How far apart in memory neighbours are: images, channels, rows, columns."""

    n: Any
    c: Any
    h: Any
    w: Any


class MatrixStrides(NamedTuple):
    """How far apart neighbours are in one matrix for each group: groups, rows, columns."""

    group: Any
    row: Any
    column: Any


class EdgeWeightStrides(NamedTuple):
    """How far apart neighbours are in the weight of edges: groups, the two ends of an edge, outputs, taps, channels."""

    group: Any
    end: Any
    output: Any
    tap: Any
    channel: Any


class Steps(NamedTuple):
    """How far apart the centres of neighbouring outputs are, and the taps of the kernel."""

    step_h: Any
    step_w: Any
    dilation_h: Any
    dilation_w: Any


class Geometry(NamedTuple):
    """Sizes of input and output, and which pixels are centres and taps; see ``geometry_of`` in pixels.py."""

    H: Any
    W: Any
    HO: Any
    WO: Any
    origin_h: Any  # the centre of the first output
    origin_w: Any
    step_h: Any
    step_w: Any
    dilation_h: Any
    dilation_w: Any


class Contrast(NamedTuple):
    """The contrast k: a tensor with its stride, or None for both and the inverse of one number, which else is 1."""

    ptr: Any
    inverse: Any
    stride: Any


class Ratio(NamedTuple):
    """The lines of a smaller image over those of the larger one that it is resized to."""

    h: Any
    w: Any


class Normalisation(NamedTuple):
    """Batch normalisation in evaluation: its statistics, and the parameters that it may have."""

    mean: Any
    variance: Any
    weight: Any
    bias: Any
    eps: Any


class TwoPixelTile(NamedTuple):
    """A tile of which a thread loads two pixels at a time: places of the first ones, and where the second ones are."""

    offsets: Any  # of the words of the first pixels, [PIXELS // 2, WORDS]
    rows: Any  # of the first pixels, [PIXELS // 2]
    columns: Any
    second_row: Any  # from each first pixel to its second one
    second_column: Any
    H: Any
    W: Any
    stride_h: Any  # in words
    stride_w: Any
