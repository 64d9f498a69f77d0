"""Every kind of fault is found where it is, and only there: pairs of kernels that differ in one line."""

from dataclasses import dataclass

import pytest
import torch

from emulator import findings
from emulator.findings import KernelFaultError
from emulator.handwritten import execute
from emulator.machine import Mode

ORDERS = [Mode(), Mode("random"), Mode("random", seed=1)]


@dataclass(frozen=True)
class Pair:
    """A kernel with a fault in place of ``HERE``, and what mends it."""

    kind: str
    body: str
    faulty: str
    sound: str
    is_fatal: bool = False
    programs: int = 1
    threads: int = 64


FILL = "st.shared.b32 [%r3], %r0;"
OTHER_WARP = "xor.b32 %r5, %r3, 128;"
WORD = "mad.wide.u32 %rd9, %r0, 4, %rd0;"
COPY = f"{WORD}\n cp.async.ca.shared.global [%r3], [%rd9], 4;\n cp.async.commit_group;\n"
READ_OTHER = f"{OTHER_WARP}\n ld.shared.b32 %r6, [%r5];\n"

PAIRS = {
    "read-without-barrier": Pair(findings.SHARED_RACE, f"{FILL}\n HERE\n {READ_OTHER}", "", "bar.sync 0;"),
    "write-after-read": Pair(
        findings.SHARED_RACE, f"{FILL}\n bar.sync 0;\n {READ_OTHER} HERE\n {FILL}", "", "bar.sync 0;"
    ),
    "write-after-write": Pair(
        findings.SHARED_RACE, f"{FILL}\n HERE\n {OTHER_WARP}\n st.shared.b32 [%r5], %r0;", "", "bar.sync 0;"
    ),
    "barrier-of-one-warp": Pair(
        findings.SHARED_RACE, f"{FILL}\n HERE\n {READ_OTHER}", "bar.warp.sync -1;", "barrier.sync.aligned 1, 64;"
    ),
    "read-of-nothing": Pair(findings.UNWRITTEN, "HERE\n bar.sync 0;\n ld.shared.b32 %r6, [%r3];", "", FILL),
    "half-written": Pair(
        findings.UNWRITTEN,
        "cvt.u16.u32 %rs1, %r0;\n HERE\n ld.shared.b32 %r6, [%r3];",
        "st.shared.b16 [%r3], %rs1;",
        FILL,
    ),
    "shared-out-of-bounds": Pair(
        findings.OUT_OF_BOUNDS, "HERE", "st.shared.b32 [%r3+1024], %r0;", "st.shared.b32 [%r3+768], %r0;", is_fatal=True
    ),
    "global-out-of-bounds": Pair(
        findings.OUT_OF_BOUNDS,
        f"{WORD}\n setp.lt.u32 %p1, %r0, 63;\n HERE ld.global.b32 %r5, [%rd9+4];",
        "",
        "@%p1",
        is_fatal=True,
    ),
    "before-the-tensor": Pair(
        findings.OUT_OF_BOUNDS, f"{WORD}\n HERE st.global.b32 [%rd9+-4], %r0;", "", "@%p8 //", is_fatal=True
    ),
    "misaligned": Pair(
        findings.MISALIGNED,
        "HERE",
        "ld.global.v2.b32 {%r5, %r6}, [%rd0+4];",
        "ld.global.v2.b32 {%r5, %r6}, [%rd0+8];",
        is_fatal=True,
    ),
    "shared-misaligned": Pair(
        findings.MISALIGNED, "HERE", "st.shared.b32 [%r3+2], %r0;", "st.shared.b32 [%r3+4], %r0;", is_fatal=True
    ),
    "two-programs-write": Pair(
        findings.GLOBAL_RACE,
        "HERE\n mad.wide.u32 %rd9, %r5, 4, %rd0;\n st.global.b32 [%rd9], %r0;",
        "mov.u32 %r5, %r0;",
        "mad.lo.u32 %r5, %r4, 32, %r0;",
        programs=2,
        threads=32,
    ),
    "reads-what-an-earlier-program-writes": Pair(
        findings.GLOBAL_RACE,
        "setp.eq.u32 %p1, %r4, 0;\n @%p1 st.global.b32 [%rd0], 1;\n @!%p1 ld.global.b32 %r5, HERE;",
        "[%rd0]",
        "[%rd0+4]",
        programs=2,
        threads=32,
    ),
    "reads-what-a-later-program-writes": Pair(
        findings.GLOBAL_RACE,
        "setp.eq.u32 %p1, %r4, 1;\n @%p1 st.global.b32 [%rd0], 1;\n @!%p1 ld.global.b32 %r5, HERE;",
        "[%rd0]",
        "[%rd0+4]",
        programs=2,
        threads=32,
    ),
    "two-warps-in-global-memory": Pair(
        findings.GLOBAL_RACE,
        f"{WORD}\n st.global.b32 [%rd9], %r0;\n HERE\n xor.b32 %r5, %r0, 32;\n"
        "mad.wide.u32 %rd8, %r5, 4, %rd0;\n ld.global.b32 %r6, [%rd8];",
        "",
        "bar.sync 0;",
    ),
    "disagreement": Pair(
        findings.AMBIGUOUS, "HERE\n st.shared.b32 [%r2], %r5;", "mov.u32 %r5, %r0;", "mov.u32 %r5, 7;", threads=32
    ),
    "disagreement-in-global-memory": Pair(
        findings.AMBIGUOUS, "HERE\n st.global.b32 [%rd0], %r5;", "mov.u32 %r5, %r0;", "mov.u32 %r5, 7;", threads=32
    ),
    "copy-not-waited-for": Pair(
        findings.SHARED_RACE,
        f"{COPY} HERE\n ld.shared.b32 %r6, [%r3];\n cp.async.wait_group 0;",
        "",
        "cp.async.wait_group 0;",
    ),
    "one-copy-too-few": Pair(
        findings.SHARED_RACE,
        f"{COPY} {COPY.replace('[%r3]', '[%r3+256]')} HERE\n ld.shared.b32 %r6, [%r3+256];\n cp.async.wait_all;",
        "cp.async.wait_group 1;",
        "cp.async.wait_group 0;",
    ),
    "copy-without-barrier": Pair(
        findings.SHARED_RACE, f"{COPY} cp.async.wait_group 0;\n HERE\n {READ_OTHER}", "", "bar.sync 0;"
    ),
    "copy-over-what-is-read": Pair(
        findings.SHARED_RACE, f"{FILL}\n bar.sync 0;\n {READ_OTHER} HERE\n {COPY} cp.async.wait_all;", "", "bar.sync 0;"
    ),
    "copy-at-exit": Pair(findings.IN_FLIGHT_AT_EXIT, f"{COPY} HERE", "", "cp.async.wait_group 0;"),
    "copy-not-committed-at-exit": Pair(
        findings.IN_FLIGHT_AT_EXIT,
        f"{WORD}\n cp.async.ca.shared.global [%r3], [%rd9], 4;\n HERE",
        "",
        "cp.async.wait_all;",
    ),
    "half-a-warp-shuffles": Pair(
        findings.DIVERGENCE,
        "and.b32 %r5, %r0, 16;\n setp.ne.u32 %p1, %r5, 0;\n HERE shfl.sync.bfly.b32 %r6, %r0, 1, 31, -1;",
        "@%p1",
        "",
        is_fatal=True,
    ),
    "half-a-warp-at-a-barrier": Pair(
        findings.DIVERGENCE,
        "and.b32 %r5, %r0, HERE;\n setp.ne.u32 %p1, %r5, 0;\n @%p1 bra $there;\n bar.sync 0;\n bra $end;\n"
        "$there:\n bar.sync 0;\n $end:",
        "16",
        "0",
        is_fatal=True,
    ),
    "one-warp-does-not-come": Pair(
        findings.DEADLOCK,
        "setp.lt.u32 %p1, %r0, HERE;\n @%p1 bra $end;\n bar.sync 0;\n $end:",
        "32",
        "0",
        is_fatal=True,
    ),
    "trap": Pair(findings.TRAP, "setp.eq.u32 %p1, %r0, HERE;\n @%p1 trap;", "5", "64", is_fatal=True),
}


