"""Every kernel with every default configuration compiles for every target, fits, and spills nothing. No GPU needed."""

import re
from itertools import product
from typing import Any
from unittest import mock

import pytest
import torch
from support.sampling import sample

triton = pytest.importorskip("triton")

if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 6):
    pytest.skip("older compilers are not what the defaults are chosen for", allow_module_level=True)

from sdn_triton.aot.compile import TARGETS, compile_launch
from sdn_triton.aot.examples import DTYPES, example_launches
from sdn_triton.launch import block, moments, resize
from sdn_triton.launch.image_copy import copy_image, in_channels_last
from sdn_triton.launch.run import recorded_launches
from sdn_triton.options import BlockArguments, BlockOptions, DifferenceArguments, DifferenceOptions
from sdn_triton.tuning.configs import ARITHMETICS, KernelConfig
from sdn_triton.tuning.defaults import PAIRED_KERNELS, Work, all_defaults, default_config, takes_pairs
from sdn_triton.tuning.kernels import KERNELS, PRODUCT_KERNELS
from sdn_triton.tuning.precision import convolutions_in
from sdn_triton.tuning.pretended import pretended

CASES = [
    (kernel, name, arithmetic)
    for kernel in KERNELS
    for name, target in TARGETS.items()
    for arithmetic in ARITHMETICS
    if all_defaults(kernel, arithmetic, target) and not (target.kind == "hip" and arithmetic == "tf32")
]

CHOSEN_WITH = "3.7."
SPILL = 0 if triton.__version__.startswith(CHOSEN_WITH) else 32
"""Bytes a thread: none with the compiler that the defaults were chosen with; others may miss a register or two."""


def uses_tensor_cores(kernel: str, arithmetic: str) -> bool:
    return arithmetic != "ieee" and kernel in PRODUCT_KERNELS


# Hopper has the most configurations, and fp16 compiles to what bf16 does, with another type.
@pytest.mark.parametrize(
    ("kernel", "name", "arithmetic"),
    sample(CASES, lambda kernel, name, arithmetic: name == "sm_90" and arithmetic != "fp16"),
)
@pytest.mark.sampled(20)
def test_defaults_fit(kernel: str, name: str, arithmetic: str) -> None:
    target = TARGETS[name]
    configs = all_defaults(kernel, arithmetic, target)
    assert configs
    for config in configs:
        launches = example_launches(kernel, arithmetic, config)
        assert launches, f"sdn_triton/aot/examples.py has no call that launches {kernel}"
        for launch in launches:
            compiled = compile_launch(launch, target)
            resources = compiled.resources()
            assert resources.shared_bytes <= target.shared_bytes, config
            assert resources.local_bytes <= SPILL, config
            if uses_tensor_cores(kernel, arithmetic):
                assert compiled.tensor_instructions() > 0, config
            if target.kind == "cuda" and arithmetic == "bf16" and SPILL == 0:
                assert not re.findall(r"\b(?:LDL|STL)\b", compiled.machine_code()), config


VARIANTS = {
    "zero_flux": {"options": DifferenceOptions((3, 3), padding=(1, 1), border="zero_flux")},
    "exponential-5x5-dilation2": {
        "options": DifferenceOptions((5, 5), padding=(4, 4), dilation=(2, 2), diffusivity="exponential")
    },
    "rational-stride2": {"options": DifferenceOptions((3, 3), (2, 2), (1, 1), diffusivity="rational")},
    "learned-contrast": {"contrast": torch.empty(256, device="meta", dtype=torch.float32)},
    "vector": {"options": DifferenceOptions((3, 3), padding=(1, 1), similarity="vector")},
    "groups4": {"options": DifferenceOptions((3, 3), padding=(1, 1), groups=4)},
    "contiguous": {"memory_format": torch.contiguous_format},
    "odd-channels": {"channels": 37, "outputs": 19},
    "beyond-32-bits": {"size": (4096, 4096)},
}
LAYOUTS = ("contiguous", "odd-channels", "beyond-32-bits")
EDGES = ("zero_flux", "exponential-5x5-dilation2", "learned-contrast", "beyond-32-bits")
"""Where products of edges are made."""
SPILL_OF_AN_OPTION = 32
"""Bytes a thread: a few registers, outside the innermost loop."""


