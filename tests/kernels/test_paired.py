"""The kernels that take channels in words against float64: values and every gradient, on the GPU or interpreted."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from support.difference_calls import PAIRS, Case, call_of, options, run, skip_what_cannot_run, tensors_of
from support.kernel_reference import assert_as_good_as, difference_conv, guarded, value_and_gradients
from support.sampling import sample

pytest.importorskip("triton")

from sdn_triton.backend import is_interpreted
from sdn_triton.eager import difference_conv as eager
from sdn_triton.kernels import paired_response
from sdn_triton.launch import difference_conv as launch
from sdn_triton.launch import moments, products
from sdn_triton.launch.paired_weight import in_pairs
from sdn_triton.options import DifferenceArguments
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.defaults import PAIRED_KERNELS, has_pairs
from sdn_triton.tuning.precision import convolutions_in

SINGLES = replace(PAIRS, block_c=16)
"""For words of one channel, in float32."""
ARITHMETICS = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "tf32"}
CONFIGS = {
    "64-pixels": PAIRS,
    "128-pixels-in-runs": replace(PAIRS, block_p=128, block_w=64),
    "8-pixels-wide": replace(PAIRS, block_w=8),
    "4-pixels-wide": replace(PAIRS, block_w=4),
    "more-splits-than-tiles": replace(PAIRS, splits=40),
}
CASES = {
    "C32-O16-9x11": Case(2, 32, 16, contrast="one"),
    "C64-O20-17x23": Case(1, 64, 20, (17, 23)),
    "C32-O33-17x23-exponential": Case(1, 32, 33, (17, 23), options=options(diffusivity="exponential")),
    "contrast-by-channel-rational": Case(1, 64, 8, (9, 19), "channel", options=options(diffusivity="rational")),
    "contrast-scalar-stride2": Case(1, 32, 8, (13, 18), "scalar", options=options(stride=(2, 2))),
    "stride3x1-dilation1x2": Case(1, 32, 8, options=options(stride=(3, 1), padding=(1, 2), dilation=(1, 2))),
    "zero_flux": Case(1, 32, 8, (9, 20), options=options(border="zero_flux")),
    "padding-beyond-reach": Case(1, 32, 8, options=options(padding=(4, 3)), contrast="one"),
    "padding-beyond-reach-zero_flux": Case(1, 32, 8, options=options(padding=(4, 3), border="zero_flux")),
    "no-padding-20x40": Case(1, 32, 8, (20, 40), options=options(padding=(0, 0))),
    "dilation-beyond-image": Case(1, 32, 8, (4, 5), options=options(padding=(7, 6), dilation=(7, 6))),
    "1x3": Case(1, 32, 8, options=options((1, 3), padding=(0, 1))),
    "5x3": Case(1, 32, 8, options=options((5, 3), padding=(2, 1))),
    "groups2": Case(1, 64, 6, options=options(groups=2), contrast="channel"),
    "aligned-8x48": Case(2, 32, 8, (8, 48)),
    "one-row": Case(1, 32, 8, (1, 33)),
    "one-column": Case(1, 32, 8, (33, 1)),
    "constant": Case(1, 32, 8, options=options(diffusivity="constant")),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", sample(CASES, lambda name: "17x23" not in name and "20x40" not in name))
@pytest.mark.sampled(5)
def test_values_and_gradients(name, dtype, device, monkeypatch) -> None:
    skip_what_cannot_run(dtype, device)
    check(CASES[name], dtype, device, monkeypatch, SINGLES if dtype == torch.float32 else PAIRS)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.sampled(1)
def test_tiles(config, device, monkeypatch) -> None:
    check(Case(1, 64, 8, (9, 23)), torch.float16, device, monkeypatch, CONFIGS[config])


LOOPS = (
    "C64-O20-17x23",
    "contrast-by-channel-rational",
    "contrast-scalar-stride2",
    "padding-beyond-reach-zero_flux",
    "5x3",
)


@pytest.mark.skipif(not is_interpreted(), reason="a compiled kernel has the loop of its architecture")
@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.sampled(1)
def test_the_loop_for_tensor_memory(name, device, monkeypatch) -> None:
    case = CASES[name]
    *tensors, _ = tensors_of(case, torch.float16, device)
    configs = {"difference_forward": PAIRS}
    rotated = launch.forward(DifferenceArguments(*tensors), case.options, configs)
    monkeypatch.setattr(paired_response, "sums_in_tensor_memory", lambda: True)
    with guarded(monkeypatch):
        plain = launch.forward(DifferenceArguments(*tensors), case.options, configs)
    exact = difference_conv(*(x.double() if isinstance(x, torch.Tensor) else x for x in tensors), case.options)
    assert_as_good_as([plain], [rotated], [exact], ["output"], {})


DEPTHWISE = {
    "C8-9x11": Case(2, 8, 8, contrast="one", options=options(groups=8)),
    "C40-17x23-exponential": Case(1, 40, 40, (17, 23), options=options(groups=40, diffusivity="exponential")),
    "contrast-by-channel-rational": Case(
        1, 48, 48, (9, 19), "channel", options=options(groups=48, diffusivity="rational")
    ),
    "contrast-scalar-stride2": Case(1, 24, 24, (13, 18), "scalar", options=options(groups=24, stride=(2, 2))),
    "stride3x1-dilation1x2": Case(
        1, 16, 16, options=options(groups=16, stride=(3, 1), padding=(1, 2), dilation=(1, 2))
    ),
    "zero_flux": Case(1, 32, 32, (9, 20), options=options(groups=32, border="zero_flux")),
    "padding-beyond-reach": Case(1, 8, 8, options=options(groups=8, padding=(4, 3))),
    "padding-beyond-reach-zero_flux": Case(1, 8, 8, options=options(groups=8, padding=(4, 3), border="zero_flux")),
    "no-padding-20x40": Case(1, 16, 16, (20, 40), options=options(groups=16, padding=(0, 0))),
    "5x3": Case(1, 8, 8, options=options((5, 3), groups=8, padding=(2, 1))),
    "1x5": Case(1, 8, 8, options=options((1, 5), groups=8, padding=(0, 2))),
    "5x1": Case(1, 8, 8, options=options((5, 1), groups=8, padding=(2, 0))),
    "constant": Case(1, 8, 8, options=options(groups=8, diffusivity="constant")),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", sample(DEPTHWISE, lambda name: "17x23" not in name and "20x40" not in name))
@pytest.mark.sampled(4)
def test_depthwise(name, dtype, device, monkeypatch) -> None:
    """A multiple of 8 channels; the gradient of the output is contiguous, and brought into pairs."""
    skip_what_cannot_run(dtype, device)
    check(DEPTHWISE[name], dtype, device, monkeypatch, replace(PAIRS, block_p=32))


def test_depthwise_tiles(device, monkeypatch) -> None:
    """Tiles of more outputs than there are, and of so many pixels that a program has one pair of taps."""
    case = Case(1, 24, 24, (9, 23), options=options(groups=24))
    check(case, torch.float16, device, monkeypatch, replace(PAIRS, block_p=128, block_w=64, block_o=64))


def test_depthwise_moments(device, monkeypatch) -> None:
    """Mean and variance of the output as it is stored, over several tiles that overhang it."""
    case = Case(2, 24, 24, (9, 23), options=options(groups=24))
    u, v, weight, bias, contrast, _ = tensors_of(case, torch.float16, device)
    with guarded(monkeypatch):
        y, mean, variance = moments.forward(
            DifferenceArguments(u, v, weight, bias, contrast), case.options, {"depthwise_forward": PAIRS}
        )
    torch.testing.assert_close(mean, y.float().mean((0, 2, 3)))
    torch.testing.assert_close(variance, y.float().var((0, 2, 3), correction=0))


def check(case: Case, dtype: torch.dtype, device: torch.device, monkeypatch, config: KernelConfig) -> None:
    tensors, o = tensors_of(case, dtype, device), case.options
    exact = value_and_gradients(lambda *a: difference_conv(*a, o), tensors[:5], tensors[5])
    # A paired data gradient knows neither the gradient of a contrast nor groups, but for those of one channel.
    paired_data = o.groups in (1, case.channels) and not isinstance(tensors[4], torch.Tensor)
    kernels = [
        kernel
        for kernel in PAIRED_KERNELS
        if has_pairs(kernel, ARITHMETICS[dtype]) and (paired_data or not kernel.endswith("data_gradient"))
    ]
    with guarded(monkeypatch), convolutions_in("tf32"):
        results = run(launch, tensors, o, configs=dict.fromkeys(kernels, config))
    terms = {"contrast": (tensors[1].cpu() * exact[2]).norm().item()}
    names = ("output", "input", "guidance", "weight", "bias", "contrast")
    is_tf32 = dtype == torch.float32 and not is_interpreted()
    assert_as_good_as(results, run(eager, tensors, o), exact, names, terms, is_tf32)


def test_the_weight_in_pairs() -> None:
    """Each number stands where the product of words in fragment order wants it, and nothing else stands there."""
    weight = torch.arange(1.0, 1 + 6 * 32 * 9).view(6, 32, 3, 3).half()
    packed = in_pairs(weight, 1, 4)
    assert packed.shape == (1, 2, 1, 4, 4, 2, 32)
    assert packed.is_contiguous()
    assert packed[0, 1, :, :, 2:].count_nonzero() == 0
    for tap, (output, channel) in zip(range(4), [(0, 0), (1, 9), (3, 22), (5, 31)]):
        thread, word, parity = channel // 8, channel % 8 // 2, channel % 2
        place = 2 * (4 * word + thread) + parity
        found = packed[0, output // 4, 0, tap, output % 4, :, place]
        assert found.tolist() == [weight[output, channel, t // 3, t % 3].item() for t in (tap, 8 - tap)]


def test_the_weight_in_words_of_one_channel() -> None:
    weight = torch.arange(1.0, 1 + 3 * 32 * 9).view(3, 32, 3, 3)
    packed = in_pairs(weight, 1, 2)
    assert packed.shape == (1, 2, 2, 4, 2, 2, 16)
    assert packed[0, 1, :, :, 1:].count_nonzero() == 0
    for tap, (output, channel) in zip(range(4), [(0, 0), (1, 9), (2, 22), (0, 31)]):
        thread, word = channel % 16 // 4, channel % 4
        found = packed[0, output // 2, channel // 16, tap, output % 2, :, 4 * word + thread]
        assert found.tolist() == [weight[output, channel, t // 3, t % 3].item() for t in (tap, 8 - tap)]


LIES_OTHERWISE = {
    "channels": lambda u, v: (u[:, :24], v[:, :24]),
    "contiguous": lambda u, v: (u.contiguous(), v.contiguous()),
    "strides differ": lambda u, v: (u, v.contiguous()),
    "odd offset": lambda u, v: tuple(
        x.permute(0, 2, 3, 1).flatten()[1:-63].view(1, 4, -1, 32).permute(0, 3, 1, 2)[..., :5] for x in (u, v)
    ),
}


@pytest.mark.parametrize("name", LIES_OTHERWISE)
def test_what_does_not_lie_in_pairs(name, device) -> None:
    """Nothing is read in pairs that does not lie in pairs: copies are, see test_channels_last.py."""
    u, v, weight, *_ = tensors_of(Case(1, 32, 8, (6, 7)), torch.float16, device)
    call = call_of(u, v, weight, options())
    assert call.layout.can_pair
    assert call.in_pairs is call
    u, v = LIES_OTHERWISE[name](u, v)
    call = call_of(u, v, weight[:, : u.shape[1]], options())
    assert not call.layout.can_pair
    assert call.in_pairs.layout.can_pair


@pytest.mark.parametrize("name", ["packed already", "contiguous"])
def test_a_call_frees_its_tensors_without_the_collector(name, device) -> None:
    """A call that referred to itself would keep images of a training step until Python looks for cycles."""
    u, v, weight, *_ = tensors_of(Case(1, 32, 8, (6, 7)), torch.float16, device)
    call = call_of(*LIES_OTHERWISE[name](u, v) if name in LIES_OTHERWISE else (u, v), weight, options())
    assert call.in_pairs.layout.can_pair
    there = weakref.ref(call)
    gc.disable()
    try:
        del call
        assert there() is None
    finally:
        gc.enable()


def test_what_cannot_be_paired(device) -> None:
    u, v, weight, *_, grad = tensors_of(Case(1, 32, 8, (6, 7)), torch.float32, device)
    with convolutions_in("ieee"):
        assert not call_of(u, v, weight, options()).layout.can_pair
        with pytest.raises(ValueError, match="cannot read packed channels"):
            launch.forward(
                DifferenceArguments(u, v, weight, None, 1.0), options(), configs={"difference_forward": SINGLES}
            )
    with convolutions_in("tf32"):
        assert call_of(u, v, weight, options()).layout.can_pair
        with pytest.raises(ValueError, match="cannot read packed channels"):
            launch.forward(
                DifferenceArguments(u, v, weight, None, 1.0), options(), configs={"difference_forward": PAIRS}
            )
        with pytest.raises(ValueError, match="cannot read packed channels"):
            run(launch, [u, v, weight, None, 1.0, grad], options(), configs={"difference_data_gradient": SINGLES})
    half = [x.half() for x in (u, v, weight)]
    with pytest.raises(ValueError, match="cannot read packed channels"):
        launch.forward(DifferenceArguments(*half, None, 1.0), options(), configs={"difference_forward": SINGLES})


@pytest.mark.parametrize(("size", "outputs"), [((8192, 8192), 8), ((2048, 2048), 512)], ids=["input", "output"])
def test_images_beyond_32_bits_are_not_paired(size, outputs) -> None:
    """Offsets inside an image are 32 bits there, in what is read and in what is written."""
    u = torch.empty(1, 32, *size, dtype=torch.float16, device="meta").to(memory_format=torch.channels_last)
    weight = torch.empty(outputs, 32, 3, 3, dtype=torch.float16, device="meta")
    assert not call_of(u, u, weight, options()).layout.can_pair
    assert not call_of(u.contiguous(), u, weight, options()).layout.can_pair_copies("difference_forward", False)
    rows = u[:, :, :1024]
    assert call_of(rows, rows, weight[:8], options()).layout.can_pair


@pytest.mark.parametrize(("dilation", "pairs"), [(1, True), (500, False)])
def test_products_beyond_32_bits_are_not_gathered_in_pairs(dilation, pairs) -> None:
    """A tile has the products of all rows that its taps reach, whose offsets have 32 bits in that kernel."""
    image = torch.empty(1, 256, 2048, 2048, device="meta", dtype=torch.float16).to(memory_format=torch.channels_last)
    weight = torch.empty(256, 256, 3, 3, device="meta", dtype=torch.float16)
    call = call_of(image, image, weight, options(padding=(dilation,) * 2, dilation=(dilation,) * 2))
    assert call.layout.can_pair
    assert call.layout.can_pair_in("difference_data_gradient", False) is pairs


@pytest.mark.parametrize("name", ["groups2", "contrast-scalar-stride2"])
def test_data_gradients_that_cannot_be_paired(name, device) -> None:
    tensors, o = tensors_of(CASES[name], torch.float16, device), CASES[name].options
    with pytest.raises(ValueError, match="cannot read packed channels"):
        run(launch, tensors, o, configs={"difference_data_gradient": PAIRS})


def test_pairs_that_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="block_c=32"):
        replace(PAIRS, block_c=64)
    with pytest.raises(ValueError, match="a multiple of 16 pixels"):
        replace(PAIRS, block_p=8, block_w=8)


def test_pixels_that_nothing_reaches(device) -> None:
    """The last row is no tap of any output: whatever it holds, the gradient of the weight is that of the others."""
    case = Case(1, 32, 8, (24, 65), options=options(stride=(2, 2), padding=(0, 0)))
    tensors, o = tensors_of(case, torch.float16, device), case.options
    configs = {"difference_weight_gradient": replace(PAIRS, block_w=32)}
    expected = run(launch, tensors, o, configs=configs)[3]
    for image in tensors[:2]:
        image[:, :, -1] = float("nan")
    assert torch.equal(run(launch, tensors, o, configs=configs)[3], expected)


STRIPPED = ["C32-O16-9x11", "stride3x1-dilation1x2", "padding-beyond-reach", "no-padding-20x40"]


@pytest.mark.parametrize("name", sample(STRIPPED, lambda name: name != "no-padding-20x40"))
def test_strips(name, device, monkeypatch) -> None:
    """The data gradients of images that are differentiated a few rows at a time."""
    monkeypatch.setattr(products, "strip_room", lambda *_: 12_000)
    case = CASES[name]
    tensors = tensors_of(case, torch.float16, device)
    call = call_of(tensors[0], tensors[1], tensors[2], case.options)
    row_bytes = call.layout.output_size[1] * (call.layout.taps - 1) * case.channels * 2
    places = products.Places.of(call, "tap_products")
    cuts = list(products.strips(call, places, PAIRS.block_h, row_bytes, 12_000))
    assert len(cuts) > case.images
    assert sum(cut.images * cut.rows for cut in cuts) == case.images * case.size[0]
    check(case, torch.float16, device, monkeypatch, PAIRS)
