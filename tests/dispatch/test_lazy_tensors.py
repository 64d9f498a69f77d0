"""Tensors whose memory does not hold their values: negated lazily, zeros without memory, values kept elsewhere.

The kernels read memory, so each result is held against that of the same values in memory of their own, bit for bit.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

pytest.importorskip("triton")

from sdn_triton import SDN, anisotropic_diffusion, feature_fusion, semantic_difference_conv2d, suggest_contrast
from sdn_triton.ops.block import block
from sdn_triton.ops.moments import moments
from sdn_triton.options import BlockArguments, BlockOptions, DifferenceArguments, DifferenceOptions


def negated(values: Tensor) -> Tensor:
    """Minus what lies in memory, which has the strides of ``values``."""
    return torch._neg_view(-values)


def imaginary_part(values: Tensor) -> Tensor:
    """How such tensors come about, with strides of 2."""
    return torch.complex(torch.zeros_like(values), -values).conj().imag


def nothing(values: Tensor) -> Tensor:
    """Zeros without memory, which forward-mode differentiation makes."""
    return torch._efficientzerotensor(values.shape, dtype=values.dtype, device=values.device)


class Elsewhere(torch.Tensor):
    """A tensor that keeps its values in another one and has no memory."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> "Elsewhere":
        made = torch.Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), dtype=values.dtype, device=values.device
        )
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        found = torch.utils._pytree.tree_map_only(cls, lambda x: x.values, (args, kwargs or {}))
        return func(*found[0], **found[1])


class Named(torch.Tensor):
    """A subclass that adds nothing."""


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "negated": negated,
    "imaginary-part": imaginary_part,
    "zeros": nothing,
    "elsewhere": Elsewhere,
    "named": lambda x: x.as_subclass(Named),
}


def in_memory(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    value = value.values if isinstance(value, Elsewhere) else value.as_subclass(Tensor)
    return torch.zeros(value.shape, dtype=value.dtype, device=value.device).copy_(value)


def assert_lazy(value: Tensor) -> None:
    assert value.is_neg() or value._is_zerotensor() or type(value) is not Tensor


def outputs_and_gradients(call: Callable[..., Any], arguments: Sequence[Any], grads: Sequence[Tensor]) -> list[Tensor]:
    leaves = [i for i, a in enumerate(arguments) if isinstance(a, Tensor)]
    given = [a.detach().requires_grad_() if i in leaves else a for i, a in enumerate(arguments)]
    outputs = call(*given)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    wanted = [given[i] for i in leaves]
    found = torch.autograd.grad(outputs, wanted, grads[: len(outputs)], allow_unused=True)
    return [x for x in (*(o.detach() for o in outputs), *found) if x is not None]


def check(call: Callable[..., Any], arguments: Sequence[Any], grads: Sequence[Tensor], place: int, kind: str) -> None:
    """Outputs and gradients with the argument, or then the incoming gradient, in ``place`` changed."""
    everything = [*arguments, *grads]
    everything[place] = KINDS[kind](everything[place])
    assert_lazy(everything[place])
    count = len(arguments)
    results = outputs_and_gradients(call, everything[:count], everything[count:])
    plain = [in_memory(x) for x in everything]
    expected = outputs_and_gradients(call, plain[:count], plain[count:])
    for result, reference in zip(results, expected, strict=True):
        assert torch.equal(in_memory(result), in_memory(reference))


def convolution(device, **options) -> tuple[Callable[..., Tensor], list[Any], Tensor]:
    groups, cg = options.get("groups", 1), 3 if options.get("similarity") == "vector" else 4
    shapes = (1, 4, 3, 5), (1, cg, 3, 5), (4, 4 // groups, 1, 3), (4,), (), (1, 4, 3, 5)
    *arguments, contrast, grad = (torch.randn(shape, device=device) for shape in shapes)

    def call(u: Tensor, v: Tensor, k: Tensor, b: Tensor, contrast: Tensor | float = 0.7) -> Tensor:
        return semantic_difference_conv2d(u, v, k, b, padding=(0, 1), contrast=contrast, backend="triton", **options)

    return call, [*arguments, contrast.abs() + 0.5], grad


PLACES = {"input": 0, "guidance": 1, "weight": 2, "bias": 3, "contrast": 4, "grad": 5}


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        *(("negated", place) for place in PLACES),
        *(("zeros", place) for place in PLACES if place != "contrast"),  # which is positive
        *((kind, place) for kind in ("imaginary-part", "elsewhere", "named") for place in ("guidance", "grad")),
    ],
)
def test_difference_conv(kind, place, device) -> None:
    call, arguments, grad = convolution(device)
    check(call, arguments, [grad], PLACES[place], kind)


@pytest.mark.parametrize(
    ("options", "place"),
    [
        (dict(groups=4), "weight"),
        (dict(groups=4), "bias"),
        (dict(groups=4), "grad"),
        (dict(similarity="vector"), "guidance"),
        (dict(similarity="vector"), "grad"),
    ],
    ids=str,
)
def test_other_kernels_of_the_difference_conv(options, place, device) -> None:
    call, arguments, grad = convolution(device, **options)
    check(call, arguments, [grad], PLACES[place], "negated")


