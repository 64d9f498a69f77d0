"""Images in every layout that PyTorch can give them, and how the kernels are held to the results of others."""

from collections.abc import Callable

import pytest
import torch
from support.difference_calls import GRADIENTS, Case, run
from support.kernel_reference import assert_as_good_as, difference_conv, guarded, value_and_gradients
from torch import Tensor

from sdn_triton.eager import difference_conv as eager
from sdn_triton.launch import difference_conv as launch

Layout = Callable[[Tensor], Tensor]


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def expanded(*axes: int) -> Layout:
    """The first values along ``axes`` for all others, too, with strides of 0."""

    def expand(x: Tensor) -> Tensor:
        return channels_last(x)[tuple(slice(1 if axis in axes else None) for axis in range(4))].expand_as(x)

    return expand


def windows(x: Tensor) -> Tensor:
    """Every column holds most of what the one before it holds: their channels overlap in memory."""
    N, C, H, W = x.shape
    line = C + 8 * (W - 1)
    start = x.flatten().repeat(9)[: N * H * line]
    return start.as_strided(x.shape, (H * line, 1, line, 8))


def loose(x: Tensor) -> Tensor:
    """Strides that mean nothing where a size is 1, or where there is no element."""
    strides = [s if n > 1 else 8 * (axis + 1) for axis, (n, s) in enumerate(zip(x.shape, x.stride()))]
    return x.as_strided(x.shape, strides)


def from_the_second(x: Tensor) -> Tensor:
    """The same strides, from an odd element on."""
    span = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride()))
    return x.new_full((span + 1,), float("nan")).as_strided(x.shape, x.stride(), 1).copy_(x)


def exactly(arguments: tuple) -> tuple:
    """The same arguments in float64 on the CPU."""
    return type(arguments)(*(a.cpu().double() if isinstance(a, Tensor) else a for a in arguments))


def assert_lies_like(results, peers) -> None:
    """Sizes and strides, but for those that say nothing."""
    for result, peer in zip(results, peers, strict=True):
        if result is not None:
            noticed = [n > 1 for n in peer.shape]
            assert result.shape == peer.shape
            assert [s for s, n in zip(result.stride(), noticed) if n] == [
                s for s, n in zip(peer.stride(), noticed) if n
            ]


def check(tensors: list, case: Case, monkeypatch: pytest.MonkeyPatch, **configs) -> None:
    o = case.options
    exact = value_and_gradients(lambda *a: difference_conv(*a, o), tensors[:5], tensors[5])
    with guarded(monkeypatch):
        results = run(launch, tensors, o, **configs)
    peers = run(eager, tensors, o)
    grad = tensors[5].cpu().double()
    terms = {"contrast": (tensors[1].cpu() * exact[2]).norm().item(), "bias": grad.norm().item()}
    assert_as_good_as(results, peers, exact, ("output", *GRADIENTS), terms)
    assert_lies_like(results, peers)
