"""Rows of an image over the ranks of a group: who holds which, and how each rank gets the ones it needs.

One exchange serves everything: a rank names the rows it wants, of whichever ranks, in any order, some of them more than
once. Its gradient is the same exchange the other way round, with sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from sdn_triton.outputs import memory_format

OUTSIDE = -1
"""The number of a row outside the image, which is zero."""

Wanted = tuple[tuple[int, ...], ...]
"""For each rank the rows of the image that it wants, in its order."""


@dataclass(frozen=True)
class Rows:
    """Which rows of an image each rank of ``group`` holds: rank r those from ``bounds[r]`` up to ``bounds[r + 1]``."""

    bounds: tuple[int, ...]
    group: dist.ProcessGroup

    @classmethod
    def chunked(cls, height: int, group: dist.ProcessGroup) -> Rows:
        """``height`` rows split as DTensor and ``torch.chunk`` do: all ranks alike, the last ones less or nothing."""
        ranks = group.size()
        share = -(-height // ranks)
        return cls(tuple(min(rank * share, height) for rank in range(ranks + 1)), group)

    @property
    def height(self) -> int:
        return self.bounds[-1]

    @property
    def spans(self) -> list[range]:
        """The rows of each rank."""
        return [range(first, last) for first, last in pairwise(self.bounds)]

    @property
    def rank(self) -> int:
        return self.group.rank()

    @property
    def own(self) -> range:
        """The rows of this rank."""
        return self.spans[self.rank]


class Piece(NamedTuple):
    """``length`` rows of what a rank wants, from ``start`` on, and where they are found."""

    start: int
    length: int
    source: str
    """``"own"`` rows, ``"received"`` rows or ``"zeros"``."""
    position: int

    def is_followed_by(self, source: str, position: int) -> bool:
        """Whether a row from there would make the piece longer."""
        return self.source == source and (source == "zeros" or position == self.position + self.length)


@dataclass(frozen=True)
class Plan:
    """What one rank sends, receives and puts together."""

    wanted: int
    pieces: tuple[Piece, ...]
    sent: tuple[tuple[int, int], ...]
    """Runs (start, length) of own rows that others want, by rank and row."""
    send_counts: tuple[int, ...]
    receive_counts: tuple[int, ...]
    is_exchange: bool
    """Whether any rank wants anything of another; all ranks agree on it."""
    is_nothing: bool
    """Whether what this rank wants is what it has, and nobody else wants anything of it."""


@lru_cache(maxsize=256)
def make_plan(bounds: tuple[int, ...], rank: int, wanted: Wanted) -> Plan:
    """The plan of a rank, from what every rank holds and wants."""
    spans = [range(first, last) for first, last in pairwise(bounds)]

    def between(owner: int, taker: int) -> list[int]:
        return sorted({row for row in wanted[taker] if row in spans[owner]}) if owner != taker else []

    ranks = range(len(spans))
    sends, receives = [between(rank, taker) for taker in ranks], [between(owner, rank) for owner in ranks]
    own = spans[rank]
    places = {row: ("own", row - own.start) for row in own}
    places |= {row: ("received", place) for place, row in enumerate(row for part in receives for row in part)}
    places[OUTSIDE] = ("zeros", 0)
    is_exchange = any(row != OUTSIDE and row not in spans[taker] for taker in ranks for row in wanted[taker])
    return Plan(
        wanted=len(wanted[rank]),
        pieces=_pieces([places[row] for row in wanted[rank]]),
        sent=tuple(run for part in sends for run in _runs([row - own.start for row in part])),
        send_counts=tuple(map(len, sends)),
        receive_counts=tuple(map(len, receives)),
        is_exchange=is_exchange,
        is_nothing=not is_exchange and wanted[rank] == tuple(own),
    )


def _pieces(places: Sequence[tuple[str, int]]) -> tuple[Piece, ...]:
    """Neighbouring rows from neighbouring places, or of zeros, as one piece."""
    pieces: list[Piece] = []
    for start, (source, position) in enumerate(places):
        if pieces and pieces[-1].is_followed_by(source, position):
            pieces[-1] = pieces[-1]._replace(length=pieces[-1].length + 1)
        else:
            pieces.append(Piece(start, 1, source, position))
    return tuple(pieces)


def _runs(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending ``rows`` as runs (start, length)."""
    runs: list[tuple[int, int]] = []
    for row in rows:
        if runs and row == sum(runs[-1]):
            runs[-1] = runs[-1][0], runs[-1][1] + 1
        else:
            runs.append((row, 1))
    return runs


