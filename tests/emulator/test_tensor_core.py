"""tcgen05: products of all layouts are right in every mode, and every fault of a small kernel is found."""

import numpy as np
import pytest
import torch

from emulator.blackwell_example import Example, Layout
from emulator.handwritten import execute
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


SIXTEEN_LANES = """
    shr.u32 %r6, %r0, 5;
    setp.eq.s32 %p1, %r6, 0;
    @%p1 tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r2], 32;
    bar.sync 0;
    ld.shared.b32 %r5, [%r2];
    shl.b32 %r18, %r6, 21;
    add.s32 %r18, %r18, %r5;
    mad.wide.u32 %rd2, %r0, 64, %rd0;
    mad.wide.u32 %rd3, %r0, 64, %rd1;
    ld.global.v4.b32 {%r20, %r21, %r22, %r23}, [%rd2];
    ld.global.v4.b32 {%r24, %r25, %r26, %r27}, [%rd2+16];
    ld.global.v4.b32 {%r30, %r31, %r32, %r33}, [%rd2+32];
    ld.global.v4.b32 {%r34, %r35, %r36, %r37}, [%rd2+48];
    tcgen05.st.sync.aligned.16x128b.x4.b32 [%r18 + 0], {%r20, %r21, %r22, %r23, %r24, %r25, %r26, %r27};
    tcgen05.st.sync.aligned.16x128b.x4.b32 [%r18 + 1048576], {%r30, %r31, %r32, %r33, %r34, %r35, %r36, %r37};
    tcgen05.wait::st.sync.aligned;
    LOAD
    tcgen05.wait::ld.sync.aligned;
    st.global.v4.b32 [%rd3], {%r40, %r41, %r42, %r43};
    st.global.v4.b32 [%rd3+16], {%r44, %r45, %r46, %r47};
    st.global.v4.b32 [%rd3+32], {%r50, %r51, %r52, %r53};
    st.global.v4.b32 [%rd3+48], {%r54, %r55, %r56, %r57};
    bar.sync 0;
    @%p1 tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;
    @%p1 tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r5, 32;
"""
LOADS = {
    "16x128b": "tcgen05.ld.sync.aligned.16x128b.x4.b32 {%r40, %r41, %r42, %r43, %r44, %r45, %r46, %r47}, [%r18 + 0];"
    "tcgen05.ld.sync.aligned.16x128b.x4.b32 {%r50, %r51, %r52, %r53, %r54, %r55, %r56, %r57}, [%r18 + 1048576];",
    "32x32b": "tcgen05.ld.sync.aligned.32x32b.x16.b32 {%r40, %r41, %r42, %r43, %r44, %r45, %r46, %r47, "
    "%r50, %r51, %r52, %r53, %r54, %r55, %r56, %r57}, [%r18 + 0];",
}


@pytest.mark.parametrize("layout", LOADS)
def test_four_threads_a_lane(layout: str) -> None:
    """Two stores of sixteen lanes, loaded in the same way, or a lane for each thread."""
    given = torch.arange(128 * 16, dtype=torch.int32).reshape(128, 16)
    result = torch.full_like(given, -1)
    found = execute(SIXTEEN_LANES.replace("LOAD", LOADS[layout]), given, result, threads=128, shared=16)
    found.raise_if_any()
    expected = given.clone()
    if layout == "32x32b":
        for thread, register in np.ndindex(128, 16):
            warp, within = divmod(thread, 32)
            half, k = divmod(register, 8)
            lane, column = within // 4 + 8 * (k % 2) + 16 * half, 4 * (k // 2) + within % 4
            expected[32 * warp + lane, column] = given[thread, register]
    assert torch.equal(result, expected)
