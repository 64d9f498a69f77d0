"""The eager path: values against the oracle, gradients against autograd, strips of any height against one another."""

from __future__ import annotations

import pytest
import torch
from support.agreement import assert_like
from support.eager_calls import SCHEMES, Call, call, choose
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck

from sdn_triton.eager import composite, difference_conv, links, strips
from sdn_triton.eager.diffusivity import diffusivity, diffusivity_of_step, times_steepness
from sdn_triton.options import DIFFUSIVITIES, DifferenceArguments, DifferenceGradients, DifferenceNeeds

ALL = DifferenceNeeds(True, True, True, True, True)
STRIPS = {"rows": 0, "some": 10_000, "whole": 2**40}
"""Bytes that a strip's buffers may take: too few for more than a row, a few rows of a small image, everything."""
CASES = {
    **{f"{g}-channel": dict(diffusivity=g, padding=(1, 1)) for g in DIFFUSIVITIES},
    **{f"{g}-vector3": dict(diffusivity=g, similarity="vector", guides=3, padding=(1, 1)) for g in DIFFUSIVITIES},
    "valid": dict(),
    "padding1": dict(padding=(1, 1)),
    "padding3": dict(padding=(3, 3)),
    "padding(3,0)": dict(padding=(3, 0)),
    "padding(0,2)": dict(padding=(0, 2)),
    "padding1-kernel5x5": dict(padding=(1, 1), kernel=(5, 5), size=(9, 8)),
    "padding(0,1)-kernel3x7": dict(padding=(0, 1), kernel=(3, 7), size=(5, 9)),
    "padding(2,3)-dilation(2,3)-one-row": dict(padding=(2, 3), dilation=(2, 3), size=(1, 7)),
    "zero_flux-padding1": dict(border="zero_flux", padding=(1, 1)),
    "zero_flux-padding1-kernel5x5": dict(border="zero_flux", padding=(1, 1), kernel=(5, 5), size=(9, 8)),
    "zero_flux-padding3-kernel5x3": dict(border="zero_flux", padding=(3, 3), kernel=(5, 3)),
    "zero_flux-padding(2,0)-stride2": dict(border="zero_flux", padding=(2, 0), stride=(2, 2)),
    "zero_flux-vector1": dict(border="zero_flux", padding=(1, 1), similarity="vector", guides=1),
    "kernel1x1": dict(kernel=(1, 1)),
    "kernel1x1-padding2-stride2": dict(kernel=(1, 1), padding=(2, 2), stride=(2, 2)),
    "kernel1x3": dict(kernel=(1, 3), padding=(0, 1)),
    "kernel3x1-padding(1,3)": dict(kernel=(3, 1), padding=(1, 3)),
    "kernel5x5": dict(kernel=(5, 5), padding=(2, 2)),
    "kernel7x7-padding3": dict(kernel=(7, 7), padding=(3, 3)),
    "kernel3x5-padding(2,1)": dict(kernel=(3, 5), padding=(2, 1)),
    "stride2": dict(stride=(2, 2), padding=(1, 1)),
    "stride3": dict(stride=(3, 3), padding=(1, 1), size=(10, 8)),
    "stride(1,3)": dict(stride=(1, 3), padding=(1, 1)),
    "stride(3,1)-valid": dict(stride=(3, 1)),
    "stride(3,2)-kernel1x3-groups2": dict(stride=(3, 2), kernel=(1, 3), padding=(0, 1), size=(2, 3), groups=2),
    "stride2-dilation2": dict(stride=(2, 2), dilation=(2, 2), padding=(2, 2)),
    "dilation2": dict(dilation=(2, 2), padding=(2, 2)),
    "dilation(1,3)-padding(1,2)": dict(dilation=(1, 3), padding=(1, 2), size=(5, 9)),
    "dilation3-kernel5x5-padding5": dict(dilation=(3, 3), kernel=(5, 5), padding=(5, 5)),
    "groups2": dict(groups=2, padding=(1, 1)),
    "groups2-stride2-vector": dict(groups=2, stride=(2, 2), padding=(1, 1), similarity="vector", guides=3),
    "depthwise": dict(groups=4, outputs=4, padding=(1, 1)),
    "depthwise-twofold": dict(groups=3, channels=3, outputs=6, padding=(1, 1)),
    "depthwise-stride2-no-bias": dict(groups=4, outputs=8, stride=(2, 2), padding=(1, 1), bias=False),
    "one-channel": dict(channels=1, outputs=1, padding=(1, 1)),
    "no-bias": dict(bias=False, padding=(1, 1)),
    "H1": dict(size=(1, 9), padding=(1, 1)),
    "W1": dict(size=(9, 1), padding=(1, 1)),
    "H1-W1-stride2": dict(size=(1, 1), padding=(1, 1), stride=(2, 2)),
    "one-image": dict(batch=1, padding=(1, 1)),
    "no-image": dict(batch=0, padding=(1, 1)),
    "contrast-float": dict(contrast="float", padding=(1, 1)),
    "contrast-scalar": dict(contrast="scalar", padding=(1, 1)),
    "contrast-float-vector": dict(contrast="float", similarity="vector", guides=2, padding=(1, 1)),
    "channels_last": dict(layout=torch.channels_last, padding=(1, 1), size=(9, 11)),
    "channels_last-stride2": dict(layout=torch.channels_last, padding=(1, 1), stride=(2, 2)),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
layouts = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"]
)


