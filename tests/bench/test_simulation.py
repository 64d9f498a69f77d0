"""The simulation of hot loops: small loops whose clocks can be counted by hand, and how trips are found in code."""

import re

import pytest

pytest.importorskip("triton")

from sdn_triton.bench.machine_code.control_flow import ControlFlow, UnreadableCodeError
from sdn_triton.bench.machine_code.sass import read_sass
from sdn_triton.bench.machine_code.schedule import Control, decode
from sdn_triton.bench.machine_code.throughput import MULTIPROCESSORS
from sdn_triton.bench.machine_code.timeline import simulation
from sdn_triton.bench.machine_code.timeline.first_touch import first_touches, share
from sdn_triton.bench.machine_code.timeline.hopper import ALTERNATIVES, Hopper
from sdn_triton.bench.machine_code.timeline.overlap import least_clocks
from sdn_triton.bench.machine_code.timeline.simulation import SimulatedMultiprocessor
from sdn_triton.bench.machine_code.timeline.trip import Tiles, Unit, trips_of

FLOP = 4096.0
NONE = 7
# What a loop of one warp takes beside what is in it: the stall of the jump, and the jump.
JUMP = 5 + Hopper().branch_clocks
# A load or store of 512 bytes is addressed in the clock after it was issued, and then takes two clocks of saved
# bandwidth and two more of 128 bytes.
MOVED = 1 + 2


def listing(text):
    """nvdisasm -hex of instructions given one a line, each with its control bits behind: ``NOP ; stall=2 waits=1``."""
    lines = []
    number = 0
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.endswith(":"):
            lines.append(line)
            continue
        instruction, _, notes = line.partition(";")
        bits = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", notes)}
        control = bits.get("stall", 1) | bits.get("done", NONE) << 5 | bits.get("read", NONE) << 8
        control |= bits.get("waits", 0) << 11
        lines.append(f"        /*{16 * number:04x}*/    {instruction} ;    /* 0x0000000000000000 */")
        lines.append(f"                                            /* 0x{control << 41:016x} */")
        number += 1
    return "\n".join(lines)


def loop(text):
    """The code of a loop around the given instructions."""
    return listing(f".L_x_0:\n{text}\n@P0 BRA `(.L_x_0) ; stall=5\nEXIT ; stall=5")


def trips(text, warps=4, tiles=None):
    code = read_sass(loop(text), warps)
    flow = ControlFlow(code)
    way = list(flow.path(flow.loops[0]).in_order(lambda inner: 1))
    return trips_of(way, code, warps, tiles or Tiles())


def clocks(text, warps=4, blocks=1, tiles=None, **model):
    played = SimulatedMultiprocessor(trips(text, warps, tiles), warps, blocks, FLOP, Hopper(**model))
    return played.run(4, 32)


def test_control_bits():
    """Two instructions of a kernel as nvdisasm prints them, with what its own column of dependencies says."""
    # LDG.E.128 R12, ...: write barrier 2, read barrier 1, stall 4; HMUL2 that waits for barrier 2, stall 2.
    assert decode(0x000EA8000C1E1D00) == Control(stall=4, when_done=2, when_read=None, waits=0)
    assert decode(0x004FE40000000000) == Control(stall=2, when_done=None, when_read=None, waits=0b000100)
    assert all(i.control for i in read_sass(loop("NOP"), 4).instructions)


def test_code_without_control_bits_is_not_simulated():
    text = "\n".join(line for line in loop("NOP").splitlines() if not line.strip().startswith("/* 0x"))
    code = read_sass(text, 4)
    with pytest.raises(UnreadableCodeError, match="how the compiler scheduled"):
        trips_of(code.instructions, code, 4, Tiles())


def test_stall_counts_hold_a_warp():
    assert clocks("NOP ; stall=4\nNOP ; stall=1\nNOP ; stall=2", warps=1) == 4 + 1 + 2 + JUMP
    # Two warps of one scheduler hide each other's stalls; sixteen have more to issue than there are clocks.
    assert clocks("NOP ; stall=10", warps=8) == 10 + JUMP
    assert clocks("NOP\n" * 20, warps=16) == 4 * 21


def test_pipes_take_their_time():
    """Integer instructions go in every other clock, special functions in every eighth."""
    assert clocks("IADD3 R1, R1, R2, R3\n" * 20, warps=8) == 2 * 2 * 20
    assert clocks("MUFU.RSQ R1, R2\n" * 20, warps=8) == pytest.approx(2 * 20 * 8, rel=0.02)
    assert clocks("FADD R1, R1, R2\n" * 20, warps=8) == 2 * 21


