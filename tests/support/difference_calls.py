"""Calls of the difference convolution for the tests of its kernels: shapes, options and tensors, and how they run."""

from dataclasses import dataclass, field

import pytest
import torch
from support.devices import EMULATED

from sdn_triton.options import DifferenceArguments, DifferenceNeeds, DifferenceOptions
from sdn_triton.tuning.configs import KernelConfig

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
PAIRS = KernelConfig(64, 16, 32, 16, 4, 1, splits=2, pairs=True)
"""For the kernels that take channels in words."""


def skip_what_cannot_run(dtype: torch.dtype, device: torch.device) -> None:
    if dtype == torch.bfloat16 and device.type == "cpu" and not EMULATED:
        pytest.skip("Triton's interpreter computes bfloat16 wrongly")


def run(path, tensors: list, o: DifferenceOptions, **configs) -> list:
    """The output and all gradients."""
    *given, grad = tensors
    arguments = DifferenceArguments(*given)
    needs = DifferenceNeeds(True, True, True, True, isinstance(arguments.contrast, torch.Tensor))
    return [path.forward(arguments, o, **configs), *path.backward(arguments, o, grad, needs, **configs)]


def tensors_of(case: Case, dtype: torch.dtype, device: torch.device) -> list:
    """Those of the case, images channels-last."""
    u, v, *others, grad = case.tensors(dtype, device)
    return [*(x.contiguous(memory_format=torch.channels_last) for x in (u, v)), *others, grad]


def call_of(u: torch.Tensor, v: torch.Tensor, weight: torch.Tensor, o: DifferenceOptions):
    """What the Triton path knows of a call with a contrast of 1 and no bias."""
    from sdn_triton.launch.difference_call import DifferenceCall

    return DifferenceCall.of(DifferenceArguments(u, v, weight, None, 1.0), o, None)