OPTIONS = [
    (kernel, variant)
    for kernel in KERNELS
    for variant in VARIANTS
    if variant in LAYOUTS or kernel.startswith(("difference", "tap", "edge"))
    if kernel != "edge_products" or variant in EDGES
]
OPTION_TARGETS = ("sm_80", "sm_90", "gfx942")


def in_turn(case: tuple[str, str], name: str) -> bool:
    """Whether it is the target's turn to compile this option of this kernel for `make test`."""
    return OPTION_TARGETS[OPTIONS.index(case) % len(OPTION_TARGETS)] == name


@pytest.mark.parametrize(
    ("kernel", "variant", "name"),
    sample(
        [(*case, name) for case in OPTIONS for name in OPTION_TARGETS],
        lambda kernel, variant, name: in_turn((kernel, variant), name),
    ),
)
@pytest.mark.sampled(18)
def test_options_fit(kernel: str, variant: str, name: str) -> None:
    """Every option compiles and fits, and spills next to nothing."""
    target = TARGETS[name]
    arguments: dict[str, Any] = VARIANTS[variant]
    sizes = arguments.get("channels", 256), arguments.get("outputs", 256)
    config = default_config(kernel, Work("bf16", 2, 64, 64, *sizes, taps=9), target)
    launches = example_launches(kernel, "bf16", config, **arguments)
    assert launches
    for launch in launches:
        resources = compile_launch(launch, target).resources()
        assert resources.shared_bytes <= target.shared_bytes
        assert resources.local_bytes <= SPILL_OF_AN_OPTION


def hopper_in_bf16(name: str, arithmetic: str) -> bool:
    return name == "sm_90" and arithmetic == "bf16"


@pytest.mark.parametrize(
    ("name", "arithmetic"), sample(product(["sm_80", "sm_90", "sm_100"], ["fp16", "bf16"]), hopper_in_bf16)
)
@pytest.mark.parametrize(
    "variant", ["zero_flux", "exponential-5x5-dilation2", "rational-stride2", "learned-contrast", "contiguous"]
)
@pytest.mark.parametrize("kernel", [*PAIRED_KERNELS, "tap_products", "edge_products"])
@pytest.mark.sampled(6)
def test_options_of_pairs_fit(kernel: str, variant: str, name: str, arithmetic: str) -> None:
    """So do those of the kernels that take channels in pairs, in both half types."""
    target, arguments = TARGETS[name], VARIANTS[variant]
    if variant == "learned-contrast" and kernel.endswith("data_gradient"):
        pytest.skip("the gradient of a contrast has no paired kernel")
    if kernel == "edge_products" and variant not in EDGES:
        pytest.skip("taps have products there")
    if not kernel.endswith("products") and not takes_pairs(kernel, arithmetic, target):
        pytest.skip("the unpaired kernel is the faster one")
    config = default_config(kernel, Work(arithmetic, 2, 64, 64, 256, 256, taps=9, can_pair=True), target)
    assert config.pairs or kernel.endswith("products")
    launches = example_launches(kernel, arithmetic, config, **arguments)
    assert launches
    for launch in launches:
        resources = compile_launch(launch, target).resources()
        assert resources.shared_bytes <= target.shared_bytes
        assert resources.local_bytes <= SPILL_OF_AN_OPTION


def image(channels: int, rows: int, dtype: torch.dtype) -> torch.Tensor:
    made = torch.empty((2, channels, rows, rows), device="meta", dtype=dtype)
    return made.to(memory_format=torch.channels_last)


