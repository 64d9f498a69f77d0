"""The identities of the operator's definition, as properties: hypothesis draws shapes and options."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.oracle import sdc
from torch import Tensor

from sdn_triton import anisotropic_diffusion, semantic_difference_conv2d
from sdn_triton.options import DIFFUSIVITIES, PADDING_MODES, SIMILARITIES

pytest.importorskip("hypothesis", reason="property tests draw their cases with hypothesis")
from hypothesis import given
from hypothesis import strategies as st

TIGHT = dict(rtol=1e-10, atol=1e-10)


@st.composite
def calls(draw: st.DrawFn, square: bool = False, stride: bool = True) -> tuple[dict[str, Tensor], dict]:
    """Float64 tensors and options of a legal call."""
    kernel = draw(st.sampled_from([(3, 3)] if square else [(3, 3), (1, 3), (5, 3), (1, 1), (5, 5)]))
    dilation = draw(st.integers(1, 2))
    reach = max(dilation * (k // 2) for k in kernel)
    padding = draw(st.integers(0, 3))
    least = max(2 * reach + 1 - 2 * padding, 4)  # 4: reflect and circular padding need rows to take from
    height, width = draw(st.integers(least, least + 5)), draw(st.integers(least, least + 5))
    groups = draw(st.sampled_from([1, 2]))
    channels, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 2))
    similarity = draw(st.sampled_from(SIMILARITIES))
    guides = channels if similarity == "channel" else draw(st.integers(1, 4))
    batch = draw(st.integers(1, 2))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=rng)

    tensors = dict(
        input=random(batch, channels, height, width),
        guidance=random(batch, guides, height, width),
        weight=random(outputs, channels // groups, *kernel),
        bias=random(outputs),
    )
    options = dict(
        stride=draw(st.integers(1, 2)) if stride else 1,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=draw(st.sampled_from(PADDING_MODES)),
        diffusivity=draw(st.sampled_from(DIFFUSIVITIES)),
        contrast=draw(st.floats(0.3, 3.0)),
        similarity=similarity,
    )
    return tensors, options


def run(tensors: dict[str, Tensor], options: dict, **changes: Tensor) -> Tensor:
    return semantic_difference_conv2d(**{**tensors, **changes}, **options)


def conv2d(x: Tensor, weight: Tensor, options: dict) -> Tensor:
    pad = options["padding"]
    mode = {"zeros": "constant"}.get(options["padding_mode"], options["padding_mode"])
    x = F.pad(x, (pad,) * 4, mode=mode)
    return F.conv2d(x, weight, None, options["stride"], 0, options["dilation"], options["groups"])


@given(calls())
def test_matches_the_oracle(call):
    tensors, o = call
    expected = sdc(
        *(t.numpy() for t in tensors.values()),
        stride=(o["stride"],) * 2,
        padding=(o["padding"],) * 2,
        dilation=(o["dilation"],) * 2,
        groups=o["groups"],
        mode=o["padding_mode"],
        g=o["diffusivity"],
        k=o["contrast"],
        similarity=o["similarity"],
    )
    np.testing.assert_allclose(run(tensors, o).numpy(), expected, **TIGHT)


@given(calls())
def test_1_constant_diffusivity_is_the_central_difference_convolution(call):
    tensors, options = call
    options = {**options, "diffusivity": "constant"}
    if options["padding_mode"] == "zero_flux":
        options["padding_mode"] = "replicate"  # where nothing lies outside; zero flux is not a convolution at the frame
    weight = tensors["weight"]
    centre = torch.zeros_like(weight)
    centre[:, :, weight.shape[2] // 2, weight.shape[3] // 2] = weight.sum((2, 3))
    expected = conv2d(tensors["input"], weight - centre, options) + tensors["bias"].view(-1, 1, 1)
    torch.testing.assert_close(run(tensors, options), expected, **TIGHT)


@given(calls())
def test_2_flat_guidance_and_infinite_contrast_are_the_constant_diffusivity(call):
    tensors, options = call
    if options["padding_mode"] == "zeros":
        options = {**options, "padding_mode": "zero_flux"}  # zeros outside are an edge in a constant guidance
    constant = run(tensors, {**options, "diffusivity": "constant"})
    flat = torch.full_like(tensors["guidance"], 1.7)
    torch.testing.assert_close(run(tensors, options, guidance=flat), constant, **TIGHT)
    torch.testing.assert_close(run(tensors, {**options, "contrast": 1e9}), constant, **TIGHT)


@given(calls())
def test_3_a_constant_input_gives_the_bias(call):
    tensors, options = call
    if options["padding_mode"] == "zeros":
        options = {**options, "padding": 0}  # leaves the interior, where it holds
        if (
            min(
                s - options["dilation"] * (k - 1)
                for s, k in zip(tensors["input"].shape[2:], tensors["weight"].shape[2:])
            )
            < 1
        ):
            return
    output = run(tensors, options, input=torch.full_like(tensors["input"], 2.5))
    assert torch.equal(output, tensors["bias"].view(1, -1, 1, 1).expand_as(output))


@given(calls(), st.floats(-2, 2))
def test_4_linear_in_the_input_and_in_the_weight(call, factor):
    tensors, options = call
    tensors = {**tensors, "bias": None}
    for name in ("input", "weight"):
        one, two = tensors[name], torch.randn_like(tensors[name])
        expected = run(tensors, options, **{name: one}) + factor * run(tensors, options, **{name: two})
        torch.testing.assert_close(run(tensors, options, **{name: one + factor * two}), expected, **TIGHT)


@given(calls(), st.floats(-3, 3))
def test_4_adding_a_constant_changes_nothing(call, constant):
    tensors, options = call
    if options["padding_mode"] == "zeros":
        options = {**options, "padding_mode": "zero_flux"}
    expected = run(tensors, options)
    for name in ("input", "guidance"):
        torch.testing.assert_close(run(tensors, options, **{name: tensors[name] + constant}), expected, **TIGHT)


@given(calls(), st.floats(0.1, 10))
def test_5_scaling_guidance_and_contrast_together_changes_nothing(call, factor):
    tensors, options = call
    scaled = {**options, "contrast": options["contrast"] * factor}
    torch.testing.assert_close(
        run(tensors, scaled, guidance=tensors["guidance"] * factor), run(tensors, options), **TIGHT
    )


@given(calls())
def test_6_the_input_gradient_is_the_adjoint(call):
    tensors, options = call
    tensors = {**tensors, "bias": None, "input": tensors["input"].requires_grad_()}
    output = run(tensors, options)
    grad = torch.randn_like(output)
    (adjoint,) = torch.autograd.grad(output, tensors["input"], grad)
    torch.testing.assert_close((output * grad).sum(), (tensors["input"] * adjoint).sum(), **TIGHT)


@given(calls(square=True, stride=False), st.sampled_from(["rows", "columns", "transpose"]))
def test_7_flips_and_transposition_commute(call, symmetry):
    tensors, options = call
    move = {"rows": lambda x: x.flip(2), "columns": lambda x: x.flip(3), "transpose": lambda x: x.transpose(2, 3)}[
        symmetry
    ]
    moved = {name: move(tensors[name]) for name in ("input", "guidance", "weight")}
    torch.testing.assert_close(run(tensors, options, **moved), move(run(tensors, options)), **TIGHT)


@given(calls(stride=False), st.integers(1, 3))
def test_7_translation_commutes(call, distance):
    tensors, options = call
    kernel = tensors["weight"].shape[3]
    width = tensors["input"].shape[3]
    options = {**options, "padding_mode": "circular", "padding": "same"}
    if options["dilation"] * (kernel // 2) > min(tensors["input"].shape[2:]):
        return
    moved = {name: tensors[name].roll(distance % width, 3) for name in ("input", "guidance")}
    torch.testing.assert_close(run(tensors, options, **moved), run(tensors, options).roll(distance % width, 3), **TIGHT)


@given(calls(), st.sampled_from([1, 2, 4]))
def test_8_grouped_and_depthwise_agree_with_a_block_diagonal_dense_weight(call, groups):
    tensors, options = call
    batch, _, height, width = tensors["input"].shape
    input = torch.randn(batch, 4, height, width, dtype=torch.float64)
    guidance = torch.randn_like(input)
    weight = torch.randn(4, 4 // groups, *tensors["weight"].shape[2:], dtype=torch.float64)
    dense = torch.zeros(4, 4, *weight.shape[2:], dtype=torch.float64)
    for output in range(4):
        first = output // (4 // groups) * (4 // groups)
        dense[output, first : first + 4 // groups] = weight[output]
    grouped = semantic_difference_conv2d(input, guidance, weight, **{**options, "groups": groups})
    expected = semantic_difference_conv2d(input, guidance, dense, **{**options, "groups": 1})
    torch.testing.assert_close(grouped, expected, **TIGHT)


@given(
    st.sampled_from([(5, 7), (4, 3, 6)]),
    st.sampled_from(DIFFUSIVITIES),
    st.booleans(),
    st.integers(1, 4),
    st.floats(0.01, 1.0),
)
def test_9_the_solver_conserves_the_mean_and_obeys_the_maximum_principle(size, diffusivity, guided, steps, part):
    input = torch.randn(2, 3, *size, dtype=torch.float64)
    guidance = torch.randn_like(input) if guided else None
    output = anisotropic_diffusion(
        input, guidance, num_steps=steps, step_size=part / (2 * len(size)), diffusivity=diffusivity, contrast=0.8
    )
    space = tuple(range(2, input.dim()))
    torch.testing.assert_close(output.mean(space), input.mean(space), **TIGHT)
    assert (output.amax(space) <= input.amax(space) + 1e-12).all()
    assert (output.amin(space) >= input.amin(space) - 1e-12).all()
    assert not torch.equal(output, input)
