"""Tensors in any layout: kernels read by their strides, and write what the strides of their results say.

Every result is poisoned before it is written and compared with float64, and lies in memory as the eager path's does.
"""

import pytest
import torch
import torch.nn.functional as F
from support import fusion_calls
from support.difference_calls import PAIRS, Case, call_of, options, tensors_of
from support.kernel_reference import (
    among_nans,
    assert_as_good_as,
    fusion,
    guarded,
    transposed,
    value_and_gradients,
)
from torch import Tensor

pytest.importorskip("triton")

from support.image_layouts import (
    Layout,
    assert_lies_like,
    channels_last,
    check,
    exactly,
    expanded,
    from_the_second,
    loose,
    windows,
)

from sdn_triton.eager import block as eager_block
from sdn_triton.eager import fusion as eager_fusion
from sdn_triton.launch import block, moments, resize, similarity
from sdn_triton.launch import fusion as launch_fusion
from sdn_triton.launch.difference_call import DifferenceCall
from sdn_triton.launch.run import recorded_launches
from sdn_triton.options import BlockArguments, BlockOptions, DifferenceArguments, FusionNeeds
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.defaults import PAIRED_KERNELS
from sdn_triton.tuning.kernels import KERNELS

LAYOUTS: dict[str, Layout] = {
    "columns-expanded": expanded(3),
    "among-nans": among_nans,
    "pixels-expanded": expanded(2, 3),
    "transposed": transposed,
    "images-expanded": expanded(0),
    "channels-last": channels_last,
    "channels-expanded": expanded(1),
    "windows": windows,
    "rows-expanded": expanded(2),
    "images-last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "all-expanded": expanded(0, 1, 2, 3),
    "odd-offset": lambda x: from_the_second(channels_last(x)),
}
"""In this order a layout and those after it differ in kind: a test takes some that follow each other."""


def from_layout(first: str, number: int) -> list[Layout]:
    """``number`` layouts, in turn, beginning with one of them."""
    layouts = list(LAYOUTS.values())
    place = list(LAYOUTS).index(first)
    return [layouts[(place + i) % len(layouts)] for i in range(number)]


def strided(vector: Tensor) -> Tensor:
    """Every second element of a buffer of NaN."""
    return torch.stack((vector, torch.full_like(vector, float("nan"))), 1)[:, 0]


def case_of(channels: int, outputs: int, contrast: str, guidance_channels: int | None = None, **others) -> Case:
    """A small one: two taps are enough to read neighbours."""
    return Case(2, channels, outputs, (3, 5), contrast, guidance_channels, options((1, 3), (0, 1), **others))


FAMILIES = {
    "dense": (case_of(4, 5, "channel"), tuple(LAYOUTS)),
    "depthwise": (
        case_of(4, 8, "scalar", groups=4),
        ("columns-expanded", "transposed", "channels-expanded", "images-last"),
    ),
    "vector": (
        case_of(3, 4, "scalar", 2, similarity="vector"),
        ("pixels-expanded", "channels-last", "rows-expanded"),
    ),
    "constant": (case_of(3, 4, "number", diffusivity="constant"), ("images-expanded",)),
}
TILE = dict.fromkeys(KERNELS, KernelConfig(16, 8, 16, 16, 4, 1))


@pytest.mark.parametrize(
    ("family", "first"), [(family, first) for family, (_, layouts) in FAMILIES.items() for first in layouts]
)
@pytest.mark.sampled(6)
def test_difference_conv(family, first, device, monkeypatch) -> None:
    """Input, guidance, incoming gradient and weight, each in another layout."""
    case, _ = FAMILIES[family]
    u, v, weight, bias, contrast, grad = case.tensors(torch.float32, device)
    u, v, grad, weight = (layout(x) for layout, x in zip(from_layout(first, 4), (u, v, grad, weight)))
    contrast = strided(contrast) if getattr(contrast, "ndim", 0) else contrast
    check([u, v, weight, strided(bias), contrast, grad], case, monkeypatch, configs=TILE)