def test_a_scoreboard_holds_a_warp_until_the_load_is_there():
    load = "LDG.E.128 R4, desc[UR4][R2.64] ; done=0\n{}FADD R1, R1, R4 ; waits=1"
    touched = Tiles(touches=[[False]] * 9)
    hit = clocks(load.format(""), warps=1, tiles=touched, address_clocks=1)
    assert hit == MOVED + Hopper().l1_latency + 1 + JUMP
    assert clocks(load.format(""), warps=1, tiles=touched, address_clocks=1, l1_latency=76) == hit + 50
    # Independent work in front of the wait costs nothing.
    assert clocks(load.format("NOP\n" * 20), warps=1, tiles=touched, address_clocks=1) == hit
    miss = clocks(load.format(""), warps=1, address_clocks=1)
    bytes_moved = int(512 / Hopper().l2_bytes + Hopper().l2_latency)
    assert miss == MOVED + bytes_moved + 1 + JUMP
    # By the share of loads that miss instead.
    half = clocks(load.format(""), warps=1, tiles=touched, address_clocks=1, l1_miss_share=0.5)
    assert half == (hit + miss) / 2


def test_the_data_path_of_the_first_cache():
    """Ten accesses of 512 bytes in each of eight warps take at least their bytes over 128 a clock."""
    text = "LDS.128 R4, [R2]\n" * 10
    assert clocks(text, warps=8) == pytest.approx(8 * 10 * 512 / 128, rel=0.02)
    assert clocks("LDS.32 R4, [R2]\n" * 10, warps=8) == pytest.approx(8 * 10 * Hopper().address_clocks, rel=0.02)


PRODUCT = "HGMMA.64x256x16.F32.BF16 R24, R4, gdesc[UR4], R24, gsb0\n"
WAIT = "WARPGROUP.DEPBAR.LE gsb0, 0x{}\n"
ROOTS = "MUFU.RSQ R1, R2\n" * 20
PRODUCT_CLOCKS = 2 * 64 * 256 * 16 / FLOP
ROOT_CLOCKS = 20 * 8


def test_a_wait_for_products():
    taken = PRODUCT_CLOCKS + Hopper().product_latency
    assert clocks(PRODUCT + WAIT.format(0)) == taken + 1 + JUMP
    # One product in flight over the back edge: the tensor cores never pause.
    assert clocks(PRODUCT + WAIT.format(1)) == PRODUCT_CLOCKS
    # Two warp groups share the tensor cores.
    assert clocks(PRODUCT + WAIT.format(0), warps=8) >= 2 * PRODUCT_CLOCKS


def test_what_stands_behind_a_wait_does_not_overlap():
    beside = clocks(PRODUCT + ROOTS + WAIT.format(0))
    behind = clocks(PRODUCT + WAIT.format(0) + ROOTS)
    assert beside == pytest.approx(max(PRODUCT_CLOCKS + Hopper().product_latency, ROOT_CLOCKS) + JUMP, abs=8)
    assert behind == pytest.approx(PRODUCT_CLOCKS + Hopper().product_latency + ROOT_CLOCKS + JUMP, abs=16)
    # Two resident blocks hide it for each other, as far as the special functions allow.
    together = clocks(PRODUCT + WAIT.format(0) + ROOTS, blocks=2)
    assert 2 * ROOT_CLOCKS <= together < 2 * behind


def test_small_products_wait_for_their_operands():
    """64 x 8 x 16 from shared memory: 4 clocks of arithmetic, 2304 bytes; four of them a trip."""
    product = "HGMMA.64x8x16.F32.BF16 R24, gdesc[UR4], R24, gsb0\n"
    assert clocks(product * 4 + WAIT.format(4)) == 4 * (64 * 16 + 8 * 16) * 2 / 128


def test_a_barrier_waits_for_the_last_warp():
    taken = Hopper().barrier_latency
    assert clocks("BAR.SYNC.DEFER_BLOCKING 0x0") == taken + JUMP
    # Eight warps on four schedulers: the second of each issues its instructions after the first.
    assert clocks("NOP\n" * 40 + "BAR.SYNC.DEFER_BLOCKING 0x0", warps=8) >= 2 * 40 + taken


