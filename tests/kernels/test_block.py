"""The kernels of the block in evaluation against float64, on the GPU or interpreted."""

from dataclasses import replace

import pytest
import torch
from support.block_calls import CASES, EPS, Case, reference
from support.difference_calls import DTYPES, options, skip_what_cannot_run
from support.kernel_reference import among_nans, assert_as_good_as, guarded, transposed
from torch import Tensor

pytest.importorskip("triton")

from sdn_triton.eager import block as eager
from sdn_triton.launch import block as launch
from sdn_triton.launch.run import recorded_launches
from sdn_triton.options import BlockArguments, BlockOptions
from sdn_triton.tuning.configs import KernelConfig

SMALL_TILES = {"block_forward": KernelConfig(16, 4, 16, 16, 4, 1)}


def check(case: Case, dtype, device, monkeypatch, tensors=None, **configs) -> Tensor:
    tensors = case.tensors(dtype, device) if tensors is None else tensors
    block = BlockOptions(case.options, EPS)
    with guarded(monkeypatch):
        result = launch.forward(BlockArguments(*tensors), block, **configs)
    exact = reference(tensors, case.options)
    assert_as_good_as([result], [eager.forward(BlockArguments(*tensors), block)], [exact], ["output"])
    return result


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.sampled(8)
def test_values(name, dtype, device, monkeypatch) -> None:
    skip_what_cannot_run(dtype, device)
    check(CASES[name], dtype, device, monkeypatch)


@pytest.mark.parametrize("name", ["plain", "vector", "contrast-per-channel"])
def test_many_tiles_change_nothing(name, device, monkeypatch) -> None:
    check(CASES[name], torch.float32, device, monkeypatch, configs=SMALL_TILES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("responses", "outputs", "o"),
    [
        (33, 17, options()),
        (64, 72, options(border="zero_flux", diffusivity="rational")),
        (16, 8, options((5, 5), (4, 4), dilation=(2, 2), diffusivity="exponential")),
        (20, 5, options(padding=(0, 0))),
    ],
    ids=["R33-O17", "R64-O72-zero_flux", "R16-O8-5x5-dilation2", "padded-before"],
)
@pytest.mark.sampled(1)
def test_channels_in_pairs(responses, outputs, o, dtype, device, monkeypatch) -> None:
    """The kernel that takes two channels of channels_last images at a time, over tiles that overhang the image."""
    skip_what_cannot_run(dtype, device)
    case = Case(1, 64, responses, outputs, (9, 21), contrast="channel", options=o)
    tensors = case.tensors(dtype, device)
    tensors[:2] = (x.contiguous(memory_format=torch.channels_last) for x in tensors[:2])
    config = KernelConfig(64, 8, 32, 64, 4, 1, pairs=True)
    result = check(case, dtype, device, monkeypatch, tensors, configs={"block_forward": config})
    assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", [among_nans, transposed], ids=["among_nans", "transposed"])
@pytest.mark.parametrize("changed", [(0,), (1,), (0, 1)], ids=["input", "guidance", "both"])
def test_strides_change_nothing(changed, layout, device, monkeypatch) -> None:
    case = Case()
    tensors = case.tensors(torch.float32, device)
    expected = launch.forward(BlockArguments(*tensors), BlockOptions(case.options, EPS))
    tensors = [layout(t) if i in changed else t for i, t in enumerate(tensors)]
    torch.testing.assert_close(check(case, torch.float32, device, monkeypatch, tensors), expected, rtol=1e-5, atol=1e-5)


def launched(case: Case, **configs) -> list[str]:
    """The names of the kernels that a call launches."""
    tensors = [t.to("meta") if isinstance(t, Tensor) else t for t in case.tensors(torch.float32, torch.device("cpu"))]
    with recorded_launches() as launches:
        launch.forward(BlockArguments(*tensors), BlockOptions(case.options, EPS), **configs)
    return [launch.name for launch in launches]


def test_one_kernel_where_a_tile_holds_all_responses() -> None:
    case = Case()
    narrow = {"block_forward": replace(SMALL_TILES["block_forward"], block_o=32)}
    assert launched(case, configs=narrow) == ["block_forward_kernel"]
    assert launched(replace(case, responses=33), configs=narrow) == [
        "difference_forward_kernel",
        "fusion_forward_kernel",
    ]


def test_two_kernels_compute_the_same(device, monkeypatch) -> None:
    check(replace(Case(), responses=33), torch.float32, device, monkeypatch, configs=SMALL_TILES)
    padded = replace(Case(), responses=33, options=options(padding=(0, 0)))
    check(padded, torch.float32, device, monkeypatch, configs=SMALL_TILES)


def test_an_empty_batch(device) -> None:
    tensors = Case(images=0).tensors(torch.float32, device)
    assert launch.forward(BlockArguments(*tensors), BlockOptions(options(), EPS)).shape == (0, 6, 9, 11)