@pytest.fixture(params=STRIPS.values(), ids=STRIPS.keys(), name="strips")
def cut_into_strips(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut the image as if the buffers of a strip had so many bytes."""
    monkeypatch.setattr(links, "_numbers", lambda call, size: request.param // 8)


@pytest.fixture(params=SCHEMES, name="scheme")
def only_one_scheme(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Compute by one scheme, whatever the size and the processor."""
    name: str = request.param
    choose(monkeypatch, name)
    return name


@cases
@layouts
@pytest.mark.usefixtures("scheme", "poisoned")
def test_forward(case, layout, device):
    made = call(**{"layout": layout, **case}, device=device)
    y = difference_conv.forward(*made)
    torch.testing.assert_close(y, made.expected(), rtol=1e-11, atol=1e-11)
    if y.numel():
        assert_like(y, made.arguments.input)


@cases
@layouts
@pytest.mark.usefixtures("strips", "poisoned")
def test_forward_in_strips(case, layout, device, monkeypatch):
    choose(monkeypatch, "one link")
    made = call(**{"layout": layout, **case}, device=device)
    torch.testing.assert_close(difference_conv.forward(*made), made.expected(), rtol=1e-11, atol=1e-11)


@cases
@layouts
@pytest.mark.usefixtures("scheme", "poisoned")
def test_backward(case, layout, device):
    check_backward(call(**{"layout": layout, **case}, device=device), device)


@cases
@pytest.mark.usefixtures("strips", "poisoned")
def test_backward_in_strips(case, device, monkeypatch):
    choose(monkeypatch, "one link")
    check_backward(call(**case, device=device), device)


def check_backward(made: Call, device: torch.device) -> None:
    y = difference_conv.forward(*made)
    grad = torch.randn(y.shape, dtype=y.dtype).to(device)
    gradients = backward(made, grad)
    for name, gradient, expected in zip(gradients._fields, gradients, by_autograd(made, grad), strict=True):
        if expected is None:
            assert gradient is None, name
            continue
        assert gradient is not None, name
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")
        if gradient.dim() == 4 and gradient.numel():
            assert_like(gradient, getattr(made.arguments, name))


def needs_of(made: Call) -> DifferenceNeeds:
    return DifferenceNeeds(*[isinstance(x, Tensor) for x in made.arguments])


def backward(made: Call, grad: Tensor, needs: DifferenceNeeds | None = None) -> DifferenceGradients:
    return difference_conv.backward(*made, grad, needs or needs_of(made))


def by_autograd(made: Call, grad: Tensor) -> list[Tensor | None]:
    """The gradients of the composite formula in float64, None in the place of what is no tensor."""
    variables = made.variables()
    given = iter(variables)
    arguments = DifferenceArguments(*(next(given) if isinstance(x, Tensor) else x for x in made.arguments))
    y = composite.difference_conv2d(arguments, made.options)
    found = iter(torch.autograd.grad(y, variables, grad.double(), materialize_grads=True))
    return [next(found) if isinstance(x, Tensor) else None for x in made.arguments]


@cases
def test_composite(case, device):
    made = call(**case, device=device)
    torch.testing.assert_close(composite.difference_conv2d(*made), made.expected(), rtol=1e-11, atol=1e-11)


class Eager(torch.autograd.Function):
    """The eager path's forward and backward, for finite differences."""

    @staticmethod
    def forward(ctx, options, *tensors):
        ctx.options = options
        ctx.save_for_backward(*tensors)
        return difference_conv.forward(DifferenceArguments(*tensors), options)

    @staticmethod
    def backward(ctx, grad):
        arguments = DifferenceArguments(*ctx.saved_tensors)
        return None, *difference_conv.backward(arguments, ctx.options, grad, ALL)


DIFFERENTIATED = {
    **{
        f"{g}-{s}": dict(diffusivity=g, similarity=s, padding=(1, 1))
        for g in DIFFUSIVITIES
        for s in ("channel", "vector")
    },
    "zero_flux-padding2": dict(border="zero_flux", padding=(2, 2)),
    "stride2-dilation2": dict(stride=(2, 2), dilation=(2, 2), padding=(2, 2)),
    "depthwise": dict(groups=2, outputs=4, padding=(1, 1)),
}


@pytest.mark.parametrize("case", DIFFERENTIATED.values(), ids=DIFFERENTIATED.keys())
def test_backward_against_finite_differences(case):
    made = call(**{"channels": 2, "outputs": 2, "size": (4, 3), "batch": 1, **case})
    assert gradcheck(lambda *tensors: Eager.apply(made.options, *tensors), made.variables())


@pytest.mark.parametrize("similarity", ["channel", "vector"])
@pytest.mark.parametrize("name", DIFFUSIVITIES)
def test_second_derivatives_of_the_composite_where_guidance_is_flat(name, similarity):
    made = call(diffusivity=name, similarity=similarity, channels=2, outputs=2, size=(3, 3), batch=1, contrast="scalar")
    made.arguments.guidance[..., :2] = 0.5
    assert gradgradcheck(
        lambda *x: composite.difference_conv2d(DifferenceArguments(*x), made.options), made.variables()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [dict(), dict(similarity="vector"), dict(stride=(2, 2))], ids=str)
@pytest.mark.usefixtures("strips")
def test_half_types_are_computed_in_float32(dtype, options, device):
    made = call(dtype=dtype, padding=(1, 1), channels=32, outputs=8, size=(9, 9), device=device, **options)
    y = difference_conv.forward(*made)
    grad = torch.randn(y.shape).to(device, dtype)
    found, expected = [y, *backward(made, grad)], [made.expected(), *by_autograd(made, grad)]
    for result, exact in zip(found, expected, strict=True):
        assert result.dtype == dtype
        rounding = torch.finfo(dtype).eps / 2 * exact.abs() + 1e-5 * exact.abs().max()
        assert ((result.double() - exact).abs() <= rounding).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_contrast_of_another_dtype(dtype, device):
    made = call(dtype=dtype, padding=(1, 1), device=device)
    assert isinstance(made.arguments.contrast, Tensor)
    made = made._replace(arguments=made.arguments._replace(contrast=made.arguments.contrast.double()))
    y = difference_conv.forward(*made)
    gradients = backward(made, torch.ones_like(y))
    assert y.dtype == dtype
    assert gradients.contrast.dtype == torch.float64
    torch.testing.assert_close(y.double(), made.expected(), rtol=0.01, atol=0.02)
    torch.testing.assert_close(gradients.contrast, by_autograd(made, torch.ones_like(y))[4], rtol=1e-3, atol=1e-3)


@layouts
def test_strips_of_any_height_agree(layout, monkeypatch):
    choose(monkeypatch, "one link")
    made = call(size=(13, 9), channels=16, outputs=16, padding=(1, 1), layout=layout)
    heights, outputs, gradients = [], [], []
    grad = torch.randn(2, 16, 13, 9, dtype=torch.float64)

    def cut(*arguments):
        found = strips.cut(*arguments)
        heights.append(found[0][0].images * found[0][0].rows)
        return found

    monkeypatch.setattr(links, "cut", cut)
    for limit in (0, 70_000, 110_000, 150_000, 2**40):
        monkeypatch.setattr(links, "_numbers", lambda call, size, limit=limit: limit // 8)
        outputs.append(difference_conv.forward(*made))
        gradients.append(backward(made, grad))
    forward, backward_ = heights[::2], heights[1::2]
    assert forward[0] == backward_[0] == 1
    assert forward[-1] == backward_[-1] == 26
    assert len(set(forward)) >= 4
    assert len(set(backward_)) >= 4
    for y, gradient in zip(outputs[1:], gradients[1:], strict=True):
        torch.testing.assert_close(y, outputs[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(gradient, gradients[0], rtol=0, atol=1e-11)


LAYOUTS = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "permuted": lambda x: x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
    "slice": lambda x: torch.stack((x, torch.full_like(x, torch.nan)), -1)[..., 0],
    "rows-reversed-in-memory": lambda x: x.flip(2).contiguous().flip(2),
}


@pytest.mark.parametrize("stride", [1, 2], ids=["stride1", "stride2"])
@pytest.mark.parametrize("change", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_any_strides(change, stride):
    made = call(padding=(1, 1), stride=(stride, stride))
    y = difference_conv.forward(*made)
    grad = torch.randn_like(y)
    expected = backward(made, grad)
    given = made.arguments
    images = dict(input=change(given.input), guidance=change(given.guidance))
    other = made._replace(arguments=given._replace(**images, weight=change(given.weight)))
    torch.testing.assert_close(difference_conv.forward(*other), y)
    torch.testing.assert_close(backward(other, change(grad)), expected)


@pytest.mark.parametrize("stride", [1, 2], ids=["stride1", "stride2"])
def test_expanded_tensors(stride):
    made = call(padding=(1, 1), stride=(stride, stride))
    input, guidance = made.arguments.input[:1], made.arguments.guidance[:1, :, :1]
    images = dict(input=input.expand(3, -1, -1, -1), guidance=guidance.expand(3, -1, 7, -1))
    made = made._replace(arguments=made.arguments._replace(**images))
    y = difference_conv.forward(*made)
    torch.testing.assert_close(y, made.expected())
    grad = torch.ones((), dtype=y.dtype).expand(y.shape)
    torch.testing.assert_close(backward(made, grad), DifferenceGradients(*by_autograd(made, grad.clone())))


@layouts
def test_repeated_runs_are_equal(layout):
    made = call(padding=(1, 1), dtype=torch.float32, channels=32, outputs=32, size=(40, 40), layout=layout)
    y = difference_conv.forward(*made)
    gradients = backward(made, y)
    for _ in range(3):
        assert torch.equal(difference_conv.forward(*made), y)
        for again, gradient in zip(backward(made, y), gradients, strict=True):
            assert torch.equal(again, gradient)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_stand_ins_keep_no_tensor_for_later_ones(device):
    """What is allocated while a CUDA graph is captured belongs to the graph; stand-ins of another time fail alike."""
    for _ in range(2):
        with FakeTensorMode():
            step = torch.empty(2, 3, device=device)
            assert diffusivity_of_step("charbonnier", step, step).shape == (2, 3)
    step = torch.zeros(2, 3)
    assert diffusivity_of_step("charbonnier", step, step).sum() == 6


@pytest.mark.parametrize("name", DifferenceNeeds._fields)
def test_only_what_is_needed(name):
    made = call(padding=(1, 1))
    grad = torch.randn(2, 6, 7, 6, dtype=torch.float64)
    needs = DifferenceNeeds(**{field: field == name for field in DifferenceNeeds._fields})
    gradients = backward(made, grad, needs)
    assert [field for field in gradients._fields if getattr(gradients, field) is not None] == [name]
    torch.testing.assert_close(getattr(gradients, name), getattr(backward(made, grad), name))


@layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_meta_tensors(dtype, layout):
    made = call(padding=(1, 1), dtype=dtype, layout=layout, outputs=8)
    y = difference_conv.forward(*made)
    on_meta = (x.to("meta") if isinstance(x, Tensor) else x for x in made.arguments)
    meta = Call(DifferenceArguments(*on_meta), made.options)
    fake = difference_conv.forward(*meta)
    assert fake.is_meta
    assert (fake.shape, fake.stride(), fake.dtype) == (y.shape, y.stride(), y.dtype)
    for real, sized in zip(backward(made, y), backward(meta, fake), strict=True):
        assert sized.is_meta
        assert (sized.shape, sized.stride(), sized.dtype) == (real.shape, real.stride(), real.dtype)
    assert composite.difference_conv2d(*meta).shape == y.shape


@pytest.mark.usefixtures("strips")
@pytest.mark.parametrize("options", [dict(padding=(1, 1)), dict(), dict(padding=(1, 1), border="zero_flux")], ids=str)
@pytest.mark.parametrize("pixel", [(4, 6), (7, 8), (0, 0)], ids=["middle", "last", "first"])
@pytest.mark.parametrize("name", ["input", "guidance"])
def test_nan_reaches_as_far_as_the_kernel(name, pixel, options):
    made = call(size=(8, 9), channels=2, outputs=2, batch=3, **options)
    getattr(made.arguments, name)[(1, 0, *pixel)] = torch.nan
    y = difference_conv.forward(*made)
    rows, columns = torch.arange(8)[:, None] - pixel[0], torch.arange(9) - pixel[1]
    distance = torch.maximum(rows.abs(), columns.abs())
    top, left = made.options.origin
    assert (y[1].isnan() == (distance <= 1)[top : 8 - top, left : 9 - left]).all()
    assert not y[::2].isnan().any()
    gradients = backward(made, torch.ones_like(y))
    for gradient in (gradients.input, gradients.guidance):
        assert not gradient[1, :, distance > 2].isnan().any()
        assert not gradient[::2].isnan().any()


@pytest.mark.parametrize("name", DIFFUSIVITIES)
def test_diffusivities_in_place_and_their_slopes(name):
    a = torch.linspace(0, 30, 100, dtype=torch.float64, requires_grad=True)
    g = diffusivity(name, a)
    exact = {
        "charbonnier": (1 + a) ** -0.5,
        "exponential": torch.exp(-a),
        "rational": 1 / (1 + a),
        "constant": 1 + 0 * a,
    }
    torch.testing.assert_close(g, exact[name])
    work = a.detach().sqrt()
    assert diffusivity_of_step(name, work, out=work) is work
    torch.testing.assert_close(work, g.detach(), rtol=1e-13, atol=0)
    (slope,) = torch.autograd.grad(exact[name].sum(), a)
    scaled = g.detach().clone()
    factor = times_steepness(name, scaled, work)
    torch.testing.assert_close(-factor * scaled / 2, slope)


def test_slopes_where_the_similarity_underflows():
    made = call(diffusivity="exponential", padding=(1, 1), dtype=torch.float32, contrast="float")
    made.arguments.guidance.mul_(1000)
    gradients = backward(made, torch.ones(2, 6, 7, 6))
    assert gradients.guidance.isfinite().all()
