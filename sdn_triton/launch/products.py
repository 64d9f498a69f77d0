"""What the taps of a dense convolution pass back to the images, a strip of rows at a time.

At every output the gradient of input and guidance needs ``K[tap]^T G`` of every tap, eight times as much as the input
has. It is therefore made in strips of rows that a GPU's second-level cache holds, or of whole small images. At stride 1
an edge joins two outputs, or an output and a pixel near them, and both its ends need the difference of two such
products. Then that is made, which is half as much, and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sdn_triton.kernels.arguments import EdgeWeightStrides, MatrixStrides
from sdn_triton.kernels.edge_products import edge_products_kernel
from sdn_triton.kernels.tap_products import tap_products_kernel
from sdn_triton.launch.difference_call import DifferenceCall
from sdn_triton.launch.image_layout import needs_64_bits, strides_of
from sdn_triton.launch.plan import Rest
from sdn_triton.launch.run import as_factor, cdiv, precision_of, steps_of, target_of
from sdn_triton.tuning.configs import KernelConfig

L2_SHARE = 0.65
"""Of the second-level cache, what the products of a strip may take: the rest is for what is read beside them."""


class Places(NamedTuple):
    """Where products are: the outputs, or with ``edges`` these and the pixels around them that an edge can begin at."""

    edges: bool
    rows: int
    columns: int
    origin: tuple[int, int]
    """The pixel of the first place."""
    step: int
    """Rows of pixels from place to place."""
    above: int
    """How many rows above a pixel its products may be."""
    below: int
    slots: int
    """The taps that have a product at a place."""

    @staticmethod
    def of(call: DifferenceCall, kernel: str) -> Places:
        """Those of the products that ``kernel`` makes."""
        layout, options = call.layout, call.layout.options
        (rows, columns), (row, column), (reach_h, reach_w) = layout.output_size, options.origin, options.reach
        if kernel == "tap_products":
            step = options.stride[0]
            return Places(False, rows, columns, (row, column), step, reach_h, reach_h, layout.taps - 1)
        # Edges belong to the end that they leave up or to the left.
        places = rows + reach_h, columns + 2 * reach_w
        return Places(True, *places, (row, column - reach_w), 1, 0, reach_h, layout.taps // 2)

    def geometry(self) -> dict[str, int]:
        """What the gathering kernels take for the outputs."""
        return {"HO": self.rows, "WO": self.columns, "origin_h": self.origin[0], "origin_w": self.origin[1]}


class Strip(NamedTuple):
    """Some rows of some images of the input, and the rows of products that they read."""

    first_image: int
    images: int
    first_row: int
    rows: int
    first_output_row: int
    output_rows: int


def strips(call: DifferenceCall, places: Places, block_h: int, row_bytes: int, room: int) -> Iterator[Strip]:
    """Cut the batch into strips whose products take no more than ``room`` bytes, if a row of tiles does not alone.

    ``row_bytes`` are those of a row of products.
    """
    batch, _, height, _ = call.input.shape
    origin, step, above, below = places.origin[0], places.step, places.above, places.below
    images, rows = 1, height
    if places.rows * row_bytes <= room:
        images = max(1, min(batch, room // max(places.rows * row_bytes, 1)))
    else:
        rows = (room // row_bytes * step - above - below) // block_h * block_h
        rows = min(height, max(rows, block_h))
    for image in range(0, batch, images):
        for row in range(0, height, rows):
            last = min(row + rows, height)
            first_output = min(max(cdiv(row - above - origin, step), 0), places.rows)
            last_output = min(max((last - 1 + below - origin) // step + 1, first_output), places.rows)
            yield Strip(image, min(images, batch - image), row, last - row, first_output, last_output - first_output)


def strip_room(device: torch.device, config: KernelConfig, item_bytes: int) -> int:
    """Bytes that the products of a strip may take: what the cache holds, but a tile for every multiprocessor."""
    target = target_of(device)
    tiles = target.multiprocessors * config.block_p * config.block_c
    return max(int(L2_SHARE * target.l2_bytes), tiles * item_bytes)


def products_of_strips(
    call: DifferenceCall, grad: Tensor, dtype: torch.dtype, places: Places, block_h: int, config: KernelConfig
) -> Iterator[tuple[Strip, Tensor]]:
    """Each strip with its products, [groups, images * rows, columns, slots * C], in the same memory.

    Where the columns of an image lie together they do so in the products, too. Rows that two strips of an image share
    are moved, not made again.
    """
    layout = call.layout
    device = call.input.device
    weight = _weight_of_edges(call) if places.edges else _weight_of_taps(call)
    columns = places.slots * layout.channels
    row_bytes = places.columns * layout.groups * columns * dtype.itemsize
    cuts = list(strips(call, places, block_h, row_bytes, strip_room(device, config, dtype.itemsize)))
    most = max((cut.images * cut.output_rows for cut in cuts), default=0)
    if call.input.stride(1) == 1 or call.input.stride(3) != 1:
        memory = torch.empty((layout.groups, most, places.columns, columns), dtype=dtype, device=device)
    else:
        memory = torch.empty((layout.groups, columns, most, places.columns), dtype=dtype, device=device)
        memory = memory.permute(0, 2, 3, 1)
    before: Strip | None = None
    for cut in cuts:
        last = cut.first_output_row + cut.output_rows
        first = cut.first_output_row
        if before is not None and before.first_image == cut.first_image:
            there = before.first_output_row + before.output_rows
            shared = memory[:, first - before.first_output_row : before.output_rows]
            overlaps = shared.shape[1] > first - before.first_output_row
            memory[:, : there - first] = shared.clone() if overlaps else shared
            first = there
        products = memory[:, : cut.images * cut.output_rows]
        if first < last and columns:
            images = grad[cut.first_image : cut.first_image + cut.images]
            made = products[:, first - cut.first_output_row :]
            if places.edges:
                _edge_products(call, images, weight, made, first, last - first, config)
            else:
                _tap_products(call, images[:, :, first:last], weight, made, config)
        yield cut, products
        before = cut


def _weight_of_taps(call: DifferenceCall) -> Tensor:
    """The weight as [groups, O, taps without the centre * C].

    Factors in float32 lie with O together, as Hopper's tensor cores want those of TF32.
    """
    layout = call.layout
    half = layout.taps // 2
    taps = as_factor(call.weight, layout.arithmetic).flatten(2)
    taps = torch.cat((taps[..., :half], taps[..., half + 1 :]), 2)  # [groups * O, C, taps - 1]
    taps = taps.unflatten(0, (layout.groups, layout.outputs))
    if call.input.dtype == torch.float32:
        return taps.permute(0, 3, 2, 1).contiguous().flatten(1, 2).transpose(1, 2)
    return taps.permute(0, 1, 3, 2).contiguous().flatten(2)


def _weight_of_edges(call: DifferenceCall) -> Tensor:
    """The weight as [groups, ends, O, taps of the first half, C]: of the second end that of the opposite, negative."""
    layout = call.layout
    half = layout.taps // 2
    taps = as_factor(call.weight, layout.arithmetic).flatten(2)
    ends = torch.stack((taps[..., :half], -taps[..., half + 1 :].flip(2)))  # [ends, groups * O, C, taps]
    ends = ends.unflatten(1, (layout.groups, layout.outputs))
    if call.input.dtype == torch.float32:
        return ends.permute(1, 0, 4, 3, 2).contiguous().permute(0, 1, 4, 2, 3)
    return ends.permute(1, 0, 2, 4, 3).contiguous()


def _tap_products(call: DifferenceCall, grad: Tensor, weight: Tensor, products: Tensor, config: KernelConfig) -> None:
    layout = call.layout
    images, _, rows, columns = grad.shape

    def rest() -> Rest:
        tiles = images * cdiv(rows * columns, config.block_p)
        return (tiles * cdiv(weight.shape[2], config.block_c), layout.groups), dict(
            pixels_of_image=rows * columns,
            WO=columns,
            O=layout.outputs,
            COLUMNS=weight.shape[2],
            h_strides=MatrixStrides(products.stride(0), products.stride(2), products.stride(3)),
            g_strides=strides_of(grad),
            weight_strides=MatrixStrides(*weight.stride()),
            ONE_ROW=rows == 1 or grad.stride(2) == columns * grad.stride(3),
            PRECISION=precision_of(layout.arithmetic),
            INT64=needs_64_bits(grad),
            BLOCK_P=config.block_p,
            BLOCK_C=config.block_c,
            BLOCK_O=config.block_o,
        )

    call.launch(
        kernel=tap_products_kernel,
        tensors=dict(h_ptr=products, gradient_ptr=grad, weight_ptr=weight),
        config=config,
        rest=rest,
        tuned="tap_products",
    )


def _edge_products(
    call: DifferenceCall,
    grad: Tensor,
    weight: Tensor,
    products: Tensor,
    first_row: int,
    rows: int,
    config: KernelConfig,
) -> None:
    layout = call.layout
    columns = products.shape[2]

    def rest() -> Rest:
        tiles = grad.shape[0] * cdiv(rows * columns, config.block_p)
        blocks = layout.taps // 2 * cdiv(layout.channels, config.block_c)
        return (tiles * blocks, layout.groups), dict(
            places_of_image=rows * columns,
            first_row=first_row,
            columns=columns,
            HO=layout.output_size[0],
            WO=layout.output_size[1],
            O=layout.outputs,
            C=layout.channels,
            steps=steps_of(layout.options),
            h_stride=products.stride(0),
            g_strides=strides_of(grad),
            weight_strides=EdgeWeightStrides(*weight.stride()),
            KERNEL_H=layout.options.kernel_size[0],
            KERNEL_W=layout.options.kernel_size[1],
            PRECISION=precision_of(layout.arithmetic),
            INT64=needs_64_bits(grad, margin=layout.margin),
            BLOCK_P=config.block_p,
            BLOCK_C=config.block_c,
            BLOCK_O=config.block_o,
        )

    call.launch(
        kernel=edge_products_kernel,
        tensors=dict(h_ptr=products, gradient_ptr=grad, weight_ptr=weight),
        config=config,
        rest=rest,
        facts=(first_row, rows),
        tuned="edge_products",
    )
