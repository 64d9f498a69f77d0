"""The kernels of the difference convolution against float64: values and every gradient, on the GPU or interpreted."""

from dataclasses import dataclass, field, replace

import numpy as np
import oracle
import pytest
import torch
from devices import EMULATED
from kernel_reference import assert_as_good_as, difference_conv, guarded, value_and_gradients
from sampling import sample

pytest.importorskip("triton")

from sdn_triton.eager import difference_conv as eager
from sdn_triton.launch import difference_conv as launch
from sdn_triton.launch import products
from sdn_triton.options import DifferenceNeeds, DifferenceOptions
from sdn_triton.tuning.configs import KernelConfig
from sdn_triton.tuning.defaults import KERNELS
from sdn_triton.tuning.precision import convolutions_in

GRADIENTS = ("input", "guidance", "weight", "bias", "contrast")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@dataclass(frozen=True)
class Case:
    images: int = 2
    channels: int = 5
    outputs: int = 7
    size: tuple[int, int] = (9, 11)
    contrast: str = "number"
    guidance_channels: int | None = None
    options: DifferenceOptions = field(default_factory=lambda: DifferenceOptions((3, 3), padding=(1, 1)))

    def tensors(self, dtype: torch.dtype, device: torch.device) -> list:
        """Input, guidance, weight, bias, contrast and an output gradient."""
        o = self.options

        def draw(*shape):
            return torch.randn(shape).to(device, dtype)

        u = draw(self.images, self.channels, *self.size)
        v = draw(self.images, self.guidance_channels or self.channels, *self.size)
        weight = draw(self.outputs, self.channels // o.groups, *o.kernel_size)
        contrast = {
            "number": 0.7,
            "one": 1.0,
            "half": 0.5,
            "scalar": torch.tensor(0.7, device=device),
            "channel": (torch.rand(self.channels) + 0.5).to(device),
        }[self.contrast]
        grad = draw(self.images, self.outputs, *o.output_size(*self.size))
        return [u, v, weight, draw(self.outputs), contrast, grad]


def options(kernel_size=(3, 3), padding=(1, 1), **others) -> DifferenceOptions:
    return DifferenceOptions(kernel_size, padding=padding, **others)


CASES = {
    "plain": Case(),
    "17x23-C20-O33": Case(1, 20, 33, (17, 23), "one"),
    "stride2": Case(options=options(stride=(2, 2), diffusivity="exponential"), contrast="scalar"),
    "stride3x1-dilation1x2": Case(options=options(stride=(3, 1), padding=(1, 2), dilation=(1, 2)), contrast="channel"),
    "dilation2-zero_flux": Case(options=options(padding=(2, 2), dilation=(2, 2), border="zero_flux")),
    "dilation-beyond-image": Case(size=(4, 5), options=options(padding=(7, 6), dilation=(7, 6))),
    "no-padding": Case(options=options(padding=(0, 0), diffusivity="rational"), contrast="channel"),
    "no-padding-stride2-zero_flux": Case(options=options(padding=(0, 0), stride=(2, 2), border="zero_flux")),
    "padding-beyond-reach": Case(options=options(padding=(4, 3)), contrast="channel"),
    "padding-beyond-reach-stride2": Case(options=options(padding=(3, 4), stride=(2, 3)), contrast="scalar"),
    "padding-beyond-reach-zero_flux": Case(options=options(padding=(4, 3), border="zero_flux"), contrast="channel"),
    "1x3": Case(options=options((1, 3), padding=(0, 1), diffusivity="rational"), contrast="scalar"),
    "5x1-zero_flux": Case(options=options((5, 1), padding=(2, 0), border="zero_flux"), contrast="scalar"),
    "5x5": Case(1, 4, 3, options=options((5, 5), padding=(2, 2), diffusivity="exponential"), contrast="channel"),
    "1x1": Case(options=options((1, 1), padding=(0, 0)), contrast="scalar"),
    "one-row": Case(size=(1, 13), contrast="scalar"),
    "one-column": Case(size=(13, 1), options=options(border="zero_flux")),
    "one-pixel": Case(3, size=(1, 1), contrast="channel"),
    "one-channel": Case(1, 1, 1, contrast="channel"),
    "constant": Case(options=options(diffusivity="constant"), contrast="scalar"),
    "groups2": Case(1, 6, 4, options=options(groups=2, diffusivity="rational"), contrast="channel"),
    "groups3-stride2-zero_flux": Case(1, 6, 9, options=options(groups=3, stride=(2, 2), border="zero_flux")),
    "depthwise": Case(2, 6, 6, options=options(groups=6), contrast="channel"),
    "depthwise-multiplier3-stride2": Case(1, 4, 12, options=options(groups=4, stride=(2, 1)), contrast="scalar"),
    "depthwise-5x3-zero_flux": Case(
        1, 5, 10, options=options((5, 3), groups=5, padding=(2, 2), dilation=(1, 2), border="zero_flux")
    ),
    "vector": Case(guidance_channels=3, options=options(similarity="vector"), contrast="scalar"),
    "vector-stride2-padding-beyond-reach": Case(
        guidance_channels=6,
        contrast="scalar",
        options=options(padding=(3, 2), stride=(2, 2), similarity="vector", diffusivity="exponential"),
    ),
    "vector-groups2-zero_flux": Case(
        1, 4, 6, guidance_channels=2, options=options(groups=2, border="zero_flux", similarity="vector")
    ),
    "vector-constant": Case(guidance_channels=2, options=options(similarity="vector", diffusivity="constant")),
}
TILED = ("plain", "stride3x1-dilation1x2", "padding-beyond-reach", "groups2", "depthwise-multiplier3-stride2", "vector")
SMALL = KernelConfig(16, 4, 16, 16, 4, 1, splits=3)
SMALL_TILES = dict.fromkeys(KERNELS, SMALL)


def skip_what_cannot_run(dtype: torch.dtype, device: torch.device) -> None:
    if dtype == torch.bfloat16 and device.type == "cpu" and not EMULATED:
        pytest.skip("Triton's interpreter computes bfloat16 wrongly")


def run(path, tensors: list, o: DifferenceOptions, **configs) -> list:
    """The output and all gradients."""
    *arguments, grad = tensors
    u, v, weight, _, contrast = arguments
    needs = DifferenceNeeds(True, True, True, True, isinstance(contrast, torch.Tensor))
    return [
        path.forward(*arguments, o, **configs),
        *path.backward(grad, u, v, weight, contrast, o, needs, **configs),
    ]


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
@pytest.mark.sampled(3)
def test_strips(name, layout, device, monkeypatch) -> None:
    """Data gradients a few rows at a time, whichever axis of the products lies together."""
    case = replace(CASES[name], images=2)
    tensors, o = case.tensors(torch.float32, device), case.options
    for image in (0, 1, 5):
        tensors[image] = tensors[image].contiguous(memory_format=layout)
    u, v, weight, _, contrast, grad = tensors
    exact = value_and_gradients(lambda *a: difference_conv(*a, o), tensors[:5], grad)
    needs = DifferenceNeeds(True, True, False, False, isinstance(contrast, torch.Tensor))
    made: list[products.Strip] = []
    strips = products.strips
    monkeypatch.setattr(products, "strip_room", lambda *_: 1)
    monkeypatch.setattr(products, "strips", lambda *a: made.extend(strips(*a)) or made)
    configs = {"difference_data_gradient": KernelConfig(32, 16, 16, 16, 4, 1)}
    with guarded(monkeypatch):
        results = launch.backward(grad, u, v, weight, contrast, o, needs, configs)
    assert len(made) > case.images
    assert sum(cut.images * cut.rows for cut in made) == case.images * case.size[0]
    peers = eager.backward(grad, u, v, weight, contrast, o, needs)
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
