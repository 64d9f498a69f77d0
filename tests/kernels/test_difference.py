"""The kernels of the difference convolution against float64: values and every gradient, on the GPU or interpreted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support import oracle
from support.difference_calls import CASES, DTYPES, GRADIENTS, Case, run, skip_what_cannot_run
from support.kernel_reference import assert_as_good_as, difference_conv, guarded, value_and_gradients
from support.sampling import sample

pytest.importorskip("triton")

from sdn_triton.eager import difference_conv as eager
from sdn_triton.launch import difference_conv as launch
from sdn_triton.launch import products
from sdn_triton.options import DifferenceArguments, DifferenceNeeds
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.kernels import KERNELS
from sdn_triton.tuning.precision import convolutions_in

TILED = ("plain", "stride3x1-dilation1x2", "padding-beyond-reach", "groups2", "depthwise-multiplier3-stride2", "vector")
SMALL = KernelConfig(16, 4, 16, 16, 4, 1, splits=3)
SMALL_TILES = dict.fromkeys(KERNELS, SMALL)


def check(case: Case, dtype: torch.dtype, device: torch.device, monkeypatch: pytest.MonkeyPatch, **configs) -> None:
    tensors, o = case.tensors(dtype, device), case.options
    exact = value_and_gradients(lambda *a: difference_conv(*a, o), tensors[:5], tensors[5])
    with guarded(monkeypatch):
        results = run(launch, tensors, o, **configs)
    # Guidance and contrast scaled together change nothing, so that these are the terms of the contrast's gradient.
    terms = {"contrast": (tensors[1].cpu() * exact[2]).norm().item()}
    assert_as_good_as(results, run(eager, tensors, o), exact, ("output", *GRADIENTS), terms)


STRIPPED = (
    "stride3x1-dilation1x2",
    "padding-beyond-reach-zero_flux",
    "no-padding-stride2-zero_flux",
    "groups3-stride2-zero_flux",
    "vector-groups2-zero_flux",
)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", STRIPPED)
@pytest.mark.sampled(1)
def test_strips(name, layout, device, monkeypatch) -> None:
    """Data gradients a few rows at a time, whichever axis of the products lies together."""
    case = replace(CASES[name], images=2)
    tensors, o = case.tensors(torch.float32, device), case.options
    for image in (0, 1, 5):
        tensors[image] = tensors[image].contiguous(memory_format=layout)
    *given, grad = tensors
    arguments = DifferenceArguments(*given)
    exact = value_and_gradients(lambda *a: difference_conv(*a, o), given, grad)
    needs = DifferenceNeeds(True, True, False, False, isinstance(arguments.contrast, torch.Tensor))
    made: list[products.Strip] = []
    strips = products.strips
    monkeypatch.setattr(products, "strip_room", lambda *_: 1)
    monkeypatch.setattr(products, "strips", lambda *a: made.extend(strips(*a)) or made)
    configs = {"difference_data_gradient": KernelConfig(32, 16, 16, 16, 4, 1)}
    with guarded(monkeypatch):
        results = launch.backward(arguments, o, grad, needs, configs)
    assert len(made) > case.images
    assert sum(cut.images * cut.rows for cut in made) == case.images * case.size[0]
    peers = eager.backward(arguments, o, grad, needs)
    terms = {"contrast": (tensors[1].cpu() * exact[2]).norm().item()}
    assert_as_good_as(results, peers, exact[1:], GRADIENTS, terms)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.sampled(40)  # a third of them in bfloat16, which the interpreter skips
def test_values_and_gradients(name, dtype, device, monkeypatch) -> None:
    skip_what_cannot_run(dtype, device)
    check(CASES[name], dtype, device, monkeypatch)


# Tiles are the same in all types.
@pytest.mark.parametrize("dtype", sample(DTYPES, lambda dtype: dtype == torch.float32), ids=str)
@pytest.mark.parametrize("name", TILED)
@pytest.mark.sampled(2)
def test_many_tiles_and_splits(name, dtype, device, monkeypatch) -> None:
    skip_what_cannot_run(dtype, device)
    case = CASES[name] if name == "plain" else replace(CASES[name], images=1)  # the interpreter takes its time
    check(case, dtype, device, monkeypatch, configs=SMALL_TILES)


@pytest.mark.parametrize("name", CASES)
def test_reference_is_the_oracle(name) -> None:
    """What the gradients are differentiated from is the definition."""
    case = CASES[name]
    u, v, weight, bias, contrast, _ = case.tensors(torch.float64, torch.device("cpu"))
    contrast, o = torch.as_tensor(contrast, dtype=torch.float64), case.options
    expected = oracle.sdc(
        u, v, weight, bias, o.stride, o.padding, o.dilation, o.groups, o.border, o.diffusivity, contrast, o.similarity
    )
    torch.testing.assert_close(difference_conv(u, v, weight, bias, contrast, o), torch.from_numpy(expected))


@pytest.mark.parametrize("name", ["padding-beyond-reach-stride2", "groups2", "depthwise", "vector"])
def test_gradients_are_slopes_of_the_oracle(name, device) -> None:
    """Central differences of the oracle along one direction in each argument: no autograd anywhere."""
    case = replace(CASES[name], contrast="scalar")
    tensors, o = case.tensors(torch.float32, device), case.options
    _, *gradients = run(launch, tensors, o)
    arguments = [t.cpu().double().numpy() for t in tensors[:5]]
    grad = tensors[5].cpu().double().numpy()

    def value(shifted):
        u, v, weight, bias, k = shifted
        y = oracle.sdc(
            u, v, weight, bias, o.stride, o.padding, o.dilation, o.groups, o.border, o.diffusivity, k, o.similarity
        )
        return (y * grad).sum()

    for i, gradient in enumerate(gradients):
        direction = np.random.default_rng(i).standard_normal(arguments[i].shape)
        ends = [[a + sign * 1e-5 * direction if j == i else a for j, a in enumerate(arguments)] for sign in (1, -1)]
        slope = (value(ends[0]) - value(ends[1])) / 2e-5
        expected = pytest.approx(slope, rel=1e-4, abs=1e-3)
        assert (gradient.cpu().double().numpy() * direction).sum() == expected, GRADIENTS[i]


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["plain", "17x23-C20-O33", "groups2", "vector"])
def test_tf32_is_used_and_no_worse(name, device) -> None:
    """Where PyTorch's convolutions may use TF32, products have its 10 bits and no fewer."""
    tensors, o = CASES[name].tensors(torch.float32, device), CASES[name].options
    exact = value_and_gradients(lambda *a: difference_conv(*a, o), tensors[:5], tensors[5])
    with convolutions_in("tf32"):
        results = run(launch, tensors, o)
    terms = {"contrast": (tensors[1].cpu().double() * exact[2]).norm()}  # its gradient is the sum of these
    for name, result, reference in zip(("output", *GRADIENTS), results, exact, strict=True):
        if result is not None:
            assert (result.cpu() - reference).abs().max() <= 2**-9 * terms.get(name, reference.abs().max()), name