def test_copies_are_waited_for_in_groups():
    copy = "LDGSTS.E.BYPASS.128 [R3], desc[UR4][R2.64]\nLDGDEPBAR\n"
    wait = "DEPBAR.LE SB0, 0x{}"
    alone = clocks(copy + wait.format(0), warps=1)
    assert alone > Hopper().l2_latency
    assert clocks(copy + wait.format(0), warps=1, l2_latency=360) == alone + 100
    # Three groups in flight share the latency.
    assert clocks(copy + wait.format(3), warps=1) == pytest.approx(alone / 4, rel=0.1)
    # With enough of them the second-level cache binds.
    assert clocks(copy * 8 + wait.format(8), warps=4) == pytest.approx(4 * 8 * 512 / Hopper().l2_bytes, rel=0.02)


def test_the_same_loop_takes_the_same_time():
    text = "LDG.E.128 R4, desc[UR4][R2.64] ; done=0\nFADD R1, R1, R4 ; waits=1\n" + PRODUCT + ROOTS + WAIT.format(0)
    assert clocks(text, warps=8, blocks=2) == clocks(text, warps=8, blocks=2)


def test_a_loop_that_cannot_be_played_is_said(monkeypatch):
    monkeypatch.setattr(simulation, "STUCK", 100)
    with pytest.raises(UnreadableCodeError, match="stuck"):
        clocks("LDG.E.128 R4, desc[UR4][R2.64] ; done=0\nFADD R1, R1, R4 ; waits=1", warps=1)
    with pytest.raises(UnreadableCodeError, match="does not know SYNCS"):
        trips("SYNCS.PHASECHK.TRANS64.TRYWAIT P5, [UR6], R20")


def executed(text, tiles=None):
    """For each trip of a period the opcodes that are executed."""
    return [
        [step.instruction.opcode for step in trip if step.executed and step.unit is not Unit.JUMP]
        for trip in trips(text, tiles=tiles)
    ]


def test_guards_that_a_jump_tells():
    masked = """
    ISETP.GE.AND P2, PT, R1, RZ, PT
    @P2 LDG.E.128 R4, desc[UR4][R2.64]
    @!P2 FADD R4, R4, R5
    @P2 BRA `(.L_x_1)
    ISETP.GE.AND P3, PT, R1, RZ, PT
    @P3 LDG.E.128 R4, desc[UR4][R2.64]
.L_x_1:
    @!PT LDS RZ, [RZ]
    FMUL R4, R4, R5
"""
    assert executed(masked) == [["ISETP.GE.AND", "LDG.E.128", "FMUL"]]
    # The masked loads are those of the border: they are not executed in any trip of a period.
    assert executed(masked, Tiles(first_touches(4, 16), 2, 4)) == [["ISETP.GE.AND", "LDG.E.128", "FMUL"]] * 4


CENTRES_JUMPED_OVER = """
    @!P2 BRA `(.L_x_1)
    LDG.E.128 R4, desc[UR4][R2.64]
.L_x_1:
    LDG.E.128 R8, desc[UR4][R2.64]
    HFMA2 R9, R8, R4, R4
"""
CENTRES_SELECTED = """
    @P2 LDG.E.128 R12, desc[UR4][R2.64]
    HGMMA.64x8x16.F32.BF16 R24, gdesc[UR12], R24, gsb0
    SEL R4, R12, R4, P3
    LDG.E.128 R8, desc[UR4][R2.64]
    HFMA2 R9, R8, R4, R4
"""


@pytest.mark.parametrize("text", [CENTRES_JUMPED_OVER, CENTRES_SELECTED], ids=["jumped over", "selected"])
def test_centres_are_loaded_once_in_a_period(text):
    found = executed(text, Tiles(first_touches(4, 16), 2, 4))
    assert [trip.count("LDG.E.128") for trip in found] == [2, 1, 1, 1]
    loads = [[step for step in trip if step.unit is Unit.LOAD and step.executed] for trip in
             trips(text, tiles=Tiles(first_touches(4, 16), 2, 4))]  # fmt: skip
    # The first touch of a tile misses wholly, what comes later only where it leaves what was touched before.
    assert loads[0][0].missing == (512.0,) * 4
    assert sum(loads[0][1].missing) == 19 * 512 / 16
    assert sum(loads[3][0].missing) == 0


