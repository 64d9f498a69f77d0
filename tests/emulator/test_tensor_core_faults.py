"""Every fault of a kernel of tcgen05 is found where it is made, and what is allowed is not called a fault."""

import numpy as np
import pytest

from emulator import findings
from emulator.blackwell_example import Example
from emulator.findings import KernelFaultError
from emulator.handwritten import execute
from emulator.machine import Mode

LATE = Mode(products="late")


def waiting(space: str, parity: str) -> str:
    """The loop that Triton makes."""
    return f"""{{
    .reg .pred complete;
    waitLoop:
    mbarrier.try_wait.parity.{space}.b64 complete, [%r3], {parity};
    @!complete bra.uni waitLoop;
}}"""


WAIT, SECOND_WAIT = waiting("shared::cta", "%r16"), waiting("shared", "%r19")
ALLOC = "@%p1 tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r4], 32;"
RELINQUISH = "@%p1 tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;"
DEALLOC = "@%p1 tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r5, 32;"
INIT = "@%p3 mbarrier.init.shared::cta.b64 [%r3], 1;"
INVALIDATE = "@%p3 mbarrier.inval.shared::cta.b64 [%r3];"
PRODUCT = "@%p3 tcgen05.mma.cta_group::1.kind::f16 [%r5 + 0], %rd6, %rd7, %r15, %p5;"
SECOND_PRODUCT = "@%p3 tcgen05.mma.cta_group::1.kind::f16 [%r5 + 0], [%r5 + 16], %rd7, %r29, %p6;"
COMMIT = "@%p3 tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%r3];"
SECOND_COMMIT = "@%p3 tcgen05.commit.cta_group::1.mbarrier::arrive::one.b64 [%r3];"
STORE_WAIT, LOAD_WAIT = "tcgen05.wait::st.sync.aligned;", "tcgen05.wait::ld.sync.aligned;"
BARRIER = "bar.sync 0;"
OVERWRITE = "@%p3 st.shared.b32 [%r2], %r0;"
STORE_SUMS = "tcgen05.st.sync.aligned.32x32b.x2.b32 [%r18 + 0], {%r20, %r21};"
READ_SUMS = SECOND_PRODUCT.replace("[%r5 + 16]", "[%r5 + 0]")

Edits = list[tuple[str, str]]
"""Pieces of the text, and what stands there instead."""
FAULTS: dict[str, tuple[str, Edits]] = {
    "no-proxy-fence": (findings.NO_PROXY_FENCE, [("fence.proxy.async.shared::cta;", "")]),
    "no-barrier-before-the-product": (findings.SHARED_RACE, [(BARRIER, "")]),
    "operand-overwritten": (findings.SHARED_RACE, [(COMMIT, COMMIT + OVERWRITE)]),
    "mbarrier-overwritten": (findings.SHARED_RACE, [(BARRIER, BARRIER + "@%p3 st.shared.b32 [%r3], %r0;")]),
    "mbarrier-read": (findings.UNWRITTEN, [(BARRIER, BARRIER + "ld.shared.b32 %r50, [%r3];")]),
    "sums-nobody-wrote": (findings.UNWRITTEN, [("mov.pred %p5, 0;", "mov.pred %p5, -1;")]),
    "operand-nobody-wrote": (findings.UNWRITTEN, [(SECOND_PRODUCT, SECOND_PRODUCT.replace("+ 16", "+ 20"))]),
    "product-not-waited-for": (findings.TENSOR_RACE, [(SECOND_WAIT, "")]),
    "asked-once": (findings.TENSOR_RACE, [(SECOND_WAIT, SECOND_WAIT.replace("@!complete bra.uni waitLoop;", ""))]),
    "wrong-parity": (findings.TENSOR_RACE, [("mov.b32 %r19, 1;", "mov.b32 %r19, 0;")]),
    "never-comes": (findings.DEADLOCK, [(COMMIT, "")]),
    "not-committed": (findings.DEADLOCK, [(SECOND_COMMIT, "")]),
    "committed-twice": (findings.MBARRIER, [(COMMIT, COMMIT + COMMIT)]),
    "phase-used-twice": (findings.MBARRIER, [(WAIT, "")]),
    "no-mbarrier": (findings.MBARRIER, [(INIT, "")]),
    "mbarrier-made-twice": (findings.MBARRIER, [(INIT, INIT + INIT)]),
    "mbarrier-made-late": (findings.MBARRIER, [(INIT, ""), (BARRIER, BARRIER + INIT)]),
    "mbarrier-gone-early": (findings.MBARRIER, [(SECOND_COMMIT, SECOND_COMMIT + INVALIDATE)]),
    "in-flight-at-exit": (findings.IN_FLIGHT_AT_EXIT, [(INVALIDATE, PRODUCT + INVALIDATE)]),
    "store-not-waited-for": (findings.TENSOR_RACE, [(STORE_WAIT, "")]),
    "store-without-order": (findings.TENSOR_RACE, [("bar.sync 1;", "")]),
    "sums-overwritten": (findings.TENSOR_RACE, [(SECOND_COMMIT, SECOND_COMMIT + STORE_SUMS + STORE_WAIT)]),
    "sums-multiplied-early": (findings.TENSOR_RACE, [(WAIT, ""), (SECOND_PRODUCT, READ_SUMS)]),
    "load-not-waited-for": (findings.TENSOR_RACE, [(LOAD_WAIT, "")]),
    "overwritten-while-loaded": (findings.TENSOR_RACE, [(LOAD_WAIT, STORE_SUMS + STORE_WAIT + LOAD_WAIT)]),
    "given-back-without-order": (findings.TENSOR_RACE, [("bar.sync 2;", "")]),
    "lanes-of-another-warp": (findings.OUT_OF_BOUNDS, [("shl.b32 %r18, %r6, 21;", "mov.b32 %r18, 0;")]),
    "lanes-of-the-operand": (findings.OUT_OF_BOUNDS, [("[%r5 + 16], %rd7", "[%r5 + 1048592], %rd7")]),
    "columns-beyond": (findings.OUT_OF_BOUNDS, [("[%r5 + 16], %rd7", "[%r5 + 28], %rd7")]),
    "columns-of-nobody": (findings.OUT_OF_BOUNDS, [("ld.shared.b32 %r5, [%r4];", "mov.b32 %r5, 64;")]),
    "not-given-back": (findings.NOT_GIVEN_BACK, [(DEALLOC, "")]),
    "too-much-given-back": (findings.OUT_OF_BOUNDS, [(DEALLOC, DEALLOC.replace("32;", "64;"))]),
    "no-power-of-two": (findings.OUT_OF_BOUNDS, [(ALLOC, ALLOC.replace("32;", "48;"))]),
    "allocated-too-late": (findings.DEADLOCK, [(RELINQUISH, RELINQUISH + ALLOC)]),
}
ALLOWED: dict[str, Edits] = {
    "operand-overwritten-after-the-wait": [(WAIT, WAIT + OVERWRITE)],
    "sums-stored-after-the-wait": [(LOAD_WAIT, LOAD_WAIT + STORE_SUMS + STORE_WAIT)],
    "two-products-one-commit": [(COMMIT, ""), (WAIT, ""), ("mov.b32 %r19, 1;", "mov.b32 %r19, 0;")],
    "mbarrier-made-anew": [(WAIT, f"{WAIT}bar.sync 4;{INVALIDATE}{INIT}"), ("mov.b32 %r19, 1;", "mov.b32 %r19, 0;")],
    "asked-by-test_wait": [(WAIT, WAIT.replace("try_wait", "test_wait"))],
    "fences-between-threads": [
        (STORE_WAIT, STORE_WAIT + "tcgen05.fence::before_thread_sync;"),
        (SECOND_PRODUCT, "tcgen05.fence::after_thread_sync;" + SECOND_PRODUCT),
    ],
}
WRONG_RESULTS: dict[str, Edits] = {
    "does-not-add": [("mov.pred %p6, -1;", "mov.pred %p6, 0;")],
    "operand-16-bytes-further": [("mov.b64 %rd6, ", "add.s64 %rd6, 1, ")],
    "other-swizzle": [("mov.b64 %rd7, ", "xor.b64 %rd7, 4611686018427387904, ")],  # 64 becomes 32 bytes
    "other-type": [("mov.b32 %r15, ", "xor.b32 %r15, 1152, ")],  # bfloat16 becomes float16
    "sums-of-another-column": [("[%r18 + 0];", "[%r18 + 1];")],
}


