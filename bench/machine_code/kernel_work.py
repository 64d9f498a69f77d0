"""What each kernel computes, counted in difference elements, and the plain convolution that it stands beside.

A *difference element* is one pixel, one tap of the eight and one input channel:

- forward: ``s (u[q] - u[p])`` at an output pixel p. It is a factor of one matrix product, over BLOCK_O outputs, and is
  made again for every block of outputs. A pixel and channel of a 3x3 convolution has 9 such products, of ``2 O``
  operations each.
- block: as forward, made once, for all responses; the normalisation and the product of the fusion stand outside of the
  hot loop, and count there. Beside it stand a 3x3 convolution and the 1x1 convolution over its concatenated output.
- data gradient: the edge from the pixel x that is differentiated to x + delta, with its ``s``, ``e`` and ``g'``. The
  products that it gathers were made before, by ``tap_products``: 8 for a pixel and channel, where the data gradient of
  a 3x3 convolution, which stands beside it, has 9. The times of the two kernels add up. ``edge_products`` makes 4
  differences of two products: an element is one of these, and the gathering reads each from both ends of its edge.
- weight gradient: as forward, but the long axis of its matrix product is the pixels; made again for every block of
  outputs. The weight gradient of a 3x3 convolution has 9 products.
- depthwise kernels: one pixel, tap and output. They have no matrix product, and beside each stands the depthwise 3x3
  convolution, which is bound by memory: its bytes count, not its operations.
- fusion kernels have no differences and no taps: an element is one pixel and one of the C + R concatenated channels,
  and a 1x1 convolution over a tensor that was concatenated before stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sdn_triton.tuning.configs import KernelConfig

TAPS = 8
"""The taps of a 3x3 kernel without the centre."""
IMAGES, ROWS, COLUMNS = 2, 128, 128
"""The batch that kernels are compiled for, if no other is asked for: the trips of the weight gradients depend on it."""


@dataclass(frozen=True)
class Shape:
    """Channels and outputs of a layer, the bytes of one number, and the batch."""

    channels: int
    outputs: int
    item: int
    images: int = IMAGES
    rows: int = ROWS
    columns: int = COLUMNS
    taps: int = TAPS
    """Those that a program of the weight gradient has where channels come in words."""
    edges: bool = False
    """Whether the data gradient gathers products of edges."""


@dataclass(frozen=True)
class KernelWork:
    """The work of one kernel with one configuration.

    A *step* is one tile of BLOCK_P pixels by one block of channels at one tap: the least that the innermost loop over
    differences does in a trip. ``memory``, ``reference_flop`` and ``reference_memory`` are those of one pixel and
    channel: bytes that must be moved, and what the plain convolution computes and moves.
    """

    block: int
    """Channels of a step: the input's, or the outputs' of a depthwise kernel."""
    products: int
    """Matrix products of BLOCK_P x BLOCK_C x BLOCK_O that belong to a step."""
    steps: int
    """Steps of one program."""
    repeats: int
    """How often each element is computed: by the programs of so many blocks of outputs."""
    memory: float
    streamed: float
    """Bytes an element that the first-level cache cannot save a block: weights, and the first touch of all else."""
    outside_flop: float = 0.0
    """Operations of tensor cores for an element that stand outside of the hot loop."""
    reference_flop: float = 0.0
    reference_memory: float = 0.0
    """Zero where the plain convolution is a 3x3 convolution of all channels: that is bound by its operations."""
    elements: int = TAPS
    """Elements of a pixel and channel."""
    taps: int = TAPS
    """Taps that a program goes through with one tile of pixels and one block of channels."""
    outer_trips: int = 1
    """Trips of the loop around the innermost one over differences."""
    looped_steps: int = 1
    """Steps of a trip over differences whose matrix products stand in a loop of their own inside it."""
    has_differences: bool = True


def work_of(kernel: str, shape: Shape, config: KernelConfig) -> KernelWork:
    """The work of ``kernel``, by its name in ``sdn_triton.tuning.defaults``."""
    return _WORK[kernel](shape, config)


def _forward(shape: Shape, config: KernelConfig) -> KernelWork:
    blocks = _blocks(shape.channels, config.block_c)
    return KernelWork(
        block=config.block_c,
        products=1,
        steps=TAPS * blocks,
        outer_trips=blocks,
        looped_steps=TAPS,
        repeats=_blocks(shape.outputs, config.block_o),
        memory=shape.item * (2 + shape.outputs / shape.channels),
        streamed=shape.item * (config.block_o / config.block_p + 2 * _halo(config) / TAPS),
        reference_flop=(TAPS + 1) * 2.0 * shape.outputs,
    )


def _block_forward(shape: Shape, config: KernelConfig) -> KernelWork:
    blocks = _blocks(shape.channels, config.block_c)
    fused = (1 + shape.outputs / shape.channels) * shape.outputs  # products of a pixel and channel with 1x1 weights
    return KernelWork(
        block=config.block_c,
        products=1,
        steps=TAPS * blocks,
        outer_trips=blocks,
        looped_steps=TAPS,
        repeats=1,
        memory=shape.item * (2 + shape.outputs / shape.channels),
        streamed=shape.item * ((shape.outputs + fused / TAPS) / config.block_p + 2 * _halo(config) / TAPS),
        reference_flop=2.0 * ((TAPS + 1) * shape.outputs + fused),
        outside_flop=2.0 * fused / TAPS,
    )


def _data_gradient(shape: Shape, config: KernelConfig) -> KernelWork:
    return KernelWork(
        block=config.block_c,
        products=0,  # made before, by tap_products
        steps=TAPS,
        repeats=1,
        memory=shape.item * 4,
        streamed=shape.item * _halo(config) * ((0.5 if shape.edges else 1) + 2 / TAPS),
        reference_flop=(TAPS + 1) * 2.0 * shape.outputs,
    )


def _tap_products(shape: Shape, config: KernelConfig) -> KernelWork:
    return KernelWork(
        block=config.block_c,
        products=_blocks(shape.outputs, config.block_o),
        steps=1,
        repeats=1,
        memory=shape.item * shape.outputs / shape.channels,
        # The products themselves are written to the second-level cache.
        streamed=shape.item * (1 + shape.outputs / config.block_c + shape.outputs / config.block_p),
        reference_flop=(TAPS + 1) * 2.0 * shape.outputs,
        has_differences=False,
    )


def _edge_products(shape: Shape, config: KernelConfig) -> KernelWork:
    return KernelWork(
        block=config.block_c,
        products=2 * _blocks(shape.outputs, config.block_o),
        steps=1,
        repeats=1,
        memory=shape.item * shape.outputs / shape.channels,
        streamed=shape.item * (1 + 2 * shape.outputs / config.block_c + 2 * shape.outputs / config.block_p),
        reference_flop=(TAPS + 1) * 2.0 * shape.outputs,
        elements=TAPS // 2,
        has_differences=False,
    )


def _weight_gradient(shape: Shape, config: KernelConfig) -> KernelWork:
    taps = shape.taps if config.pairs else 1
    touched = 2 * _halo(config) / taps if config.pairs else 2.0
    return KernelWork(
        block=config.block_c,
        products=1,
        steps=taps * _tiles(shape, config),
        taps=taps,
        repeats=_blocks(shape.outputs, config.block_o),
        memory=shape.item * (2 + shape.outputs / shape.channels),
        streamed=shape.item * (touched + config.block_o / (taps * config.block_c)),
        reference_flop=(TAPS + 1) * 2.0 * shape.outputs,
    )


def _depthwise(moved: int, reads: int) -> Callable[[Shape, KernelConfig], KernelWork]:
    """A depthwise kernel that runs once over its tile and moves so many tensors, some of them read at every tap."""

    def work(shape: Shape, config: KernelConfig) -> KernelWork:
        return KernelWork(
            block=config.block_o if moved == 3 else config.block_c,
            products=0,
            steps=TAPS,
            repeats=1,
            memory=shape.item * moved,
            streamed=shape.item * reads * _halo(config) / TAPS,
            reference_memory=shape.item * 2,
        )

    return work


def _depthwise_weight_gradient(shape: Shape, config: KernelConfig) -> KernelWork:
    tiles = _tiles(shape, config)
    return KernelWork(
        block=config.block_o,
        products=0,
        steps=TAPS * tiles,
        outer_trips=tiles,
        repeats=1,
        memory=shape.item * 3,
        streamed=shape.item * (1 + 2 * _halo(config)) / TAPS,
        reference_memory=shape.item * 2,
    )


def _fusion_forward(shape: Shape, config: KernelConfig) -> KernelWork:
    moved = shape.item * (1 + shape.outputs / (2 * shape.channels))
    return KernelWork(
        block=config.block_c,
        products=1,
        steps=2 * _blocks(shape.channels, config.block_c),
        repeats=_blocks(shape.outputs, config.block_o),
        memory=moved,
        streamed=shape.item * (1 + config.block_o / config.block_p),
        reference_flop=2.0 * shape.outputs,
        reference_memory=moved,
        elements=1,
        has_differences=False,
    )


def _fusion_data_gradient(shape: Shape, config: KernelConfig) -> KernelWork:
    moved = shape.item * (1 + shape.outputs / (2 * shape.channels))
    return KernelWork(
        block=config.block_c,
        products=_blocks(shape.outputs, config.block_o),
        steps=1,
        repeats=1,
        memory=moved + shape.item / 2,  # the gradient of the activation reads the response
        streamed=shape.item * shape.outputs * (1 / config.block_c + 1 / config.block_p),
        reference_flop=2.0 * shape.outputs,
        reference_memory=moved,
        elements=1,
        has_differences=False,
    )


def _fusion_weight_gradient(shape: Shape, config: KernelConfig) -> KernelWork:
    moved = shape.item * (1 + shape.outputs / (2 * shape.channels))
    return KernelWork(
        block=config.block_c,
        products=1,
        steps=_tiles(shape, config),
        repeats=_blocks(shape.outputs, config.block_o),
        memory=moved,
        streamed=shape.item * (1 + config.block_o / config.block_c),
        reference_flop=2.0 * shape.outputs,
        reference_memory=moved,
        elements=1,
        has_differences=False,
    )


_WORK: dict[str, Callable[[Shape, KernelConfig], KernelWork]] = {
    "difference_forward": _forward,
    "block_forward": _block_forward,
    "difference_data_gradient": _data_gradient,
    "tap_products": _tap_products,
    "edge_products": _edge_products,
    "difference_weight_gradient": _weight_gradient,
    "depthwise_forward": _depthwise(moved=3, reads=2),
    "depthwise_data_gradient": _depthwise(moved=5, reads=3),
    "depthwise_weight_gradient": _depthwise_weight_gradient,
    "fusion_forward": _fusion_forward,
    "fusion_data_gradient": _fusion_data_gradient,
    "fusion_weight_gradient": _fusion_weight_gradient,
}
KERNELS = tuple(_WORK)


def _blocks(size: int, block: int) -> int:
    return -(-size // block)


def _tiles(shape: Shape, config: KernelConfig) -> int:
    """Tiles of the batch that fall to one split, the last split aside."""
    tiles = shape.images * _blocks(shape.rows, config.block_h) * _blocks(shape.columns, config.block_w)
    return _blocks(tiles, config.splits)


def _halo(config: KernelConfig) -> float:
    """Pixels that the taps of a tile touch, over those of the tile."""
    return (config.block_h + 2) * (config.block_w + 2) / config.block_p