PAIRED_LAYOUTS = {
    name: LAYOUTS[name]
    for name in ("columns-expanded", "rows-expanded", "images-expanded", "pixels-expanded", "windows")
} | {
    "second-columns": lambda x: channels_last(x.repeat_interleave(2, 3))[..., ::2],
    "channels-of-more": lambda x: channels_last(torch.cat((x, x), 1))[:, : x.shape[1]],
}


@pytest.mark.parametrize("layout", PAIRED_LAYOUTS)
@pytest.mark.sampled(2)
def test_pairs(layout, device, monkeypatch) -> None:
    """Whatever can be read in pairs; what is written in pairs has to lie in pairs, too."""
    check_pairs(Case(2, 32, 8, (3, 5), contrast="one"), PAIRED_LAYOUTS[layout], device, monkeypatch)


@pytest.mark.parametrize("size", [(1, 5), (5, 1)], ids=str)
def test_pairs_where_strides_say_nothing(size, device, monkeypatch) -> None:
    check_pairs(Case(1, 32, 8, size, contrast="one"), lambda x: loose(channels_last(x)), device, monkeypatch)


def check_pairs(case: Case, layout: Layout, device: torch.device, monkeypatch) -> None:
    u, v, *others = tensors_of(case, torch.float16, device)
    u, v = layout(u), layout(v)
    call = DifferenceCall.of(DifferenceArguments(u, v, others[0], None, others[2]), case.options, None)
    assert call.layout.can_pair
    kernels = [kernel for kernel in PAIRED_KERNELS if call.layout.can_pair_in(kernel, False)]
    check([u, v, *others], case, monkeypatch, configs=dict.fromkeys(kernels, PAIRS))


def test_gradients_are_written_in_pairs_where_they_lie_in_pairs(device) -> None:
    """Not where ``empty_like`` might put other things between two channels, or offsets of a gradient pass 32 bits."""
    u, _, weight, *_ = tensors_of(Case(2, 32, 8, (3, 5)), torch.float16, device)

    def pairs(image: Tensor) -> bool:
        call = call_of(image, image, weight.to(image.device), options())
        assert call.layout.can_pair
        return call.layout.can_pair_in("difference_data_gradient", False)

    assert pairs(u)
    assert pairs(windows(u))
    assert not any(pairs(expanded(axis)(u)) for axis in (0, 2, 3))
    huge = torch.empty(1, device="meta", dtype=torch.float16)
    assert not pairs(huge.as_strided((1, 32, 8192, 8192), (8 * 8192 * 8192, 1, 8 * 8192, 8)))


@pytest.mark.parametrize("first", LAYOUTS)
def test_fusion(first, device, monkeypatch) -> None:
    tensors = fusion_calls.Case(2, 4, 3, 5, (3, 4)).tensors(torch.float32, device)
    *layouts, last = from_layout(first, 4)
    u, y, grad = (layout(x) for layout, x in zip(layouts, (tensors[0], tensors[1], tensors[6])))
    bias, scale, shift = map(strided, tensors[3:6])
    tensors = [u, y, last(tensors[2]), bias, scale, shift, grad]
    exact = value_and_gradients(lambda *a: fusion(*a, "relu"), tensors[:6], grad)
    with guarded(monkeypatch):
        results = fusion_calls.run(launch_fusion, tensors, "relu")
    peers = fusion_calls.run(eager_fusion, tensors, "relu")
    terms = dict.fromkeys(("weight", "bias", "scale", "shift"), 3 * grad.cpu().double().norm().item())
    assert_as_good_as(results, peers, exact, ("output", *FusionNeeds._fields), terms)
    assert_lies_like(results, peers)


