"""What the kernels read and write in memory: strides, formats, margins, sizes beyond 32 bits, and nothing else."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from support.devices import EMULATED
from support.difference_calls import CASES, GRADIENTS, Case, options, run
from support.kernel_reference import among_nans, assert_same, far_apart, guarded, transposed
from support.sampling import sample

pytest.importorskip("triton")

from sdn_triton.launch import difference_conv as launch
from sdn_triton.launch import fusion, moments, resize, similarity
from sdn_triton.launch.run import recorded_launches
from sdn_triton.launch.support import why_not_difference, why_not_fusion
from sdn_triton.ops.difference_conv import difference_conv
from sdn_triton.options import DifferenceArguments, DifferenceNeeds, DifferenceOptions, FusionArguments
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.precision import convolutions_in

LAYOUTS = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "among_nans": among_nans,
    "transposed": transposed,
}
FAMILIES = ("plain", "depthwise-multiplier3-stride2", "groups3-stride2-zero_flux", "vector")


IMAGES = {"input": (0,), "guidance": (1,), "weight": (2,), "grad": (5,), "all": (0, 1, 2, 5)}


STRIDED = [*(("plain", changed) for changed in IMAGES), *((name, "all") for name in FAMILIES[1:])]


@pytest.mark.parametrize(
    ("name", "changed", "layout"),
    sample(
        [(*case, layout) for case in STRIDED for layout in LAYOUTS],
        lambda name, changed, layout: layout == ("among_nans" if changed == "all" else "transposed"),
    ),
)
@pytest.mark.sampled(2)
def test_strides_change_nothing(name, changed, layout, device, monkeypatch) -> None:
    case = replace(CASES[name], size=(5, 6))
    tensors, o = case.tensors(torch.float16, device), case.options
    expected = run(launch, tensors, o)
    tensors = [LAYOUTS[layout](t) if i in IMAGES[changed] else t for i, t in enumerate(tensors)]
    with guarded(monkeypatch):
        results = run(launch, tensors, o)
    assert_same(results, expected, device)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.sampled(1)
def test_expanded_gradient(name, device) -> None:
    """The gradient of a sum is one number with strides of zero."""
    tensors, o = CASES[name].tensors(torch.float32, device), CASES[name].options
    tensors[5] = torch.full((), 0.5, device=device).expand(tensors[5].shape)
    expected = run(launch, [*tensors[:5], tensors[5].contiguous()], o)
    assert_same(run(launch, tensors, o), expected, device)


@pytest.mark.parametrize("name", FAMILIES)
def test_memory_formats_are_kept(name, device) -> None:
    tensors, o = CASES[name].tensors(torch.float32, device), CASES[name].options
    y, *gradients = run(launch, tensors, o)
    assert y.is_contiguous()
    for gradient, argument in zip(gradients[:4], tensors[:4], strict=True):
        assert gradient.stride() == argument.stride()
    tensors = [t.contiguous(memory_format=torch.channels_last) if getattr(t, "ndim", 0) == 4 else t for t in tensors]
    y, *gradients = run(launch, tensors, o)
    assert y.is_contiguous(memory_format=torch.channels_last)
    for gradient, argument in zip(gradients[:4], tensors[:4], strict=True):
        assert gradient.stride() == argument.stride()


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.sampled(1)
def test_repetitions_are_equal_bit_for_bit(name, device) -> None:
    tensors, o = CASES[name].tensors(torch.float16, device), CASES[name].options
    first, second = run(launch, tensors, o), run(launch, tensors, o)
    for a, b in zip(first, second, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@pytest.mark.parametrize("only", GRADIENTS)
@pytest.mark.parametrize("name", ["stride2", "depthwise", "vector"])
@pytest.mark.sampled(4)
def test_each_gradient_alone(name, only, device) -> None:
    case = CASES[name]
    *arguments, grad = case.tensors(torch.float32, device)
    called = DifferenceArguments(*arguments), case.options
    needs = DifferenceNeeds(*(field == only for field in DifferenceNeeds._fields))
    together = launch.backward(*called, grad, DifferenceNeeds(True, True, True, True, True))
    alone = launch.backward(*called, grad, needs)
    for field in DifferenceNeeds._fields:
        if field == only:
            result, reference = getattr(alone, field), getattr(together, field)
            size = max(reference.abs().max().item(), 1.0)  # a contrast's sums may cancel
            assert (result - reference).abs().max() <= 8 * torch.finfo(torch.float32).eps * size
        else:
            assert getattr(alone, field) is None


@pytest.mark.parametrize("name", FAMILIES)
def test_empty_batch_launches_nothing(name, device) -> None:
    case = replace(CASES[name], images=0)
    *tensors, grad = case.tensors(torch.float32, device)
    arguments = DifferenceArguments(*tensors)
    with recorded_launches() as launches:
        y = difference_conv.run_forward(arguments, case.options, "triton")
        gradients = difference_conv.run_backward(arguments, case.options, "triton", grad, [True] * 5)
    assert launches == []
    assert y.shape[0] == 0
    for gradient in gradients:
        assert gradient is None or not gradient.any()


AXES, DISTANT = ("images", "channels", "rows", "columns"), ("input", "guidance", "grad")


@pytest.mark.huge
@pytest.mark.parametrize(
    ("name", "distant", "direction"),
    sample(  # every axis and every argument, of either kind, but not each with each
        product(["plain", "depthwise"], DISTANT, AXES),
        lambda _, distant, direction: (DISTANT.index(distant) + AXES.index(direction)) % len(DISTANT) == 0,
    ),
)
@pytest.mark.sampled(3)
def test_offsets_beyond_32_bits(name, distant, direction, device) -> None:
    argument, axis = IMAGES[distant][0], AXES.index(direction)
    case = replace(CASES[name], images=2, size=(3, 4))
    tensors, o = case.tensors(torch.float16, device), case.options
    expected = run(launch, tensors, o)
    tensors[argument] = far_apart(tensors[argument], axis)
    assert_same(run(launch, tensors, o), expected, device)


EVERYTHING = DifferenceNeeds(True, True, True, True, False)
MANY = {
    "forward": lambda x, k, o: launch.forward(DifferenceArguments(x, x, k, None, 0.7), o),
    "depthwise-backward": lambda x, k, o: launch.backward(
        DifferenceArguments(*(x.expand(-1, 2, 1, 1),) * 2, k.expand(2, 1, 3, 3), None, 0.7),
        replace(o, groups=2),
        x.expand(-1, 2, 1, 1),
        EVERYTHING,
    ),
    "similarity": lambda x, k, o: similarity.forward(x[: len(x) // 8], 0.7, o, (1, 1), PLAIN),
    "similarity-gradient": lambda x, k, o: similarity.backward(
        x.expand(-1, 8, 1, 1), x, 0.7, o, PLAIN, needs_guidance=True, needs_contrast=False
    ),
    "fusion": lambda x, k, o: fusion.forward(
        FusionArguments(x[:1].expand_as(x), x, k[:, :1, :1, :1].expand(1, 2, 1, 1), None, None, None), "relu"
    ),
    "moments": lambda x, k, o: moments.gradient(x, x, *torch.empty(3, 1, device="meta")),
    "resizing": lambda x, k, o: resize.gradient(x.expand(-1, -1, 2, 2), x),
}
PLAIN = KernelConfig(64, 16, 16, 16, 4, 1)


@pytest.mark.parametrize("name", MANY)
def test_a_grid_beyond_32_bits_is_refused(name) -> None:
    """Triton would start nothing and say nothing. Of small images each has a program, or one for every tap."""

    def run(images: int) -> int:
        with recorded_launches() as launches:
            MANY[name](torch.empty(images, 1, 1, 1, device="meta"), torch.empty(1, 1, 3, 3, device="meta"), options())
        return len(launches)

    assert run(2**31 - 1) > 0
    with pytest.raises(ValueError, match=r"kernel: it would run a grid of .* at most 2147483647 in all"):
        run(2**31)


def test_a_grid_that_is_too_long_along_an_axis_is_refused() -> None:
    case = Case(1, 1, 1, options=options((257, 257), padding=(128, 128)))
    tensors = case.tensors(torch.float32, torch.device("meta"))
    assert "at most 65535 taps, got 257x257" in str(why_not_difference(DifferenceArguments(*tensors[:5]), case.options))
    # Packed kernels take several taps in a program; the others have one for each.
    message = "65535 along the second and third axis"
    with convolutions_in("ieee"), recorded_launches(), pytest.raises(ValueError, match=message):
        run(launch, tensors, case.options)


@pytest.mark.parametrize("border", ["zeros", "zero_flux"])
@pytest.mark.parametrize("argument", [0, 1, 5], ids=["input", "guidance", "grad"])
def test_nan_stays_within_reach(argument, border, device) -> None:
    """A NaN at a corner reaches the taps' neighbourhood, and at stride 2 not even what skips it."""
    case = Case(1, 3, 4, (9, 10), options=options(border=border))
    tensors = case.tensors(torch.float32, device)
    tensors[argument][..., 0, 0] = float("nan")
    y, dinput, dguidance, *_ = run(launch, tensors, case.options)
    reached = ((y, dguidance), (y, dinput, dguidance), (dinput, dguidance))  # the input has no part in its own gradient
    for image in reached[(0, 1, 5).index(argument)]:
        assert image[..., 0, 0].isnan().all()
        assert image[..., 2:, :].isfinite().all()
        assert image[..., :, 2:].isfinite().all()
    skipping = Case(1, 3, 4, (8, 8), options=options((1, 1), stride=(2, 2), padding=(0, 0)))
    tensors = skipping.tensors(torch.float32, device)
    tensors[0][..., 1::2, :] = float("nan")
    assert all(x.isfinite().all() for x in run(launch, tensors, skipping.options) if x is not None)


