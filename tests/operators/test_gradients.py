"""First and second derivatives of the public functions against finite differences, in float64."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from sdn_triton import feature_fusion, semantic_difference_conv2d
from sdn_triton.options import DIFFUSIVITIES, PADDING_MODES, SIMILARITIES


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).requires_grad_()


def difference_call(weight=(2, 2, 3, 3), contrast="float", guides=2, **options):
    channels = weight[1] * options.get("groups", 1)
    tensors = [random(1, channels, 4, 5), random(1, guides, 4, 5), random(*weight), random(weight[0])]
    if contrast != "float":
        shape = () if contrast == "scalar" else (channels,)
        tensors.append((torch.rand(shape, dtype=torch.float64) + 0.7).requires_grad_())

    def call(input: Tensor, guidance: Tensor, weight: Tensor, bias: Tensor, contrast: Tensor | float = 0.8) -> Tensor:
        return semantic_difference_conv2d(input, guidance, weight, bias, contrast=contrast, **options)

    return call, tensors


CASES = {
    **{f"{g}-{s}": dict(diffusivity=g, similarity=s, padding=1) for g in DIFFUSIVITIES for s in SIMILARITIES},
    **{mode: dict(padding_mode=mode, padding=1) for mode in PADDING_MODES},
    "zeros-padding2": dict(padding=2),
    "zero_flux-padding2-stride2": dict(padding_mode="zero_flux", padding=2, stride=2),
    "stride2-dilation2": dict(stride=2, dilation=2, padding=2),
    "stride(2,1)-dilation(1,2)": dict(stride=(2, 1), dilation=(1, 2), padding=(0, 2)),
    "kernel1x3": dict(weight=(2, 2, 1, 3), padding=(0, 1)),
    "kernel5x1": dict(weight=(2, 2, 5, 1), padding=(2, 0)),
    "kernel1x1": dict(weight=(2, 2, 1, 1)),
    "depthwise": dict(weight=(4, 1, 3, 3), groups=2, padding=1),
    "groups2": dict(weight=(2, 2, 3, 3), groups=2, guides=4, padding=1),
    "contrast-scalar": dict(contrast="scalar", padding=1),
    "contrast-scalar-vector": dict(contrast="scalar", similarity="vector", guides=3, padding=1),
    "contrast-channel": dict(contrast="channel", padding=1),
    "contrast-channel-rational": dict(contrast="channel", padding=1, diffusivity="rational"),
    "contrast-channel-exponential-stride2": dict(contrast="channel", padding=1, diffusivity="exponential", stride=2),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.sampled(6)
def test_difference_convolution(case):
    call, tensors = difference_call(**case)
    assert gradcheck(call, tensors)
    assert gradgradcheck(call, tensors)


def test_input_that_guides_itself():
    weight, input = random(2, 2, 3, 3), random(1, 2, 4, 4)

    def call(x: Tensor, weight: Tensor) -> Tensor:
        return semantic_difference_conv2d(x, x, weight, padding=1)

    assert gradcheck(call, (input, weight))
    assert gradgradcheck(call, (input, weight))


def test_third_derivative():
    """Differentiates the second derivative's own graph once more."""
    call, (input, guidance, weight, bias) = difference_call(padding=1)

    def curvature(guidance: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(call(input, guidance, weight, bias).pow(2).sum(), guidance, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(2).sum(), guidance, create_graph=True)
        return second

    assert gradcheck(curvature, guidance)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("diffusivity", DIFFUSIVITIES)
def test_flat_guidance_has_a_finite_gradient(diffusivity, similarity):
    input, weight = random(1, 2, 5, 5), random(2, 2, 3, 3)
    guidance = torch.full((1, 2, 5, 5), 0.3, dtype=torch.float64, requires_grad=True)
    output = semantic_difference_conv2d(
        input, guidance, weight, padding_mode="replicate", padding=1, diffusivity=diffusivity, similarity=similarity
    )
    first = torch.autograd.grad(output.pow(2).sum(), (input, guidance, weight), create_graph=True)
    second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), (input, guidance, weight), allow_unused=True)
    assert all(g is None or torch.isfinite(g).all() for g in (*first, *second))
    assert torch.equal(first[1], torch.zeros_like(first[1]))  # g is flat at 0, so guidance feels nothing there


@pytest.mark.parametrize("needed", ["input", "guidance", "weight", "bias"])
def test_only_what_needs_a_gradient_gets_one(needed):
    call, tensors = difference_call(padding=1)
    names = ["input", "guidance", "weight", "bias"]
    expected = torch.autograd.grad(call(*tensors).sin().sum(), tensors)[names.index(needed)]
    tensors = [t.detach().requires_grad_(name == needed) for t, name in zip(tensors, names)]
    call(*tensors).sin().sum().backward()
    for tensor, name in zip(tensors, names):
        if name == needed:
            torch.testing.assert_close(tensor.grad, expected)
        else:
            assert tensor.grad is None


FUSIONS = {
    "relu": dict(),
    "identity": dict(activation="identity"),
    "no-bias": dict(bias=False),
    "scale": dict(scale=True),
    "shift": dict(shift=True),
    "scale-shift-identity": dict(scale=True, shift=True, activation="identity"),
    "scale-shift-relu": dict(scale=True, shift=True),
}


@pytest.mark.parametrize("case", FUSIONS.values(), ids=FUSIONS.keys())
def test_fusion(case):
    case = {"bias": True, "scale": False, "shift": False, "activation": "relu", **case}
    names = [name for name in ("bias", "scale", "shift") if case[name]]
    tensors = [random(2, 3, 2, 3), random(2, 2, 2, 3), random(4, 5, 1, 1)]
    tensors += [random(4 if name == "bias" else 2) for name in names]

    def call(input: Tensor, response: Tensor, weight: Tensor, *rest: Tensor) -> Tensor:
        return feature_fusion(input, response, weight, activation=case["activation"], **dict(zip(names, rest)))

    assert gradcheck(call, tensors)
    assert gradgradcheck(call, tensors)


@pytest.mark.parametrize("layout", ["expanded", "transposed", "channels_last", "slice"])
def test_gradients_that_arrive_in_any_layout(layout):
    call, tensors = difference_call(padding=1, weight=(4, 2, 3, 3))
    output = call(*tensors)
    grad = torch.randn_like(output)
    grad = {
        "expanded": grad[:, :1, :1, :1].expand_as(grad),
        "transposed": grad.mT.contiguous().mT,
        "channels_last": grad.contiguous(memory_format=torch.channels_last),
        "slice": torch.cat([torch.full_like(grad, torch.nan), grad], 1)[:, 4:],
    }[layout]
    expected = torch.autograd.grad(call(*tensors), tensors, grad.contiguous())
    for name, got, want in zip(
        ("input", "guidance", "weight", "bias"), torch.autograd.grad(output, tensors, grad), expected
    ):
        torch.testing.assert_close(got, want, msg=lambda m, name=name: f"{name}: {m}")
