"""The examples of ``sdn_triton.bench.problems.launches`` in the emulator."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sdn_triton.aot.compile import TARGETS
from sdn_triton.aot.examples import DTYPES
from sdn_triton.bench.problems.launches import EXAMPLES, Arguments, Example, Results, errors_and_bounds
from sdn_triton.tuning.configs import ARITHMETICS
from sdn_triton.tuning.precision import convolutions_in

from . import ARCHITECTURES, Emulation, Mode, emulated

CASES = [
    pytest.param(example, architecture, arithmetic, id=f"{example.name}-{architecture}-{arithmetic}")
    for example in EXAMPLES
    for architecture in ARCHITECTURES
    for arithmetic in ARITHMETICS
    if arithmetic in example.arithmetics
    and (not example.architectures or TARGETS[architecture].architecture in example.architectures)
]


def run_example(
    example: Example, architecture: str, arithmetic: str, mode: Mode | None = None, **options: Any
) -> tuple[Arguments, Results, Emulation]:
    """Run an example as compiled for an architecture."""
    with convolutions_in("tf32" if arithmetic == "tf32" else "ieee"), torch.no_grad():
        arguments = example.arguments(DTYPES[arithmetic], torch.device("cpu"))
        with emulated(architecture, mode, **options) as emulation:
            results = example.call(arguments, "triton")
    return arguments, results, emulation


def assert_right(example: Example, arithmetic: str, arguments: Arguments, results: Results) -> None:
    """No error against float64 is larger than the precision contract allows."""
    found = errors_and_bounds(example, arithmetic, arguments, results)
    assert found
    assert all(error <= bound for error, bound in found.values()), found
