"""Every kernel as compiled, once for each architecture and arithmetic: no fault, and right against float64."""

import importlib
import pkgutil
from dataclasses import replace

import pytest

import sdn_triton.kernels
from emulator.examples import CASES, assert_right, run_example
from sdn_triton.bench.problems.launches import EXAMPLES, Example
from sdn_triton.options import DIFFUSIVITIES

PARAMETERS = [
    pytest.param(*case.values, id=case.id, marks=pytest.mark.long) if case.values[2] == "fp16" else case
    for case in CASES
]
"""Float16 takes its time, and the way of bfloat16 but for the conversions."""


@pytest.mark.parametrize(("example", "architecture", "arithmetic"), PARAMETERS)
def test_every_kernel(example: Example, architecture: str, arithmetic: str) -> None:
    arguments, results, emulation = run_example(example, architecture, arithmetic)
    assert emulation.kernels >= set(example.kernels)
    assert_right(example, arithmetic, arguments, results)


@pytest.mark.parametrize("name", DIFFUSIVITIES)
def test_every_diffusivity(name: str) -> None:
    """Its formula and its slope, in the smallest example that has both; the interpreter takes what no compiler does."""
    (depthwise,) = (example for example in EXAMPLES if example.name == "depthwise")
    example = replace(depthwise, options=replace(depthwise.options, diffusivity=name))
    arguments, results, _ = run_example(example, "sm_90", "ieee")
    assert_right(example, "ieee", arguments, results)


def test_no_kernel_is_left_out() -> None:
    """Whatever is called a kernel in ``sdn_triton.kernels`` is named by an example, and nothing else is."""
    names = (module.name for module in pkgutil.iter_modules(sdn_triton.kernels.__path__))
    modules = [importlib.import_module(f"sdn_triton.kernels.{name}") for name in names]
    kernels = {name.removesuffix("_kernel") for module in modules for name in vars(module) if name.endswith("_kernel")}
    assert kernels == {kernel for example in EXAMPLES for kernel in example.kernels}
