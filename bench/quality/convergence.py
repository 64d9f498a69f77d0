"""Do two ways of computing the same layers train alike? The same seed, two paths, two loss curves.

Rounding alone makes curves part, the more the longer they run. How far it may is measured: a third run takes the
reference path from weights that differ by one part in ten million.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from sdn_triton import decomposed
from sdn_triton.tuning.precision import convolutions_in

from .network import VARIANTS, build_network
from .scenes import CLASSES
from .training import Setting, train, training_scenes

Path = Callable[[nn.Module], AbstractContextManager[None]]
"""Prepares a network for a path, and returns the context to train it in."""

PERTURBATION = 1e-7

EPS = 1e-4
"""Of AdamW, which with the usual 1e-8 takes full steps along gradients that are 0 but for rounding."""

EARLY = 4
"""Steps that are compared one by one: soon after, rounding alone has grown to what a small mistake would do."""

BLOCK = 10
"""Steps whose losses are averaged before whole curves are compared."""

FACTOR = 4.0
"""How many times as far as rounding drives them curves may part ..."""

FLOORS = {"early": 1e-5, "curve": 2e-3}
"""... beyond these shares of the loss."""


def by_backend(name: str) -> Path:
    """The path that ``backend=name`` takes."""

    def prepare(network: nn.Module) -> AbstractContextManager[None]:
        for module in network.modules():
            if hasattr(module, "backend"):
                setattr(module, "backend", name)  # noqa: B010  # mypy knows no attributes of a Module but tensors
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

    def checks(self) -> dict[str, tuple[float, float]]:
        """How far the curves part and how far they may, as shares of the loss: in the first steps, and all along."""
        reference = self.losses[self.reference]
        return {
            name: (
                parting(reference, self.losses[self.other], name),
                FLOORS[name] + FACTOR * parting(reference, self.losses["perturbed"], name),
            )
            for name in FLOORS
        }

    @property
    def alike(self) -> bool:
        """Whether the paths train alike."""
        return all(deviation <= allowed for deviation, allowed in self.checks().values())

    def describe(self) -> dict[str, object]:
        """Everything, for a file."""
        checks = {name: {"deviation": own, "allowed": most} for name, (own, most) in self.checks().items()}
        return {
            "reference": self.reference,
            "other": self.other,
            "alike": self.alike,
            "checks": checks,
            "losses": dict(self.losses),
        }


def parting(one: list[float], other: list[float], name: str) -> float:
    """The largest difference of two curves as a share of the first, infinite where one is not a number.

    ``"early"``: step by step, in the first steps; ``"curve"``: of means over blocks of steps.
    """
    a, b = torch.tensor(one), torch.tensor(other)
    pairs = list(zip(a[:EARLY], b[:EARLY])) if name == "early" else list(zip(a.split(BLOCK), b.split(BLOCK)))
    shares = [float((p.mean() - q.mean()).abs() / p.mean().abs()) for p, q in pairs]
    return max(share if math.isfinite(share) else math.inf for share in shares)


def compare_paths(
    setting: Setting, seed: int, device: torch.device, reference: tuple[str, Path], other: tuple[str, Path]
) -> Comparison:
    """Train the SDN network along both paths from the same seed, without TF32, and once more perturbed."""
    scenes = training_scenes(setting, seed)
    losses = {}
    with convolutions_in("ieee"):
        for name, path, noise in ((*reference, 0.0), (*other, 0.0), ("perturbed", reference[1], PERTURBATION)):
            network = build_network(VARIANTS["sdn"], CLASSES, seed)
            perturb(network, noise)
            network = network.to(device)
            with path(network):
                losses[name] = train(network, scenes, setting, seed, EPS)
    return Comparison(losses, reference[0], other[0])


def perturb(network: nn.Module, share: float) -> None:
    """Multiply every weight by 1 plus or minus ``share``, at random but always alike."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            sign = torch.randint(2, parameter.shape, generator=generator) * 2 - 1
            parameter.mul_(1 + share * sign)
