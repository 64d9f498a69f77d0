"""One example of ``bench/problems/launches.py``, run and held against float64."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from sdn_triton.aot.examples import DTYPES
from sdn_triton.launch.run import Launch, recorded_launches
from sdn_triton.tuning.precision import convolutions_in
from sdn_triton.tuning.pretended import pretended

from ..problems.launches import EXAMPLES, Arguments, Example, errors_and_bounds
from ..terminal import first_line
from .findings import AS_CHOSEN
from .variants import VARIANTS, compiled
from .where import Place
from .workers import Row

SEEDS = 5
"""On a GPU. Of a few numbers the eager path's error may be small by chance; in the emulator one draw has to do."""


@dataclass(frozen=True)
class ExampleTask:
    """A call of an operator in one arithmetic, on the example's own odd shape or on an aligned one."""

    example: Example
    arithmetic: str
    shape: str = "odd"
    variant: str = AS_CHOSEN

    SHAPES: ClassVar = ("odd", "aligned")
    spoils_its_process: ClassVar = False

    @property
    def family(self) -> str:
        return self.example.name

    @property
    def precision(self) -> str:
        """PyTorch's setting for float32 convolutions."""
        return "tf32" if self.arithmetic == "tf32" else "ieee"

    @property
    def shaped(self) -> Example:
        """The example in this shape."""
        return self.example if self.shape == "odd" else self.example.aligned()

    def facts(self) -> Row:
        """What is known before it runs."""
        e = self.shaped
        return {
            "family": self.family,
            "kernels": list(e.kernels),
            "arithmetic": self.arithmetic,
            "shape": self.shape,
            "size": [e.images, e.channels, *e.size, e.outputs],
            "variant": self.variant,
        }

    def arguments(self, device: torch.device, seed: int = 0) -> Arguments:
        return self.shaped.arguments(DTYPES[self.arithmetic], device, seed)

    def launches(self, place: Place) -> list[Launch]:
        """What it launches there; nothing runs."""
        arguments = self.arguments(torch.device("meta"))
        with pretended(place.target), recorded_launches() as launches, self._compiled(), torch.no_grad():
            self.example.call(arguments, "triton")
        return launches

    def run(self, place: Place) -> Row:
        """The line of a run, right or wrong; whatever is raised makes it wrong."""
        start = time.perf_counter()
        row = self.facts() | {"seconds": 0.0, "shares": {}, "ok": False, "why": None}
        try:
            row["kernels"] = list(dict.fromkeys(x.name.removesuffix("_kernel") for x in self.launches(place)))
            shares = self._shares(place)
        except Exception as error:
            row["why"], row["raised"] = first_line(error), True
        else:
            row["shares"] = {name: share if share < float("inf") else None for name, share in shares.items()}
            wrong = [f"{name}: {_said(share)}" for name, share in shares.items() if not share <= 1]
            row["ok"], row["why"] = not wrong, "; ".join(wrong) or None
        row["seconds"] = round(time.perf_counter() - start, 3)
        return row

    def _shares(self, place: Place) -> dict[str, float]:
        """The largest error of each result over the largest that is allowed; both are those of all seeds."""
        pairs_of: dict[str, list[tuple[float, float]]] = {}
        with self._compiled():
            for seed in range(1 if place.is_emulated else SEEDS):
                arguments = self.arguments(place.device, seed)
                with place.running(), torch.no_grad():
                    results = self.example.call(arguments, "triton")
                for name, pair in errors_and_bounds(self.example, self.arithmetic, arguments, results).items():
                    pairs_of.setdefault(name, []).append(pair)
        largest = {name: tuple(map(max, zip(*pairs))) for name, pairs in pairs_of.items()}
        return {name: share_of(error, bound) for name, (error, bound) in largest.items()}

    @contextmanager
    def _compiled(self) -> Iterator[None]:
        with convolutions_in(self.precision), compiled(self.variant):
            yield

    def variants(self, place: Place) -> Iterator[ExampleTask]:
        """What is tried if it is wrong: each way to compile that makes a difference to what is launched."""
        if self.variant != AS_CHOSEN:
            return
        seen = [_description(self.launches(place))]
        for name in VARIANTS:
            variant = replace(self, variant=name)
            description = _description(variant.launches(place))
            if description not in seen:
                seen.append(description)
                yield variant


def share_of(error: float, bound: float) -> float:
    """How much of what is allowed an error is."""
    return error / bound if bound else float("inf") if error else 0.0


def _said(share: float) -> str:
    return (
        f"{share:.3g} times the error allowed" if share < float("inf") else "not finite, or an error where none may be"
    )


def _description(launches: list[Launch]) -> list[Any]:
    """What tells compiled kernels apart."""
    return [(x.name, replace(x.config, source=""), x.arguments.get("PTX")) for x in launches]


def example_tasks() -> tuple[ExampleTask, ...]:
    """Every example in every arithmetic that it has, on an odd and on an aligned shape."""
    return tuple(
        ExampleTask(example, arithmetic, shape)
        for example in EXAMPLES
        for shape in ExampleTask.SHAPES
        for arithmetic in example.arithmetics
    )