def take_rows(images: Sequence[Tensor], rows: Rows, wanted: Wanted) -> tuple[Tensor, ...]:
    """The rows that this rank wants of each of ``images [N, C, own rows, W]``, all cut alike and of one dtype.

    One collective serves all images, and one their gradients; every rank of the group has to call it.
    """
    plan = make_plan(rows.bounds, rows.rank, wanted)
    return tuple(images) if plan.is_nothing else _Take.apply(rows.group, plan, *images)


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: dist.ProcessGroup, plan: Plan, *images: Tensor) -> tuple[Tensor, ...]:
        received: list[Tensor] = []
        if plan.is_exchange:
            sent = _packed([[image.narrow(2, *run) for run in plan.sent] for image in images], images)
            buffer = _exchanged(sent, plan.receive_counts, plan.send_counts, group)
            received = _unpacked(buffer, images)
        tiles = tuple(_assembled(plan, image, *received[i : i + 1]) for i, image in enumerate(images))
        ctx.group, ctx.plan, ctx.heights = group, plan, [image.shape[2] for image in images]
        # Of images that need no gradient nobody computes one, and none is sent.
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*[tile for tile, need in zip(tiles, ctx.needs_input_grad[2:]) if not need])
        return tiles

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        gradients: list[Tensor | None] = [None] * len(grads)
        places = [i for i, grad in enumerate(grads) if grad is not None]
        heights = [ctx.heights[i] for i in places]
        for i, gradient in zip(places, _Give.apply(ctx.group, ctx.plan, heights, *[grads[i] for i in places])):
            gradients[i] = gradient
        return None, None, *gradients


class _Give(torch.autograd.Function):
    """The adjoint of taking: every row's gradients go back to its owner and are summed there, in a fixed order."""

    @staticmethod
    def forward(
        ctx: Any, group: dist.ProcessGroup, plan: Plan, heights: list[int], *grads: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.group, ctx.plan = group, plan
        own = [_summed(plan, "own", grad, height) for grad, height in zip(grads, heights)]
        if plan.is_exchange:
            foreign = [_summed(plan, "received", grad, sum(plan.receive_counts)) for grad in grads]
            packed = _packed([[f] for f in foreign], grads)
            returned = _unpacked(_exchanged(packed, plan.send_counts, plan.receive_counts, group), grads)
            for total, part in zip(own, returned):
                place = 0
                for start, length in plan.sent:
                    total.narrow(2, start, length).add_(part.narrow(2, place, length))
                    place += length
        return tuple(own)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return None, None, None, *_Take.apply(ctx.group, ctx.plan, *grads)


def _like(image: Tensor, height: int) -> Tensor:
    """An empty image of ``height`` rows, in the memory format of ``image``."""
    N, C, _, W = image.shape
    return torch.empty((N, C, height, W), dtype=image.dtype, device=image.device, memory_format=memory_format(image))


def _assembled(plan: Plan, own: Tensor, received: Tensor | None = None) -> Tensor:
    tile = _like(own, plan.wanted)
    for piece in plan.pieces:
        part = tile.narrow(2, piece.start, piece.length)
        if piece.source == "zeros":
            part.zero_()
        else:
            source = own if piece.source == "own" else received
            assert source is not None
            part.copy_(source.narrow(2, piece.position, piece.length))
    return tile


def _summed(plan: Plan, source: str, grad: Tensor, height: int) -> Tensor:
    """The gradients of the ``height`` rows of a source, each the sum over where it was put."""
    total = _like(grad, height).zero_()
    for piece in plan.pieces:
        if piece.source == source:
            total.narrow(2, piece.position, piece.length).add_(grad.narrow(2, piece.start, piece.length))
    return total


def _packed(parts: Sequence[Sequence[Tensor]], images: Sequence[Tensor]) -> Tensor:
    """Runs of rows of each image as one buffer ``[rows, all that the images hold in a row]``."""
    columns = []
    for runs, image in zip(parts, images):
        rows = [run.movedim(2, 0).flatten(1) for run in runs]
        columns.append(torch.cat(rows) if rows else image.movedim(2, 0)[:0].flatten(1))
    return torch.cat(columns, 1)


def _unpacked(buffer: Tensor, images: Sequence[Tensor]) -> list[Tensor]:
    """The rows of a buffer as images ``[N, C, rows, W]`` like the given ones."""
    sizes = [(N, C, W) for N, C, _, W in (image.shape for image in images)]
    parts = buffer.split([N * C * W for N, C, W in sizes], 1)
    return [part.unflatten(1, size).movedim(0, 2) for part, size in zip(parts, sizes)]


def _exchanged(sent: Tensor, receive: Sequence[int], send: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    received = sent.new_empty((sum(receive), sent.shape[1]))
    dist.all_to_all_single(received, sent.contiguous(), list(receive), list(send), group=group)
    return received


def summed_gradients(group: dist.ProcessGroup, *tensors: Tensor) -> tuple[Tensor, ...]:
    """``tensors``, which all ranks hold alike, with gradients that are summed over the ranks of ``group``."""
    return _SumGradients.apply(group, *tensors) if tensors else ()


class _SumGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, group: dist.ProcessGroup, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.group = group
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return None, *_Sum.apply(ctx.group, *grads)


class _Sum(torch.autograd.Function):
    """The sums over the ranks, in one collective a dtype; the sum of everybody's gradients is its own adjoint."""

    @staticmethod
    def forward(ctx: Any, group: dist.ProcessGroup, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.group = group
        sums: dict[int, Tensor] = {}
        for dtype in dict.fromkeys(value.dtype for value in values):
            places = [i for i, value in enumerate(values) if value.dtype == dtype]
            flat = torch.cat([values[i].flatten() for i in places])
            dist.all_reduce(flat, group=group)
            parts = flat.split([values[i].numel() for i in places])
            sums |= {i: part.view(values[i].shape) for i, part in zip(places, parts)}
        return tuple(sums[i] for i in range(len(values)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        return None, *_Sum.apply(ctx.group, *grads)