def run(pair: Pair, text: str, mode: Mode):
    tensor = torch.zeros(64, dtype=torch.int32)
    return execute(pair.body.replace("HERE", text), tensor, threads=pair.threads, programs=pair.programs, mode=mode)


@pytest.mark.parametrize("mode", ORDERS, ids=["lockstep", "random", "random1"])
@pytest.mark.parametrize("name", PAIRS)
def test_faults_are_found(name: str, mode: Mode) -> None:
    pair = PAIRS[name]
    if pair.is_fatal:
        with pytest.raises(KernelFaultError, match=pair.kind):
            run(pair, pair.faulty, mode)
    else:
        kinds = set(run(pair, pair.faulty, mode).kinds)
        assert pair.kind in kinds
        assert kinds <= {pair.kind, findings.UNWRITTEN}  # whoever comes too early may find nothing
    assert not run(pair, pair.sound, mode).kinds


@pytest.mark.parametrize("mode", ORDERS, ids=["lockstep", "random", "random1"])
def test_copies_of_a_value_may_be_stored_in_any_order(mode: Mode) -> None:
    body = "and.b32 %r5, %r0, 31;\n mad.lo.u32 %r6, %r5, 4, %r2;\n mad.wide.u32 %rd9, %r5, 4, %rd0;"
    stores = "st.shared.b32 [%r6], %r5;\n st.global.b32 [%rd9], %r5;"
    assert not execute(f"{body}\n {stores}", torch.zeros(32, dtype=torch.int32), mode=mode).kinds
    twice = execute(f"{body}\n {stores}", torch.zeros(32, dtype=torch.int32), mode=mode, programs=2)
    assert set(twice.kinds) == {findings.GLOBAL_RACE}


def test_a_finding_says_where() -> None:
    text = str(execute(f"{FILL}\n {READ_OTHER}"))
    assert "race in shared memory: reads what warp 1 wrote, with no barrier in between" in text
    assert "kernel, program (0, 0, 0), warp 0" in text
    assert "ld.shared.b32 %r6, [%r5]" in text
