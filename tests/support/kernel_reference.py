"""References and memory tricks for the tests of the Triton kernels; shares no formula with the library."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from support.devices import EMULATED
from support.oracle import DIFFUSIVITIES
from torch import Tensor

from sdn_triton.bench.measuring.contract import error_and_bound


def difference_conv(u, v, K, b, contrast, o):
    """The difference convolution tap by tap, each tap a 1x1 convolution; for autograd in float64."""
    ph, pw = o.padding
    inside = F.pad(torch.ones_like(u[:1, :1]), (pw, pw, ph, ph))
    u, v = (F.pad(x, (pw, pw, ph, ph)) for x in (u, v))
    rows, columns = o.output_size(u.shape[2] - 2 * ph, u.shape[3] - 2 * pw)
    k = contrast.reshape(1, -1, 1, 1) if isinstance(contrast, Tensor) else contrast

    def at(x, i, j):
        r, c = i * o.dilation[0], j * o.dilation[1]
        rows_end, columns_end = r + o.stride[0] * (rows - 1) + 1, c + o.stride[1] * (columns - 1) + 1
        return x[:, :, r : rows_end : o.stride[0], c : columns_end : o.stride[1]]

    centre = o.kernel_size[0] // 2, o.kernel_size[1] // 2
    y = torch.zeros(u.shape[0], K.shape[0], rows, columns, dtype=u.dtype) + (0 if b is None else b.reshape(1, -1, 1, 1))
    for i, j in itertools.product(*map(range, o.kernel_size)):
        if (i, j) != centre:
            a = (at(v, i, j) - at(v, *centre)) ** 2
            a = a / k**2 if o.similarity == "channel" else a.sum(1, keepdim=True) / k**2
            flow = DIFFUSIVITIES[o.diffusivity](a) * (at(u, i, j) - at(u, *centre))
            if o.border == "zero_flux":
                flow = torch.where(at(inside, i, j) * at(inside, *centre) > 0, flow, 0)
            y = y + F.conv2d(flow, K[:, :, i : i + 1, j : j + 1], groups=o.groups)
    return y


def fusion(u, y, K, b, scale, shift, activation):
    """The fusion with its concatenation; for autograd in float64."""
    x = y if scale is None else y * scale.reshape(1, -1, 1, 1)
    x = x if shift is None else x + shift.reshape(1, -1, 1, 1)
    return F.conv2d(torch.cat([u, x.relu() if activation == "relu" else x], 1), K, b)


def value_and_gradients(f: Callable[..., Tensor], arguments: list, grad: Tensor) -> list[Tensor | None]:
    """f and the gradients of <f, grad> with respect to each tensor argument, in float64 on the CPU."""
    exact = [a.detach().cpu().double().requires_grad_() if isinstance(a, Tensor) else a for a in arguments]
    y = f(*exact)
    leaves = [a for a in exact if isinstance(a, Tensor)]
    found = iter(torch.autograd.grad(y, leaves, grad.cpu().double(), allow_unused=True, materialize_grads=True))
    return [y.detach(), *(next(found) if isinstance(a, Tensor) else None for a in exact)]


def assert_as_good_as(
    results, peers, exact, names, terms: dict[str, float] | None = None, is_tf32: bool = False
) -> None:
    """Errors against float64 are what the precision contract allows beside the eager path's.

    The contract is in ``bench/measuring/contract.py``. ``terms`` says how large what a result sums up is, by name, as
    the root of the sum of its squares.
    """
    for name, result, peer, reference in zip(names, results, peers, exact, strict=True):
        assert (result is None) == (peer is None), name
        if result is None:
            continue
        assert result.shape == reference.shape, name
        assert result.dtype == peer.dtype, name
        error, bound = error_and_bound(result, peer, reference, is_tf32=is_tf32, terms=(terms or {}).get(name, 0.0))
        assert error <= bound + 1e-30, f"{name}: {error}, allowed {bound}"


def assert_same(results, references, device: torch.device) -> None:
    """The same bits, from tensors that lie otherwise in memory.

    Where kernels are compiled, that decides which thread has which values, and with it the order of some sums: the last
    digits of a float32 sum may differ there, or one rounding of it to a half type.
    """
    for result, reference in zip(results, references, strict=True):
        assert (result is None) == (reference is None)
        if result is None or torch.equal(result, reference):
            continue
        assert device.type == "cuda" or EMULATED, "interpreted sums have one order"
        roundings = 8 if result.dtype == torch.float32 else 1
        allowed = roundings * torch.finfo(result.dtype).eps * reference.double().abs().max()
        assert (result.double() - reference.double()).abs().max() <= allowed


MARGIN = 64  # elements; keeps what starts behind it aligned
SENTINEL = 777.0


class Guards:
    """Memory around every tensor that is allocated: NaN inside until it is written, a sentinel on both sides."""

    def __init__(self) -> None:
        self.buffers: list[tuple[Tensor, int]] = []

    def allocate(self, plain: Tensor) -> Tensor:
        if plain.numel() == 0 or not plain.is_floating_point():
            return plain
        span = 1 + sum((size - 1) * stride for size, stride in zip(plain.shape, plain.stride(), strict=True))
        buffer = plain.as_strided((span,), (1,)).new_full((span + 2 * MARGIN,), SENTINEL)
        self.buffers.append((buffer, span))
        return buffer.as_strided(plain.shape, plain.stride(), MARGIN).fill_(float("nan"))

    def check(self) -> None:
        assert self.buffers
        for buffer, span in self.buffers:
            assert (buffer[:MARGIN] == SENTINEL).all()
            assert (buffer[MARGIN + span :] == SENTINEL).all()


@contextmanager
def guarded(monkeypatch) -> Iterator[Guards]:
    """Guard what is allocated inside, and check at the end that nothing was written beside it."""
    guards = Guards()
    with monkeypatch.context() as patch:
        for owner, name in ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty")):
            original = getattr(owner, name)
            patch.setattr(owner, name, lambda *a, original=original, **k: guards.allocate(original(*a, **k)))
        yield guards
    guards.check()


def among_nans(tensor: Tensor) -> Tensor:
    """The same values with the same order of strides, every second element of a buffer of NaN."""
    dense = torch.full((*tensor.shape[:2], tensor.shape[2] + 2, 2 * tensor.shape[3] + 3), float("nan"))
    return dense.to(tensor)[:, :, 1:-1, 1:-2:2].copy_(tensor)


def transposed(tensor: Tensor) -> Tensor:
    """The same values with rows and columns, and images and channels, changed over in memory."""
    return tensor.permute(1, 3, 0, 2).contiguous().permute(2, 0, 3, 1)


def far_apart(tensor: Tensor, axis: int) -> Tensor:
    """The same values, some axis so wide that its last offset passes 2^31; memory in between is never touched.

    Tests that use it have the mark ``huge``.
    """
    strides = list(tensor.contiguous().stride())
    strides[axis] = 2**31 // max(tensor.shape[axis] - 1, 1) + 8
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, strides, strict=True))
    try:
        buffer = torch.empty(span, dtype=tensor.dtype, device=tensor.device)
    except (RuntimeError, MemoryError):
        pytest.skip("no room for a tensor of 2^31 elements")
    return buffer.as_strided(tensor.shape, strides).copy_(tensor)
