"""Images that do not lie in pairs: copies in channels_last, when they are made, and what the kernels make of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.difference_calls import PAIRS, Case, options, run
from support.kernel_reference import among_nans, assert_as_good_as, guarded
from torch import Tensor

pytest.importorskip("triton")

from support.image_layouts import assert_lies_like, channels_last, check, exactly, expanded, from_the_second

from sdn_triton import explain, semantic_difference_conv2d
from sdn_triton.aot.compile import TARGETS
from sdn_triton.bench.tuner.trials import units_of
from sdn_triton.eager import block as eager_block
from sdn_triton.launch import block, difference_conv
from sdn_triton.launch.image_copy import copy_image, in_channels_last
from sdn_triton.launch.run import recorded_launches
from sdn_triton.options import BlockArguments, BlockOptions, DifferenceArguments, DifferenceNeeds
from sdn_triton.outputs import empty_output
from sdn_triton.tuning.defaults import PAIRED_KERNELS
from sdn_triton.tuning.pretended import pretended
from sdn_triton.tuning.shapes import LayerShape
from sdn_triton.tuning.spaces import candidates

IN_PAIRS = dict.fromkeys(PAIRED_KERNELS, PAIRS)


LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels-last-from-an-odd-address": lambda x: from_the_second(channels_last(x)),
    "among-nans": among_nans,
    "expanded": expanded(2, 3),
    "images-last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [64, 66, 5])
def test_copies(layout, channels, device, monkeypatch) -> None:
    """There with zeros for the channels that are missing, and back without them."""
    image = LAYOUTS[layout](torch.randn(2, channels, 5, 70, device=device).half())
    with guarded(monkeypatch):
        copy = in_channels_last(image, 96)
    assert copy.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(copy, F.pad(image, (0, 0, 0, 0, 0, 96 - channels)))
    back = LAYOUTS[layout](torch.full_like(image, 7.0)) if layout != "expanded" else torch.empty_like(image)
    copy_image(back, copy)
    assert torch.equal(back, image)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("contiguous", "contiguous"),
        ("channels-last-from-an-odd-address", "contiguous"),
        ("among-nans", "images-last"),
        ("expanded", "contiguous"),
    ],
)
def test_results_are_those_of_channels_last_images(one, other, device, monkeypatch) -> None:
    """Bit for bit, and in the layout of the arguments."""
    case = Case(1, 32, 8, (3, 18))
    u, v, *others, grad = case.tensors(torch.float16, device)
    u, v = LAYOUTS[one](u), LAYOUTS[other](v)
    with guarded(monkeypatch):
        found = run(difference_conv, [u, v, *others, grad], case.options, configs=IN_PAIRS)
    images = [channels_last(x) for x in (u, v)]
    expected = run(difference_conv, [*images, *others, channels_last(grad)], case.options, configs=IN_PAIRS)
    for result, reference in zip(found, expected, strict=True):
        assert result is None if reference is None else torch.equal(result, reference)
    output = empty_output(found[0].shape, like=u)
    assert_lies_like(found[:3], [output, torch.empty_like(u), torch.empty_like(v)])


@pytest.mark.parametrize(("channels", "contrast"), [(3, "number"), (19, "channel"), (40, "number"), (48, "scalar")])
def test_channels_that_do_not_fill_a_block(channels, contrast, device, monkeypatch) -> None:
    """Against float64; each image may lie in its own way."""
    case = Case(1, channels, 9, (3, 18), contrast)
    u, v, *others = case.tensors(torch.float16, device)
    kernels = [kernel for kernel in PAIRED_KERNELS if contrast == "number" or kernel != "difference_data_gradient"]
    check([channels_last(u), v, *others], case, monkeypatch, configs=dict.fromkeys(kernels, PAIRS))


def test_groups(device, monkeypatch) -> None:
    """Whole blocks of channels are copied; many small groups would grow too much."""
    case = Case(1, 64, 6, (5, 18), options=options(groups=2))
    kernels = "difference_forward", "difference_weight_gradient"
    check(case.tensors(torch.float16, device), case, monkeypatch, configs=dict.fromkeys(kernels, PAIRS))
    u, v, weight, *_ = Case(1, 48, 6, (5, 18), options=options(groups=2)).tensors(torch.float16, device)
    with pytest.raises(ValueError, match="cannot read packed channels"):
        difference_conv.forward(DifferenceArguments(u, v, weight, None, 1.0), options(groups=2), IN_PAIRS)


def test_depthwise(device, monkeypatch) -> None:
    """Bit for bit what channels-last images give."""
    case = Case(1, 24, 24, (5, 18), options=options(groups=24))
    u, v, *others, grad = case.tensors(torch.float16, device)
    with guarded(monkeypatch):
        found = run(difference_conv, [u, v, *others, grad], case.options, configs=IN_PAIRS)
    images = [channels_last(x) for x in (u, v)]
    expected = run(difference_conv, [*images, *others, channels_last(grad)], case.options, configs=IN_PAIRS)
    for result, reference in zip(found, expected, strict=True):
        assert result is None if reference is None else torch.equal(result, reference)
    assert_lies_like(found[:3], [empty_output(found[0].shape, like=u), u, v])


@pytest.mark.parametrize(("channels", "outputs"), [(32, 64), (36, 36)], ids=["two outputs a channel", "no quads"])
def test_depthwise_that_has_no_form_in_pairs(channels, outputs, device) -> None:
    case = Case(1, channels, outputs, (3, 18), options=options(groups=channels))
    u, v, weight, *_ = case.tensors(torch.float16, device)
    with pytest.raises(ValueError, match="depthwise_forward cannot read packed channels"):
        difference_conv.forward(DifferenceArguments(u, v, weight, None, 1.0), case.options, IN_PAIRS)


@pytest.mark.parametrize("channels", [32, 40])
def test_block(channels, device, monkeypatch) -> None:
    u, v, weight, bias, *_ = Case(1, channels, 16, (3, 18)).tensors(torch.float16, device)
    vectors = [torch.rand(16, device=device) + 0.5 for _ in range(4)]
    last = torch.randn(5, channels + 16, 1, 1, device=device).half()
    arguments = BlockArguments(u, v, weight, bias, 0.7, *vectors, last, bias[:5])
    static = BlockOptions(options(), 1e-5)
    exact = eager_block.forward(exactly(arguments), static)
    with guarded(monkeypatch):
        result = block.forward(arguments, static, IN_PAIRS)
    peer = eager_block.forward(arguments, static)
    assert_as_good_as([result], [peer], [exact], ["output"])
    assert_lies_like([result], [peer])


def launched(
    channels: int = 64,
    outputs: int = 64,
    kernel: tuple[int, int] = (3, 3),
    size: tuple[int, int] = (32, 48),
    *,
    backward: bool = False,
    target: str = "sm_90",
    dtype: torch.dtype = torch.bfloat16,
    needs: tuple[bool, ...] = (True, True, True, True, False),
    contrast: float | Tensor = 1.0,
    **others: Any,
) -> list[str]:
    """The kernels that a call with contiguous images launches on a device, without "_kernel"."""
    o = options(kernel, tuple(length // 2 for length in kernel), **others)
    u, v, weight, grad = (
        torch.empty(shape, dtype=dtype, device="meta")
        for shape in (
            (2, channels, *size),
            (2, channels, *size),
            (outputs, channels // o.groups, *kernel),
            (2, outputs, *o.output_size(*size)),
        )
    )
    arguments = DifferenceArguments(u, v, weight, None, contrast)
    with pretended(TARGETS[target]), recorded_launches() as launches:
        if backward:
            difference_conv.backward(arguments, o, grad, DifferenceNeeds(*needs))
        else:
            difference_conv.forward(arguments, o)
    return [launch.name.removesuffix("_kernel") for launch in launches]


COPIES = ["image_copy"] * 2
IN_COPIES = [*COPIES, "paired_forward"]
AS_THEY_LIE = ["difference_forward"]


@pytest.mark.parametrize(
    ("expected", "arguments"),
    [
        (IN_COPIES, {}),
        (IN_COPIES, {"target": "sm_100", "dtype": torch.float16}),
        (IN_COPIES, {"channels": 3}),
        (IN_COPIES, {"channels": 64, "groups": 2}),
        (["image_copy", "paired_forward"], {"diffusivity": "constant"}),
        (AS_THEY_LIE, {"kernel": (1, 3)}),
        (AS_THEY_LIE, {"kernel": (1, 3), "outputs": 256}),
        (IN_COPIES, {"kernel": (1, 3), "outputs": 257}),
        (IN_COPIES, {"kernel": (1, 7)}),
        (AS_THEY_LIE, {"stride": (2, 2), "outputs": 256}),
        (IN_COPIES, {"stride": (2, 2), "outputs": 257}),
        (AS_THEY_LIE, {"channels": 48, "groups": 2}),
        (AS_THEY_LIE, {"target": "sm_80"}),
        (AS_THEY_LIE, {"target": "gfx942"}),
        (AS_THEY_LIE, {"dtype": torch.float32}),
        (AS_THEY_LIE, {"kernel": (1, 1)}),
        ([*COPIES, "paired_depthwise_forward"], {"groups": 64}),
        ([*COPIES, "paired_depthwise_forward"], {"groups": 40, "channels": 40, "outputs": 40, "target": "sm_80"}),
        (["depthwise_forward"], {"groups": 64, "target": "sm_86"}),
        (["depthwise_forward"], {"groups": 64, "stride": (2, 2)}),
        (["depthwise_forward"], {"groups": 36, "channels": 36, "outputs": 36}),
        (["depthwise_forward"], {"groups": 64, "outputs": 128}),
        (["depthwise_forward"], {"groups": 64, "dtype": torch.float32}),
    ],
    ids=str,
)
def test_when_a_forward_makes_copies(expected, arguments) -> None:
    assert launched(**arguments) == expected


DATA = ["tap_products", "paired_data_gradient"]
PLAIN_DATA = ["tap_products", "difference_data_gradient"]
WEIGHT = ["paired_weight_gradient"]


@pytest.mark.parametrize(
    ("expected", "arguments"),
    [
        ([*COPIES, *DATA, *WEIGHT], {}),
        ([*COPIES, *DATA], {"needs": (True, False, False, False, False)}),
        ([*COPIES, *WEIGHT], {"needs": (False, False, True, True, False)}),
        ([*PLAIN_DATA, *COPIES, *WEIGHT], {"groups": 2}),
        ([*COPIES, *DATA, *WEIGHT], {"channels": 65}),
        (["image_copy", *COPIES, *DATA, *WEIGHT], {"size": (31, 47)}),
        ([*COPIES, *DATA, *WEIGHT], {"size": (31, 47), "outputs": 19}),
        (["image_copy", *COPIES, *WEIGHT], {"size": (31, 47), "needs": (False, False, True, True, False)}),
        ([*COPIES, *DATA, "difference_weight_gradient"], {"stride": (2, 2)}),
        ([*PLAIN_DATA, "difference_weight_gradient"], {"target": "sm_89"}),
        (
            ["image_copy", *COPIES, "paired_depthwise_data_gradient", *COPIES, "paired_depthwise_weight_gradient"],
            {"groups": 64},
        ),
        (["difference_data_gradient", "depthwise_weight_gradient"], {"groups": 64, "target": "sm_86"}),
        ([*COPIES, *DATA, *WEIGHT], {"target": "sm_80"}),
        ([*COPIES, *DATA, *WEIGHT], {"target": "sm_80", "outputs": 256}),
        ([*PLAIN_DATA, "difference_weight_gradient"], {"target": "sm_80", "kernel": (1, 3), "outputs": 256}),
        ([*PLAIN_DATA, *COPIES, *WEIGHT], {"target": "sm_80", "groups": 2}),
    ],
    ids=str,
)
def test_when_a_backward_makes_copies(expected, arguments) -> None:
    """Of the incoming gradient where it is read badly, and of the images once for all kernels."""
    assert launched(backward=True, **arguments) == expected


def test_the_gradient_of_a_contrast_is_computed_from_what_lies_there() -> None:
    contrast = torch.empty(64, device="meta")
    found = launched(backward=True, contrast=contrast, needs=(True,) * 5)
    assert found == [*PLAIN_DATA, *COPIES, *WEIGHT]


def test_a_block_makes_copies() -> None:
    u = torch.empty(2, 64, 32, 48, dtype=torch.bfloat16, device="meta")
    coarse = torch.empty(2, 64, 16, 24, dtype=torch.bfloat16, device="meta")
    weight, last = u.new_empty(64, 64, 3, 3), u.new_empty(64, 128, 1, 1)
    vectors = [torch.empty(64, device="meta") for _ in range(4)]
    with pretended(TARGETS["sm_90"]), recorded_launches() as launches:
        arguments = BlockArguments(u, coarse, weight, None, 1.0, *vectors, last, None)
        block.forward(arguments, BlockOptions(options(), 1e-5))
    assert [launch.name for launch in launches] == ["image_copy_kernel"] * 2 + ["paired_block_forward_kernel"]


def test_explain_says_so() -> None:
    u = torch.zeros(2, 40, 32, 48, dtype=torch.bfloat16)
    weight = torch.zeros(8, 40, 3, 3, dtype=torch.bfloat16)
    taken = 2 * 2 * 64 * 32 * 48 * 2
    with pretended(TARGETS["sm_90"]):
        text = str(explain(semantic_difference_conv2d, u, u.clone(), weight, padding=1))
        lasts = str(explain(semantic_difference_conv2d, *[channels_last(u[:, :32])] * 2, weight[:, :32], padding=1))
    assert text.count(f"reads channels_last copies of input and guidance ({taken:,} bytes") == 3
    assert "copies" not in lasts


def test_explain_says_so_of_a_contrast() -> None:
    """No data gradient that makes the gradient of a contrast, too, reads copies."""
    u = torch.zeros(2, 64, 32, 48, dtype=torch.bfloat16)
    weight = torch.zeros(8, 64, 3, 3, dtype=torch.bfloat16)
    for learned in (False, True):
        contrast = torch.ones(64, requires_grad=learned)
        with pretended(TARGETS["sm_90"]):
            text = str(explain(semantic_difference_conv2d, u, u.clone(), weight, padding=1, contrast=contrast))
        (line,) = (line for line in text.splitlines() if "difference_data_gradient: " in line)
        assert ("channels_last copies" in line) != learned
        assert text.count("channels_last copies") == (2 if learned else 3)


def test_the_tuner_tries_both() -> None:
    """Images that are copied have a bucket of their own: what is measured for it includes the copies.

    The device that is tuned decides, whatever else is pretended.
    """
    shapes = [LayerShape.parse(f"c=64,h=32,w=48,layout={layout}") for layout in ("contiguous", "channels_last")]
    forwards = [unit for unit in units_of(shapes, TARGETS["sm_90"]) if unit.kernel == "difference_forward"]
    assert [unit.work.can_pair for unit in forwards] == [True, True]
    assert forwards[0].bucket != forwards[1].bucket
    found = candidates("difference_forward", forwards[0].work, TARGETS["sm_90"])
    assert {config.pairs for config in found} == {False, True}