def vector(length: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(length, device="meta", dtype=dtype)


FUSED = ("forward with moments", "depthwise with moments", "block with coarse guidance")


@pytest.mark.parametrize(
    ("name", "arithmetic"), sample(product(["sm_80", "sm_90", "sm_100"], ARITHMETICS), hopper_in_bf16)
)
@pytest.mark.parametrize("what", FUSED)
def test_what_a_fused_block_launches_fits(what: str, name: str, arithmetic: str) -> None:
    """The forwards that write moments, with what merges them, and the block that resizes its guidance."""
    target, dtype = TARGETS[name], DTYPES[arithmetic]
    kernel = "block_forward" if what.startswith("block") else what.partition(" ")[0].replace("forward", "difference")
    kernel = kernel if kernel.endswith("forward") else f"{kernel}_forward"
    options = DifferenceOptions((3, 3), padding=(1, 1), groups=256 if kernel == "depthwise_forward" else 1)
    for config in all_defaults(kernel, arithmetic, target):
        if config.pairs and kernel == "block_forward":
            continue  # its guidance is resized before
        responses = min(256, config.block_o) if kernel == "block_forward" else 256
        weight = torch.empty((responses, 256 // options.groups, 3, 3), device="meta", dtype=dtype)
        with convolutions_in("tf32" if arithmetic == "tf32" else "ieee"), recorded_launches() as launches:
            if kernel == "block_forward":
                norm = [vector(responses) for _ in range(4)]
                fusion_weight = torch.empty((256, 256 + responses, 1, 1), device="meta", dtype=dtype)
                images = image(256, 64, dtype), image(256, 32, dtype)
                arguments = BlockArguments(*images, weight, None, 1.0, *norm, fusion_weight, None)
                block.forward(arguments, BlockOptions(options, 1e-5), {kernel: config})
            else:
                layer = DifferenceArguments(image(256, 64, dtype), image(256, 64, dtype), weight, None, 1.0)
                moments.forward(layer, options, {kernel: config})
        assert launches
        for launch in launches:
            resources = compile_launch(launch, target).resources()
            assert resources.shared_bytes <= target.shared_bytes
            assert resources.local_bytes <= SPILL_OF_AN_OPTION, (launch.name, config)


@pytest.mark.parametrize(("name", "arithmetic"), sample(product(TARGETS, ["ieee", "bf16"]), hopper_in_bf16))
def test_gradients_of_moments_and_resizing_fit(name: str, arithmetic: str) -> None:
    target, dtype = TARGETS[name], DTYPES[arithmetic]
    y = image(256, 64, dtype)
    with mock.patch("sdn_triton.launch.moments.target_of", return_value=target), recorded_launches() as launches:
        moments.gradient(y, y, *(vector(256) for _ in range(3)))
    with mock.patch("sdn_triton.launch.resize.target_of", return_value=target), recorded_launches() as others:
        resize.gradient(y, image(256, 32, dtype))
    for launch in (*launches, *others):
        resources = compile_launch(launch, target).resources()
        assert resources.local_bytes == 0
        assert resources.shared_bytes <= target.shared_bytes


@pytest.mark.parametrize("name", ["sm_90", "sm_100"])
def test_copies_of_images_fit(name: str) -> None:
    """On either side 16 bytes at a time, whichever axis lies together, but for rows that begin at odd places."""
    target = TARGETS[name]
    for size, is_aligned in (((64, 64), True), ((17, 23), False)):
        contiguous = torch.empty((2, 40, *size), device="meta", dtype=torch.bfloat16)
        with pretended(target), recorded_launches() as launches:
            copy = in_channels_last(contiguous, 64)
            copy_image(contiguous, copy)
        assert len(launches) == 2
        for launch in launches:
            compiled = compile_launch(launch, target)
            resources = compiled.resources()
            assert resources.local_bytes == 0
            assert resources.shared_bytes <= target.shared_bytes
            widths = set(re.findall(r"(?:ld|st)\.global(\.\S+)", compiled.assembly["ptx"]))
            assert widths == ({".v4.b32"} if is_aligned else {".v4.b32", ".b16"})


def test_the_report_sees_spills_and_shared_memory() -> None:
    config = KernelConfig(128, 16, 64, 256, 4, 3)
    (launch,) = example_launches("difference_forward", "bf16", config)
    compiled = compile_launch(launch, TARGETS["sm_90"])
    assert compiled.resources().local_bytes > 0
    assert re.search(r"\b(?:LDL|STL)\b", compiled.machine_code())
    assert compiled.shared_bytes > TARGETS["sm_86"].shared_bytes


def test_launches_differ_by_magnitude_only() -> None:
    """Two sizes of the same kind share one compilation: nothing in a kernel is specialised on H x W."""
    config = all_defaults("difference_forward", "bf16", TARGETS["sm_90"])[-1]
    codes = {
        compile_launch(example_launches("difference_forward", "bf16", config, size=size)[0], TARGETS["sm_90"]).assembly[
            "cubin"
        ]
        for size in [(48, 80), (33, 160), (64, 64)]
    }
    assert len(codes) == 1
