"""The resource model against the compiler, for configurations drawn from the spaces, on all targets.

What is asserted of each draw:

- what takes more shared memory, or more tensor memory, than the target has is discarded, in both memory layouts;
- with channels last, which needs more of both, what the compiler makes fit by a clear margin (at most half of the
  shared memory, at most three quarters of the registers and of the tensor memory, nothing spilled) is not discarded;
- and over the draws for three targets with channels last the bound of the shared memory is between once and twice what
  is taken, in the median.
"""

import itertools
import random
import statistics
from dataclasses import replace

import pytest
import torch
from support.sampling import sample

triton = pytest.importorskip("triton")

if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 6):
    pytest.skip("the model is that of newer compilers", allow_module_level=True)

from sdn_triton.aot.compile import TARGETS, compile_launch
from sdn_triton.aot.examples import example_launches
from sdn_triton.tuning.configs import ARITHMETICS, PAIRED_CHANNELS, KernelConfig, Target
from sdn_triton.tuning.defaults import PAIRED_KERNELS, all_defaults
from sdn_triton.tuning.kernels import KERNELS, PRODUCT_KERNELS
from sdn_triton.tuning.resources import LARGEST_REGISTERS, TENSOR_COLUMNS, estimate, why_not
from sdn_triton.tuning.spaces import axes

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
BASE = KernelConfig(32, 16, 32, 64, num_warps=4, num_stages=1)
WITH_PRODUCTS = PRODUCT_KERNELS


def arithmetics(kernel: str, target: Target) -> tuple[str, ...]:
    return tuple(name for name in ARITHMETICS if not (target.kind == "hip" and name == "tf32"))


def draw(generator: random.Random, kernel: str, arithmetic: str) -> KernelConfig:
    """A configuration out of the space of a kernel, whether it can run or not."""
    values = {name: generator.choice(values) for name, values in axes(kernel, arithmetic).items()}
    values["pairs"] = False  # see test_pairs_are_bounded_too
    return KernelConfig(**{**vars(BASE), **values, "block_w": BASE.block_w})


def taken(kernel: str, arithmetic: str, config: KernelConfig, target: Target, layout: str) -> tuple[int, int, int, int]:
    """Shared bytes, registers, spilled bytes and columns of tensor memory, each of the launch that takes most."""
    found = []
    for launch in example_launches(kernel, arithmetic, config, memory_format=LAYOUTS[layout]):
        compiled = compile_launch(launch, target)
        resources = compiled.resources()
        found.append((resources.shared_bytes, resources.registers, resources.local_bytes, compiled.tensor_columns))
    shared, registers, local, columns = map(max, zip(*found))
    return shared, registers, local, columns


def drawn(kernel: str, name: str) -> tuple[str, KernelConfig, str]:
    """Arithmetic, configuration and memory layout for one kernel on one target, the same every time."""
    generator = random.Random(f"{kernel} {name}")
    layout = generator.choice(("channels_last", "channels_last", "contiguous"))
    if kernel == "edge_products":
        layout = "channels_last"  # elsewhere taps have products
    arithmetic = generator.choice(arithmetics(kernel, TARGETS[name]))
    return arithmetic, draw(generator, kernel, arithmetic), layout


def is_hopper(name: str) -> bool:
    return name == "sm_90"


@pytest.mark.parametrize("name", sample(TARGETS, is_hopper))
@pytest.mark.parametrize("kernel", WITH_PRODUCTS)
@pytest.mark.sampled(3)
def test_the_model_bounds_what_the_compiler_takes(kernel, name):
    target = TARGETS[name]
    arithmetic, config, layout = drawn(kernel, name)
    shared, registers, local, columns = taken(kernel, arithmetic, config, target, layout)
    obstacle = why_not(kernel, arithmetic, config, target)
    case = f"{arithmetic} {config}: {shared} bytes, {registers} registers, {local} spilled, {columns} columns"
    if shared > target.shared_bytes or columns > TENSOR_COLUMNS:
        assert obstacle is not None, case
    if layout != "channels_last":
        return
    largest = LARGEST_REGISTERS * (2 if target.kind == "hip" else 1)
    fits = shared <= target.shared_bytes / 2 and registers <= 0.75 * largest and columns <= 0.75 * TENSOR_COLUMNS
    if fits and local == 0:
        assert obstacle is None, f"{case}, yet {obstacle}"


@pytest.mark.parametrize("name", sample(["sm_90", "sm_100"], is_hopper))
@pytest.mark.parametrize("kernel", PAIRED_KERNELS)
@pytest.mark.sampled(2)
def test_pairs_are_bounded_too(kernel, name):
    """The same of a draw whose channels are read packed; its shared memory is bounded in any case."""
    target = TARGETS[name]
    config = draw(random.Random(f"{kernel} {name}"), kernel, "bf16")
    config = replace(config, block_c=PAIRED_CHANNELS, pairs=True)
    shared, registers, local, columns = taken(kernel, "bf16", config, target, "channels_last")
    obstacle = why_not(kernel, "bf16", config, target)
    assert shared <= estimate(kernel, "bf16", config, target).shared_bytes
    if columns > TENSOR_COLUMNS:
        assert obstacle is not None
    if local == 0 and registers <= 0.75 * LARGEST_REGISTERS and columns <= 0.75 * TENSOR_COLUMNS:
        assert obstacle is None


@pytest.mark.long
def test_the_bound_is_not_far_off():
    """The draws of test_the_model_bounds_what_the_compiler_takes again: Triton's cache has them, or will have."""
    ratios = []
    for name, kernel in itertools.product(("sm_80", "sm_90", "sm_100"), WITH_PRODUCTS):
        arithmetic, config, layout = drawn(kernel, name)
        if layout != "channels_last":
            continue
        shared, *_ = taken(kernel, arithmetic, config, TARGETS[name], layout)
        if shared > TARGETS[name].shared_bytes / 8:
            ratios.append(estimate(kernel, arithmetic, config, TARGETS[name]).shared_bytes / shared)
    assert len(ratios) >= 4
    assert 1 <= statistics.median(ratios) <= 2, ratios


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_no_default_is_discarded(kernel, name):
    """The heuristic's configurations, which compile without a spill (see test_compile.py)."""
    target = TARGETS[name]
    for arithmetic in arithmetics(kernel, target):
        for config in all_defaults(kernel, arithmetic, target):
            assert why_not(kernel, arithmetic, config, target) is None, config


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel not in WITH_PRODUCTS])
def test_kernels_without_products_fit_everywhere(kernel):
    """They take next to no shared memory: no draw is discarded, and none takes more than the smallest target has."""
    generator = random.Random(kernel)
    for target in (TARGETS["sm_86"], TARGETS["gfx942"]):
        config = draw(generator, kernel, "bf16")
        shared, *_ = taken(kernel, "bf16", config, target, "channels_last")
        assert shared <= estimate(kernel, "bf16", config, target).shared_bytes <= target.shared_bytes
        assert why_not(kernel, "bf16", config, target) is None
