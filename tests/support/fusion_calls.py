"""Calls of the feature fusion for the tests of its kernels: shapes and tensors, and how they run."""

from dataclasses import dataclass

import torch

from sdn_triton.options import FusionArguments, FusionNeeds

ALL = FusionNeeds(*(True for _ in FusionNeeds._fields))


@dataclass(frozen=True)
class Case:
    images: int = 2
    channels: int = 5
    responses: int = 7
    outputs: int = 6
    size: tuple[int, int] = (7, 9)
    activation: str = "relu"
    has_scale: bool = True
    has_shift: bool = True
    has_bias: bool = True

    def tensors(self, dtype: torch.dtype, device: torch.device) -> list:
        """Input, response, weight, bias, scale, shift and an output gradient."""

        def draw(*shape):
            return torch.randn(shape).to(device, dtype)

        return [
            draw(self.images, self.channels, *self.size),
            draw(self.images, self.responses, *self.size),
            draw(self.outputs, self.channels + self.responses, 1, 1),
            draw(self.outputs) if self.has_bias else None,
            torch.randn(self.responses, device=device) if self.has_scale else None,
            torch.randn(self.responses, device=device) if self.has_shift else None,
            draw(self.images, self.outputs, *self.size),
        ]


def run(path, tensors: list, activation: str, **configs) -> list:
    *given, grad = tensors
    arguments = FusionArguments(*given)
    needs = FusionNeeds(*(argument is not None for argument in arguments))
    return [
        path.forward(arguments, activation, **configs),
        *path.backward(arguments, activation, grad, needs, **configs),
    ]