@pytest.mark.parametrize("place", range(7), ids=["input", "response", "weight", "bias", "scale", "shift", "grad"])
@pytest.mark.parametrize("kind", ["negated", "zeros"])
def test_fusion(kind, place, device) -> None:
    shapes = (1, 4, 3, 5), (1, 3, 3, 5), (2, 7, 1, 1), (2,), (3,), (3,), (1, 2, 3, 5)
    *arguments, grad = (torch.randn(shape, device=device) for shape in shapes)

    def call(u: Tensor, y: Tensor, k: Tensor, b: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return feature_fusion(u, y, k, b, scale=scale, shift=shift, backend="triton")

    check(call, arguments, [grad], place, kind)


MOMENTS = ["input", "guidance", "weight", "bias", "grad", "grad of the mean", "grad of the variance"]


@pytest.mark.parametrize("place", [1, 4, 5, 6], ids=MOMENTS.__getitem__)
def test_moments(place, device) -> None:
    """With guidance of another size, whose gradient has a kernel of its own."""
    shapes = (1, 4, 3, 6), (1, 4, 3, 3), (4, 4, 1, 3), (4,), (1, 4, 3, 6), (4,), (4,)
    tensors = [torch.randn(shape, device=device) for shape in shapes]

    def call(u: Tensor, v: Tensor, k: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return moments(DifferenceArguments(u, v, k, b, 0.7), DifferenceOptions((1, 3), padding=(0, 1)), "triton")

    everything = list(tensors)
    everything[place] = negated(tensors[place])
    results = outputs_and_gradients(call, everything[:4], everything[4:])
    expected = outputs_and_gradients(call, tensors[:4], tensors[4:])
    for result, reference in zip(results, expected, strict=True):  # a formula in place of a kernel: not bit for bit
        torch.testing.assert_close(result, reference)


BLOCK = [
    "input", "guidance", "weight", "bias", "contrast", "mean", "variance", "norm weight", "norm bias", "fusion weight",
    "fusion bias",
]  # fmt: skip


@pytest.mark.parametrize("place", range(len(BLOCK)), ids=BLOCK)
def test_block(place, device) -> None:
    shapes = (1, 4, 3, 5), (1, 4, 3, 5), (4, 4, 1, 3), (4,), (), (4,), (4,), (4,), (4,), (2, 8, 1, 1), (2,)
    arguments = [torch.rand(shape, device=device) + 0.1 for shape in shapes]
    static = BlockOptions(DifferenceOptions((1, 3), padding=(0, 1)), 1e-5)
    expected = block(BlockArguments(*arguments), static, "triton")
    arguments[place] = negated(arguments[place])
    assert torch.equal(block(BlockArguments(*arguments), static, "triton"), expected)


def test_a_gradient_that_comes_negated(device) -> None:
    """As from a product with a conjugate transpose."""
    call, (u, *others), _ = convolution(device)
    w = torch.randn(3, 5, dtype=torch.complex64, device=device)
    seen, gradients = [], []
    for keep in (lambda g: None, lambda g: g.clone()):
        leaf = u.clone().requires_grad_()
        y = call(leaf, *others)
        y.register_hook(lambda g: seen.append(g.is_neg()))
        y.register_hook(keep)
        torch.complex(torch.zeros_like(y), y).mH.mul(w.mH).real.sum().backward()
        gradients.append(leaf.grad)
    assert seen[0]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_block_with_negated_statistics(training, device) -> None:
    u, v = torch.randn(2, 1, 4, 3, 5, device=device)
    made = SDN(4, backend="triton").to(device).train(training)
    found = []
    for change in (torch.clone, negated):
        norm = made.fusion.norm
        norm.running_mean, norm.running_var = change(torch.linspace(-1, 1, 4)), change(torch.linspace(1, 2, 4))
        found.append((made(change(u), change(v)), norm.running_mean.clone(), norm.running_var.clone()))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_strides_that_were_promised(device) -> None:
    """The tensor that is in memory has other strides than a lazy one with gaps."""
    image = torch.randn(1, 4, 3, 10, device=device).contiguous(memory_format=torch.channels_last)[..., ::2]
    u, k = negated(image), torch.randn(4, 4, 1, 3, device=device)

    def call(u: Tensor, k: Tensor) -> Tensor:
        return semantic_difference_conv2d(u, u, k, padding=(0, 1), backend="triton")

    real = call(u, k)
    with FakeTensorMode() as mode:
        assert call(mode.from_tensor(u), mode.from_tensor(k)).stride() == real.stride()
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)(u, k)
    assert torch.equal(compiled, real)
    assert compiled.stride() == real.stride()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_plain_pytorch(kind, device) -> None:
    """The solver and the contrast's quantile go through PyTorch's dispatcher in any case."""
    image = KINDS[kind](torch.randn(1, 2, 4, 5, device=device))
    solved = anisotropic_diffusion(image, num_steps=2, contrast=KINDS["negated"](torch.tensor(0.7, device=device)))
    assert torch.equal(in_memory(solved), anisotropic_diffusion(in_memory(image), num_steps=2, contrast=0.7))
    if kind not in ("zeros", "elsewhere"):  # no two neighbours differ; nothing says the values
        assert suggest_contrast(image) == suggest_contrast(in_memory(image))


@pytest.mark.parametrize("backend", ["eager", "triton"])
@pytest.mark.parametrize("layout", ["sparse", "mkldnn"])
def test_other_layouts_are_errors(layout, backend, device) -> None:
    if layout == "mkldnn" and device.type != "cpu":
        pytest.skip("a layout of the CPU")
    u, v, k = (
        torch.randn(1, 4, 3, 5, device=device),
        torch.randn(1, 4, 3, 5, device=device),
        torch.randn(4, 4, 1, 3, device=device),
    )
    for place in range(3):
        given = [u, v, k]
        given[place] = given[place].to_sparse() if layout == "sparse" else given[place].to_mkldnn()
        with pytest.raises((RuntimeError, NotImplementedError)):
            semantic_difference_conv2d(*given, padding=(0, 1), backend=backend)