@pytest.mark.parametrize("size", [(1, 5), (5, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("images", [1, 2])
def test_fusion_where_strides_say_nothing(images, size, device, monkeypatch) -> None:
    tensors = fusion_calls.Case(images, 4, 3, 5, size).tensors(torch.float32, device)
    expected = fusion_calls.run(launch_fusion, tensors, "relu")
    with guarded(monkeypatch):
        results = fusion_calls.run(launch_fusion, [loose(t) if t.ndim == 4 else t for t in tensors], "relu")
    for result, reference in zip(results, expected, strict=True):
        torch.testing.assert_close(result, reference)


@pytest.mark.parametrize("paired", [False, True], ids=["float32", "paired"])
@pytest.mark.parametrize("first", ["columns-expanded", "transposed", "pixels-expanded", "windows"])
def test_block(paired, first, device, monkeypatch) -> None:
    dtype, channels = (torch.float16, 32) if paired else (torch.float32, 4)
    if paired and first not in PAIRED_LAYOUTS:
        pytest.skip("its channels cannot be read in pairs")
    u, v, weight, bias, *_ = Case(2, channels, 16, (3, 5)).tensors(dtype, device)
    one, other, another = from_layout(first, 3)
    u, v = one(u), one(v) if paired else other(v)
    vectors = [strided(torch.rand(16, device=device) + 0.5) for _ in range(4)]
    last = another(torch.randn(5, channels + 16, 1, 1, device=device).to(dtype))
    arguments = BlockArguments(u, v, weight, strided(bias), 0.7, *vectors, last, strided(bias[:5]))
    static = BlockOptions(options(), 1e-5)
    exact = eager_block.forward(exactly(arguments), static)
    with guarded(monkeypatch):
        result = block.forward(arguments, static, {"block_forward": PAIRS} if paired else None)
    peer = eager_block.forward(arguments, static)
    assert_as_good_as([result], [peer], [exact], ["output"])
    assert_lies_like([result], [peer])


@pytest.mark.parametrize("first", LAYOUTS)
def test_gradient_of_moments(first, device, monkeypatch) -> None:
    """All of its five tensors may come from outside of the library, but for the response."""
    one, other = from_layout(first, 2)
    grad, response = one(torch.randn(2, 4, 3, 5, device=device)), other(torch.randn(2, 4, 3, 5, device=device))
    mean, by_mean = strided(torch.randn(4, device=device)), torch.randn(1, device=device).expand(4)
    by_variance = strided(torch.randn(4, device=device))
    with guarded(monkeypatch):
        total = moments.gradient(grad, response, mean, by_mean, by_variance)
    offset, centre, slope = (x.view(-1, 1, 1) for x in (by_mean, mean, 2 * by_variance))
    torch.testing.assert_close(total, grad + (offset + (response - centre) * slope) / 30)
    assert_lies_like([total], [torch.empty_like(response)])


@pytest.mark.parametrize("first", ["columns-expanded", "pixels-expanded", "channels-expanded", "images-last"])
def test_gradient_of_resizing(first, device, monkeypatch) -> None:
    one, other = from_layout(first, 2)
    grad, image = one(torch.randn(2, 4, 5, 6, device=device)), other(torch.randn(2, 4, 3, 4, device=device))
    with guarded(monkeypatch):
        result = resize.gradient(grad, image)
    leaf = image.detach().clone().requires_grad_()
    F.interpolate(leaf, size=(5, 6), mode="bilinear", align_corners=False).backward(grad)
    torch.testing.assert_close(result, leaf.grad)
    assert_lies_like([result], [torch.empty_like(image)])


def test_the_gradient_of_an_expanded_image_may_need_64_bits() -> None:
    """It is as large as the image claims to be."""
    pixel, config = torch.empty(1, 2, 1, 1, device="meta"), KernelConfig(64, 16, 16, 16, 4, 1)
    o, found = options(similarity="vector"), []
    for width in (2**14, 2**16):
        guidance = pixel.expand(1, 2, 2**14, width)
        edges = torch.empty(1, device="meta").expand(1, 8, 2**14, width)
        with recorded_launches() as launches:
            similarity.backward(edges, guidance, 1.0, o, config, needs_guidance=True, needs_contrast=False)
        found.append(launches[0].arguments["INT64"])
    assert found == [False, True]


def test_memory_of_another_library(device) -> None:
    """It may begin between two words, which the offset in its storage does not say."""
    case = Case(1, 32, 8, (3, 5), contrast="one")
    u, v, weight, *_ = tensors_of(case, torch.float16, device)
    foreign = torch.from_dlpack(from_the_second(u)).detach()
    assert foreign.storage_offset() == 0
    assert foreign.data_ptr() % 4 == 2
    for pair in ((foreign, v), (u, foreign)):
        assert not call_of(*pair, weight, case.options).layout.can_pair
    assert call_of(u, v, weight, case.options).layout.can_pair
