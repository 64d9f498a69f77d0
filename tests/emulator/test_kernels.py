"""Every kernel as compiled, once for each architecture and arithmetic: no fault, and right against float64."""

import pytest
import torch
from kernel_reference import assert_as_good_as

from emulator import Mode, emulated
from sdn_triton.bench.launches import EXAMPLES, Example
from sdn_triton.tuning.compile import TARGETS
from sdn_triton.tuning.configs import ARITHMETICS
from sdn_triton.tuning.defaults import PAIRED_ARCHITECTURES
from sdn_triton.tuning.examples import DTYPES
from sdn_triton.tuning.precision import convolutions_in

CPU = torch.device("cpu")
ARCHITECTURES = ("sm_80", "sm_90")
CASES = [
    pytest.param(example, architecture, arithmetic, id=f"{example.name}-{architecture}-{arithmetic}")
    for example in EXAMPLES
    for architecture in ARCHITECTURES
    for arithmetic in ARITHMETICS
    if arithmetic in example.arithmetics
    and (not example.needs_pairs or TARGETS[architecture].architecture in PAIRED_ARCHITECTURES)
]
TF32_ERROR = 2**-9
"""Of the largest result: products have 10 bits."""


def run(example: Example, architecture: str, arithmetic: str, mode: Mode | None = None, **options):
    """The results, and the names of the kernels."""
    with convolutions_in("tf32" if arithmetic == "tf32" else "ieee"), torch.no_grad():
        arguments = example.arguments(DTYPES[arithmetic], CPU)
        with emulated(architecture, mode, **options) as emulation:
            results = example.call(arguments, "triton")
    return arguments, results, emulation


@pytest.mark.parametrize(("example", "architecture", "arithmetic"), CASES)
def test_every_kernel(example: Example, architecture: str, arithmetic: str) -> None:
    arguments, results, emulation = run(example, architecture, arithmetic)
    assert {launch.name.removesuffix("_kernel") for launch in emulation.launches} >= set(example.kernels)
    with torch.no_grad():
        peers, exact = example.call(arguments, "eager"), example.call(arguments.wide(), "eager")
    if arithmetic == "tf32":
        for name, result in results.items():
            assert (result - exact[name]).abs().max() <= TF32_ERROR * exact[name].abs().max(), name
    else:
        assert_as_good_as(results.values(), peers.values(), exact.values(), results)