def test_flat_guidance_has_finite_gradients(device) -> None:
    for kind in ("channel", "vector"):
        case = Case(options=options(similarity=kind), contrast="scalar")
        tensors = case.tensors(torch.float32, device)
        tensors[1].fill_(0.25)
        assert all(x.isfinite().all() for x in run(launch, tensors, case.options) if x is not None)


def test_reasons_why_not(device) -> None:
    def why_not(dtype: torch.dtype, o: DifferenceOptions, groups: int = 1, where: torch.device = device) -> str | None:
        case = Case(1, 18, 18, options=o)
        return why_not_difference(DifferenceArguments(*case.tensors(dtype, where)[:5]), o)

    assert why_not(torch.float32, options()) is None
    assert why_not(torch.float16, options(similarity="vector", groups=2)) is None
    assert "float64" in str(why_not(torch.float64, options()))
    assert "18" in str(why_not(torch.float32, options(similarity="vector", groups=18)))
    if not EMULATED:
        assert "bfloat16" in str(why_not(torch.bfloat16, options(), where=torch.device("cpu")))
    image, weight = torch.zeros(1, 2, 3, 3, device=device), torch.zeros(2, 4, 1, 1, device=device)
    double = FusionArguments(image.double(), image.double(), weight.double(), None, None, None)
    assert why_not_fusion(FusionArguments(image, image, weight, None, None, None)) is None
    assert "float64" in str(why_not_fusion(double))
    assert "float16" in str(why_not_fusion(FusionArguments(image, image.half(), weight, None, None, None)))
