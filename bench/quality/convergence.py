"""Do two ways of computing the same layers train alike? The same seed, two paths, two loss curves.

Rounding alone makes curves part, the more the longer they run. How far it may is measured: a third run takes the
reference path from weights that differ by one part in a million.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from sdn_triton import decomposed

from .network import VARIANTS, build_network
from .scenes import CLASSES
from .training import Setting, train, training_scenes

Path = Callable[[nn.Module], AbstractContextManager[None]]
"""Prepares a network for a path, and returns the context to train it in."""

PERTURBATION = 1e-6
BLOCK = 10
"""Steps whose losses are averaged before curves are compared."""

FACTOR, FLOOR = 4.0, 2e-3
"""Curves may part by so many times what rounding does, and by this share of the loss besides."""


def by_backend(name: str) -> Path:
    """The path that ``backend=name`` takes."""

    def prepare(network: nn.Module) -> AbstractContextManager[None]:
        for module in network.modules():
            if hasattr(module, "backend"):
                module.backend = name
        return nullcontext()

    return prepare


def by_plain_operations(network: nn.Module) -> AbstractContextManager[None]:
    """PyTorch's own operations: see :func:`sdn_triton.decomposed`."""
    return decomposed()


@dataclass(frozen=True)
class Comparison:
    """The losses of every step: of two paths, and of the reference from perturbed weights."""

    losses: Mapping[str, list[float]]
    reference: str
    other: str

    @property
    def deviation(self) -> float:
        """How far the other path's curve parts from the reference, as a share of the loss."""
        return parting(self.losses[self.reference], self.losses[self.other])

    @property
    def allowed(self) -> float:
        """How far it may."""
        return FLOOR + FACTOR * parting(self.losses[self.reference], self.losses["perturbed"])

    @property
    def alike(self) -> bool:
        """Whether the paths train alike."""
        return self.deviation <= self.allowed

    def describe(self) -> dict[str, object]:
        """Everything, for a file."""
        return {
            "reference": self.reference,
            "other": self.other,
            "deviation": self.deviation,
            "allowed": self.allowed,
            "alike": self.alike,
            "losses": dict(self.losses),
        }


def parting(one: list[float], other: list[float]) -> float:
    """The largest difference of two curves, averaged over ``BLOCK`` steps, as a share of the first; NaN counts as all."""
    a, b = (torch.tensor(curve).split(BLOCK) for curve in (one, other))
    shares = [float((p.mean() - q.mean()).abs() / p.mean().abs()) for p, q in zip(a, b, strict=True)]
    return max(share if share == share else float("inf") for share in shares)


def compare_paths(
    setting: Setting, seed: int, device: torch.device, reference: tuple[str, Path], other: tuple[str, Path]
) -> Comparison:
    """Train the SDN network along both paths from the same seed, without TF32, and once more perturbed."""
    scenes = training_scenes(setting, seed)
    losses = {}
    with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
        for name, path, noise in ((*reference, 0.0), (*other, 0.0), ("perturbed", reference[1], PERTURBATION)):
            network = build_network(VARIANTS["sdn"], CLASSES, seed)
            perturb(network, noise)
            network = network.to(device)
            with path(network):
                losses[name] = train(network, scenes, setting, seed)
    return Comparison(losses, reference[0], other[0])


def perturb(network: nn.Module, share: float) -> None:
    """Multiply every weight by 1 plus or minus ``share``, at random but always alike."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            sign = torch.randint(2, parameter.shape, generator=generator) * 2 - 1
            parameter.mul_(1 + share * sign)
