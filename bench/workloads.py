"""What is run: one layer of a network's pyramid, or the whole neck over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .networks import Network
from .plain import DifferenceFunction, PlainLayer, PlainNeck
from .providers import Provider


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
        return f"{self.network}, {self.name}: {', '.join(map(str, self.stages))}{batch}"

    @property
    def label(self) -> str:
        """As shown in a table about its network."""
        return f"{self.name} {self.stages[0]}" if len(self.stages) == 1 else self.name

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


def workloads_of(
    network: Network, height: int, width: int, batch: int = 1, features: tuple[Tensor, ...] | None = None
) -> list[Workload]:
    """Every layer of a network's pyramid, then its neck."""
    sizes = network.sizes(height, width)
    stages = tuple(Stage(channels, *size) for channels, size in zip(network.channels, sizes, strict=True))
    title = f"{network.title} {height}x{width}"
    layers: list[Workload] = []
    for i, stage in enumerate(stages):
        pair = None if features is None else (features[i], features[min(i + 1, len(stages) - 1)])
        layers.append(Layer(title, f"stage {i + 1}", (stage,), batch, pair))
    return [*layers, Neck(title, "neck", stages, batch, features)]