def edited(edits: Edits, rows: int = 128) -> tuple[Example, str]:
    example = Example(rows)
    text = example.text()
    for piece, other in edits:
        assert text.count(piece) == 1, piece
        text = text.replace(piece, other)
    return example, text


def run(edits: Edits, rows: int = 128, mode: Mode = LATE) -> tuple[np.ndarray, np.ndarray, findings.Findings]:
    example, text = edited(edits, rows)
    return example.run(text, mode)


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name: str) -> None:
    kind, edits = FAULTS[name]
    try:
        kinds = run(edits, rows=64 if "lanes-of-the-operand" in name else 128)[2].kinds
    except KernelFaultError as fault:
        kinds = {str(fault).split(":")[0]}
    assert kind in kinds


@pytest.mark.parametrize("products", ["early", "late"])
@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_allowed(name: str, products: str) -> None:
    run(ALLOWED[name], mode=Mode(products=products))[2].raise_if_any()


@pytest.mark.parametrize("name", WRONG_RESULTS)
def test_wrong_results(name: str) -> None:
    result, exact, _ = run(WRONG_RESULTS[name])
    assert not np.allclose(result, exact, atol=1e-2)


def test_products_of_several_threads_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="several threads"):
        run([(PRODUCT, PRODUCT.replace("@%p3", "@%p1"))])


ARRIVE, AWAIT = "mbarrier.arrive.shared::cta.b64 _, [%r2];", waiting("shared::cta", "0").replace("%r3", "%r2")
ORDERED = f"""
    setp.eq.u32 %p1, %r0, 0;
    setp.lt.u32 %p2, %r0, 32;
    @%p1 mbarrier.init.shared::cta.b64 [%r2], 32;
    bar.sync 0;
    @!%p2 bra reader;
    st.shared.b32 [%r3+8], %r0;
    {ARRIVE}
    ret;
reader:
    {AWAIT}
    ld.shared.b32 %r5, [%r3+-120];
"""
"""The second warp reads what the first one has written, when all its threads have arrived."""


@pytest.mark.parametrize("order", ["lockstep", "random"])
def test_an_mbarrier_orders_warps(order: str) -> None:
    execute(ORDERED, mode=Mode(order)).raise_if_any()
    assert findings.SHARED_RACE in execute(ORDERED.replace(AWAIT, ""), mode=Mode(order)).kinds
