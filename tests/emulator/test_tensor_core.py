"""tcgen05: products of all layouts are right in every mode, and every fault of a small kernel is found."""

import numpy as np
import pytest

from emulator.blackwell_example import Example, Layout
from emulator.machine import Mode

MODES = {
    f"{order}-{products}": Mode(order=order, products=products, seed=seed)
    for order, seed in (("lockstep", 0), ("random", 1), ("random", 2))
    for products in ("early", "late")
}
K_MAJOR = [Layout(128), Layout(64, stride=512), Layout(32, stride=256), Layout(16, leading=4096, stride=128)]
ACROSS = [
    Layout(128, is_across=True),
    Layout(64, is_across=True, leading=1024, stride=512),
    Layout(32, is_across=True, leading=512, stride=256),
    Layout(16, is_across=True, leading=4096, stride=128),
]


def assert_right(example: Example, mode: Mode) -> None:
    result, exact, found = example.run(example.text(), mode)
    found.raise_if_any()
    np.testing.assert_allclose(result, exact, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("rows", [64, 128])
def test_modes(rows: int, mode: Mode) -> None:
    assert_right(Example(rows), mode)


@pytest.mark.parametrize("kind", ["f16", "bf16", "tf32"])
@pytest.mark.parametrize("layout", K_MAJOR, ids=lambda layout: f"swizzle{layout.swizzle}")
def test_layouts(layout: Layout, kind: str) -> None:
    assert_right(Example(64, kind, left=layout, right=layout), Mode())


@pytest.mark.parametrize("layout", ACROSS, ids=lambda layout: f"swizzle{layout.swizzle}")
def test_transposed_layouts(layout: Layout) -> None:
    assert_right(Example(128, "f16", left=layout, right=layout), Mode())


def test_swizzle_is_what_the_manual_draws() -> None:
    """The second row of 128 bytes begins with its second piece of 16."""
    assert Layout(128).place(1, 0, 2) == 128 + 16
    assert Layout(64, stride=512).place(2, 0, 2) == 2 * 64 + 16
    assert Layout(32, stride=256).place(4, 8, 2) == 4 * 32
