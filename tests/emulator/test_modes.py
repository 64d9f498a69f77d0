"""What hardware is free to do changes no bit, and what its approximations may be wrong by changes no verdict."""

import numpy as np
import pytest
import torch

from emulator import MODES, approximation
from emulator.examples import CASES, assert_right, run_example
from sdn_triton.bench.problems.launches import Example

SAMPLE = ("fusion-sm_90-bf16", "depthwise-sm_80-ieee")
"""The others take their time."""
PARAMETERS = [
    case if case.id in SAMPLE else pytest.param(*case.values, id=case.id, marks=pytest.mark.long)
    for case in CASES
    if case.values[2] in ("bf16", "ieee")
]


@pytest.mark.parametrize(("example", "architecture", "arithmetic"), PARAMETERS)
def test_modes(example: Example, architecture: str, arithmetic: str) -> None:
    found = {name: run_example(example, architecture, arithmetic, mode) for name, mode in MODES.items()}
    arguments, expected, _ = found["in-step"]
    for mode, (_, results, _) in found.items():
        for name, result in results.items():
            assert mode == "erring" or torch.equal(result, expected[name]), (mode, name)
    assert_right(example, arithmetic, arguments, found["erring"][1])


@pytest.mark.parametrize("name", approximation.APPROXIMATIONS)
def test_errors_are_those_allowed(name: str) -> None:
    """Both ways, never more than allowed but for the rounding of the result, and the same each time."""
    known = approximation.APPROXIMATIONS[name]
    arguments = (torch.rand(2000).add(0.1).numpy(),) * (2 if name == "div" else 1)
    exact = torch.from_numpy(known.function(*[x.astype("float64") for x in arguments]))
    wrong = torch.from_numpy(approximation.erring(name, *arguments))
    error = (wrong.double() - exact).abs()
    ulp = torch.from_numpy(np.spacing(exact.abs().float().numpy())).double()
    allowed = torch.stack([exact.abs() * known.relative, torch.full_like(exact, known.absolute), known.ulps * ulp])
    assert (error <= allowed.amax(0) + ulp).all()
    assert (error >= allowed.amax(0) - ulp).all()
    assert (wrong > exact).any()
    assert (wrong < exact).any()
    assert torch.equal(wrong, torch.from_numpy(approximation.erring(name, *arguments)))
