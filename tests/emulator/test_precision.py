"""The precision contract: at most twice the eager path's error, for every output and gradient, over ten seeds."""

import pytest
import torch

pytest.importorskip("triton")

from support.precision import SUBJECTS, limits, measure, round_to_tf32

from emulator import Mode, emulated
from sdn_triton.launch.run import as_factor


def test_errors_are_at_most_twice_those_of_the_eager_path() -> None:
    """Of one call; ``make precision`` measures them all."""
    with emulated("sm_90", Mode(checks=False), is_strict=False) as emulation:  # other tests look for faults
        found = measure(SUBJECTS["C32-O40-6x9"], "bf16")
    assert {"output", "d input", "d guidance", "d weight", "d bias"} == set(found)
    for name, errors in found.items():
        rms, maximum = limits(name, "bf16", emulation.kernels)
        assert errors.rms_ratio <= rms, f"{name}: root of the mean square"
        assert errors.maximum_ratio <= maximum, f"{name}: maximum"


def test_weights_are_rounded_to_tf32() -> None:
    """To nearest but at the very end of a binade; what is no number stays none, and half types stay what they are."""
    weight = torch.randn(10_000) * torch.logspace(-8, 8, 10_000)
    weight[0] = float("nan")
    rounded = as_factor(weight, "tf32")
    assert rounded[0].isnan()
    weight, rounded = weight[1:], rounded[1:]
    nearest = (round_to_tf32(weight) - weight).abs()
    mantissa = torch.frexp(weight.abs()).mantissa
    error = (rounded - weight).abs()
    assert (error <= torch.where(mantissa < 1 - 2**-12, nearest, 2**-10 * weight.abs())).all()
    assert (rounded[mantissa < 1 - 2**-12].view(torch.int32) % 2**13 == 0).all()
    assert as_factor(weight, "ieee") is weight
    assert as_factor(weight.half(), "fp16").dtype == torch.float16
