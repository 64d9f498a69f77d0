"""What is run: one layer of a network's pyramid, one block, or the whole neck over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .networks import Network
from .plain import DifferenceFunction, PlainBlock, PlainLayer, PlainNeck
from .providers import Provider

PASSES = ("inference", "forward", "backward", "training")
"""Evaluation without gradients; the forward of training; its backward alone; both."""


@dataclass(frozen=True)
class Stage:
    """One level of a feature pyramid."""

    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}"


@dataclass(frozen=True)
class Workload:
    """Tensors and the module that is called with them.

    ``features`` are those of an image; None stands for random numbers.
    """

    network: str
    name: str
    stages: tuple[Stage, ...]
    batch: int = 1
    features: tuple[Tensor, ...] | None = field(default=None, repr=False, compare=False)

    kind = "workload"
    gates_gradients = False
    """Whether a ReLU lies on the way, whose gate a rounding error can flip: see ``checking.py``."""

    @property
    def title(self) -> str:
        """As shown above a table."""
        batch = f", batch {self.batch}" if self.batch > 1 else ""
        name = self.kind if self.name == self.kind else f"{self.kind} {self.name}"
        return f"{self.network}, {name}: {', '.join(map(str, self.stages))}{batch}"

    def inputs(self) -> dict[str, Tensor]:
        """The tensors by name, float32 on the CPU; always the same."""
        raise NotImplementedError

    def module(self, provider: Provider) -> nn.Module:
        """The provider's module, with weights that are still to be loaded."""
        raise NotImplementedError

    def exact(self, difference: DifferenceFunction, guided: bool) -> nn.Module:
        """The module to hold a provider to, in float64."""
        raise NotImplementedError

    def call(self, module: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The module's outputs."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """The facts for the JSON file."""
        return {
            "network": self.network,
            "kind": self.kind,
            "name": self.name,
            "batch": self.batch,
            "stages": [[s.channels, s.height, s.width] for s in self.stages],
            "inputs": "random" if self.features is None else "image",
        }

    def multiply_adds(self) -> int:
        """Multiplications and additions of the matrix products of a forward.

        A backward has twice as many: once for the data, once for the weights.
        """
        raise NotImplementedError

    def parameters(self) -> int:
        """How many numbers the weights are."""
        raise NotImplementedError

    def flop(self, pass_: str) -> float:
        """Operations of a pass, two for a multiplication and its addition; what is done elementwise is not counted."""
        times = {"inference": 1, "forward": 1, "backward": 2, "training": 3}
        return 2.0 * self.multiply_adds() * times[pass_]

    def least_bytes(self, pass_: str, itemsize: int) -> float:
        """What a pass has to read and write if nothing is kept in between.

        Forward: inputs, weights and outputs. Backward: output gradients, inputs and weights, and the gradients of
        inputs and weights. Training: both.
        """
        inputs, outputs = self._pixels(*self._read()), self._pixels(*self.stages)
        forward = inputs + self.parameters() + outputs
        backward = outputs + 2 * (inputs + self.parameters())
        numbers = {"inference": forward, "forward": forward, "backward": backward, "training": forward + backward}
        return float(itemsize * numbers[pass_])

    def _read(self) -> Sequence[Stage]:
        return self.stages

    def _pixels(self, *stages: Stage) -> int:
        return self.batch * sum(stage.channels * stage.height * stage.width for stage in stages)

    def _random(self, *stages: Stage) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(self.batch, s.channels, s.height, s.width, generator=generator) for s in stages]


