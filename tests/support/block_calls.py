"""Calls of the block in evaluation for the tests of its kernels: shapes, options and tensors, and the exact result."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from support.difference_calls import options
from support.kernel_reference import difference_conv
from torch import Tensor

from sdn_triton.options import DifferenceOptions

EPS = 1e-3


@dataclass(frozen=True)
class Case:
    images: int = 2
    channels: int = 5
    responses: int = 7
    outputs: int = 6
    size: tuple[int, int] = (9, 11)
    contrast: str = "number"
    guidance_channels: int | None = None
    has_bias: bool = True
    is_affine: bool = True
    options: DifferenceOptions = field(default_factory=options)

    def tensors(self, dtype: torch.dtype, device: torch.device) -> list:
        """Input, guidance, weight, bias, contrast, statistics, affine, weight and bias of the fusion."""
        o = self.options

        def draw(*shape, kind=dtype):
            return torch.randn(shape).to(device, kind)

        contrast = {"number": 0.7, "channel": (torch.rand(self.channels) + 0.5).to(device)}[self.contrast]
        affine = [draw(self.responses, kind=torch.float32) for _ in range(2)] if self.is_affine else [None, None]
        return [
            draw(self.images, self.channels, *self.size),
            draw(self.images, self.guidance_channels or self.channels, *self.size),
            draw(self.responses, self.channels, *o.kernel_size),
            draw(self.responses) if self.has_bias else None,
            contrast,
            draw(self.responses, kind=torch.float32),
            torch.rand(self.responses).to(device) + 0.1,
            *affine,
            draw(self.outputs, self.channels + self.responses, 1, 1),
            draw(self.outputs) if self.has_bias else None,
        ]


def reference(tensors: list, o: DifferenceOptions) -> Tensor:
    """The block by PyTorch's own normalisation, concatenation and convolution in float64."""
    u, v, K, b, contrast, mean, variance, gamma, beta, K2, b2 = (
        x.detach().cpu().double() if isinstance(x, Tensor) else x for x in tensors
    )
    y = F.batch_norm(difference_conv(u, v, K, b, contrast, o), mean, variance, gamma, beta, False, 0.0, EPS)
    (top, left), (rows, columns) = o.origin, y.shape[2:]
    return F.conv2d(torch.cat([u[:, :, top : top + rows, left : left + columns], y.relu()], 1), K2, b2)


CASES = {
    "plain": Case(),
    "17x23-C20-R33-O18": Case(1, 20, 33, 18, (17, 23)),
    "R65-O97": Case(1, 8, 65, 97, (6, 5)),
    "nothing-extra": Case(has_bias=False, is_affine=False),
    "contrast-per-channel": Case(contrast="channel"),
    "5x5-dilation2-exponential": Case(
        size=(10, 12), options=options((5, 5), (4, 4), dilation=(2, 2), diffusivity="exponential")
    ),
    "zero_flux-rational": Case(options=options(border="zero_flux", diffusivity="rational")),
    "constant": Case(options=options(diffusivity="constant")),
    "vector": Case(guidance_channels=3, options=options(similarity="vector")),
    "padded-before": Case(options=options(padding=(0, 0))),
    "one-channel": Case(1, 1, 1, 1, (3, 1)),
    "one-pixel": Case(3, 4, 2, 5, (1, 1)),
}