def test_operands_of_a_plain_product_are_read_once():
    text = "LDG.E.128 R4, desc[UR4][R2.64] ; done=0\nSTS.128 [R3], R4 ; waits=1\nLDG.E.128 R8, desc[UR4][R2.64]"
    ((stored, _, other, _),) = trips(text, tiles=Tiles(first_touches(4, 16), 8, 1))
    assert stored.is_streamed
    assert not other.is_streamed
    ((_, _, other, _),) = trips(text)
    assert other.is_streamed


def test_first_touches():
    """A tile of 4 x 16 pixels: 64 at the centre, a rim of 2 x (4 + 16) + 4 by all taps together."""
    touches = first_touches(4, 16)
    assert sum(touches[0]) == 64
    assert [sum(touch) for touch in touches[1:3]] == [19, 19]
    assert sum(map(sum, touches)) == 64 + 44
    assert share([True, True, False, False], 0.0, 0.5) == 1.0
    assert share([True, True, False, False], 0.25, 0.75) == 0.5
    assert share([True, False], 0.5, 0.75) == 0.0


def test_assumptions_differ_from_their_alternatives():
    assert all(alternative != Hopper() for alternative in ALTERNATIVES.values())
    assert Hopper().pipe_clocks == {"fp": 1, "pair": 2, "half": 1, "multiply": 2, "integer": 2, "special": 8}


# The bound where nothing is known of the schedule.


def least(text, arch="sm_80", warps=4):
    device = MULTIPROCESSORS[arch]
    flow = ControlFlow(read_sass(loop(text), warps))
    return least_clocks(list(flow.path(flow.loops[0]).in_order(lambda inner: 1)), device, device.tensor["bf16"], warps)


HMMA = "HMMA.16816.F32.BF16 R8, R4, R6, R8\n" * 8
HMMA_CLOCKS = 8 * 2 * 16 * 8 * 16 * 4 / 2048
BARRIER = "BAR.SYNC.DEFER_BLOCKING 0x0\n"


def test_stretches_between_barriers_add_up():
    """Eight warps, two to a scheduler: 160 clocks of special functions each, 64 of products."""
    roots = 2 * ROOT_CLOCKS
    apart = least(ROOTS + BARRIER + HMMA + BARRIER, warps=8)
    together = least(ROOTS + HMMA + BARRIER, warps=8)
    assert apart == pytest.approx(roots + 2 * HMMA_CLOCKS, rel=0.05)
    # Without a barrier in between one warp's products hide behind the other's roots.
    assert together == pytest.approx(roots, rel=0.15)


def test_a_warp_alone_issues_in_order():
    """One warp a scheduler: additions take two clocks each on sm_80, and start when the last product has started."""
    assert least(HMMA + "FADD R1, R1, R2\n" * 100) == pytest.approx(HMMA_CLOCKS + 200, rel=0.1)


@pytest.mark.parametrize(
    ("product", "wait", "left"),
    [
        ("HGMMA.64x256x16.F32.BF16 R24, R4, gdesc[UR4], R24, gsb0", "WARPGROUP.DEPBAR.LE gsb0, 0x{}", (0, 1)),
        (
            "UMOV UR29, 0x8200490\nUTCHMMA gdesc[UR22], gdesc[UR8], tmem[UR5], tmem[UR28], idesc[UR29], UPT\n"
            "UIADD3 UR9, UPT, UPT, UR8, 0x100, URZ\nUTCBAR [UR9], URZ",
            "SYNCS.PHASECHK.TRANS64.TRYWAIT P5, [{}], R20",
            ("UR8+0x100", "UR7"),
        ),
    ],
    ids=["wgmma", "tcgen05"],
)
def test_a_product_runs_beside_what_stands_before_its_wait(product, wait, left):
    arch = "sm_90" if product.startswith("HG") else "sm_100"
    flop = 2 * 64 * 256 * 16 if product.startswith("HG") else 2 * 128 * 128 * 16
    taken = flop / MULTIPROCESSORS[arch].tensor["bf16"]
    adds = "FADD R1, R1, R2\n" * 200
    all_, but_one = (wait.format(which) for which in left)
    waits_at_once = least(f"{product}\n{all_}\n{adds}{BARRIER}", arch)
    waits_later = least(f"{product}\n{but_one}\n{adds}{BARRIER}", arch)
    assert waits_at_once >= taken + 200
    assert waits_later == pytest.approx(max(taken, 200), rel=0.1)