class Layer(Workload):
    """A difference convolution, 3x3, as many channels out as in, with a guidance of its own size."""

    kind = "layer"

    def inputs(self) -> dict[str, Tensor]:
        if self.features is None:
            input, guidance = self._random(self.stages[0], self.stages[0])
            return {"input": input, "guidance": guidance}
        input, deeper = (feature.expand(self.batch, -1, -1, -1) for feature in self.features)
        generator = torch.Generator().manual_seed(0)
        projection = torch.randn(input.shape[1], deeper.shape[1], 1, 1, generator=generator) / deeper.shape[1] ** 0.5
        guidance = F.conv2d(F.interpolate(deeper, size=input.shape[2:], mode="bilinear"), projection)
        return {"input": input, "guidance": guidance}

    def module(self, provider: Provider) -> nn.Module:
        return provider.layer(self.stages[0].channels)

    def exact(self, difference: DifferenceFunction, guided: bool) -> nn.Module:
        return PlainLayer(self.stages[0].channels, difference)

    def call(self, module: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (module(*inputs),)

    def multiply_adds(self) -> int:
        return 8 * self.stages[0].channels * self._pixels(self.stages[0])

    def parameters(self) -> int:
        channels = self.stages[0].channels
        return 9 * channels**2 + channels

    def _read(self) -> Sequence[Stage]:
        return (self.stages[0], self.stages[0])


class Block(Layer):
    """Layer, normalisation, activation and fusion, with a guidance of its own size."""

    kind = "block"
    gates_gradients = True

    def module(self, provider: Provider) -> nn.Module:
        return provider.block(self.stages[0].channels)

    def exact(self, difference: DifferenceFunction, guided: bool) -> nn.Module:
        return PlainBlock(self.stages[0].channels, None, difference)

    def multiply_adds(self) -> int:
        return (8 + 2) * self.stages[0].channels * self._pixels(self.stages[0])

    def parameters(self) -> int:
        channels = self.stages[0].channels
        return (9 + 2) * channels**2 + 3 * channels  # the fusion's bias, scale and shift of the normalisation


class Neck(Workload):
    """Layer, normalisation, activation and fusion over all stages of a pyramid."""

    kind = "neck"
    gates_gradients = True

    def inputs(self) -> dict[str, Tensor]:
        features = self._random(*self.stages) if self.features is None else self.features
        return {f"feature {i}": f.expand(self.batch, -1, -1, -1) for i, f in enumerate(features, start=1)}

    def module(self, provider: Provider) -> nn.Module:
        return provider.neck([stage.channels for stage in self.stages])

    def exact(self, difference: DifferenceFunction, guided: bool) -> nn.Module:
        return PlainNeck([stage.channels for stage in self.stages], difference, guided)

    def call(self, module: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = module(inputs)
        return outputs

    def multiply_adds(self) -> int:
        """Of every block, of the projection of its guidance, and of the 3x3 convolution of the last guidance."""
        products = sum(10 * stage.channels * self._pixels(stage) for stage in self.stages)
        for own, deeper in self._projected():
            products += own.channels * self._pixels(deeper)
        return products + 9 * self.stages[-1].channels * self._pixels(_halved(self.stages[-1]))

    def parameters(self) -> int:
        blocks = sum(11 * stage.channels**2 + 3 * stage.channels for stage in self.stages)
        projections = sum(own.channels * (deeper.channels + 1) for own, deeper in self._projected())
        last = self.stages[-1].channels
        return blocks + projections + 9 * last**2 + last

    def _projected(self) -> list[tuple[Stage, Stage]]:
        pairs = zip(self.stages, self.stages[1:], strict=False)
        return [(own, deeper) for own, deeper in pairs if own.channels != deeper.channels]


def _halved(stage: Stage) -> Stage:
    """What a 3x3 convolution of stride 2 and padding 1 makes of it."""
    return Stage(stage.channels, (stage.height + 1) // 2, (stage.width + 1) // 2)


def workloads_of(
    network: Network,
    height: int,
    width: int,
    batch: int = 1,
    features: tuple[Tensor, ...] | None = None,
    kinds: Sequence[str] = ("layer", "neck"),
) -> list[Workload]:
    """Every layer of a network's pyramid, every block, then its neck: those of them that ``kinds`` names."""
    sizes = network.sizes(height, width)
    stages = tuple(Stage(channels, *size) for channels, size in zip(network.channels, sizes, strict=True))
    title = f"{network.title} {height}x{width}"
    workloads: list[Workload] = []
    for kind in (Layer, Block):
        for i, stage in enumerate(stages if kind.kind in kinds else ()):
            pair = None if features is None else (features[i], features[min(i + 1, len(stages) - 1)])
            workloads.append(kind(title, f"stage {i + 1}", (stage,), batch, pair))
    return [*workloads, Neck(title, "neck", stages, batch, features)] if "neck" in kinds else workloads
