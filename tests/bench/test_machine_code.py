"""The instrument that reads machine code: by hand on small listings, and its device model by its own arithmetic."""

import re
import subprocess
import sys

import pytest
from support.places import ROOT

pytest.importorskip("triton")

from support.listings import listing

from sdn_triton.aot.compile import TARGETS
from sdn_triton.bench.machine_code.__main__ import main
from sdn_triton.bench.machine_code.control_flow import ControlFlow, UnreadableCodeError
from sdn_triton.bench.machine_code.examination import KernelCase
from sdn_triton.bench.machine_code.kernel_cost import Block, Cost, cost_of
from sdn_triton.bench.machine_code.kernel_work import COLUMNS, IMAGES, KERNELS, ROWS, KernelWork, Shape, work_of
from sdn_triton.bench.machine_code.prediction import floor_of
from sdn_triton.bench.machine_code.sass import bulk_copy_bytes, read_sass
from sdn_triton.bench.machine_code.tables import COUNTS, PIXEL, against_table, clock_table, count_table, resource_table
from sdn_triton.bench.machine_code.throughput import KINDS, MULTIPROCESSORS
from sdn_triton.bench.tuner.trials import units_of
from sdn_triton.tuning.configs import SHARED_BYTES, KernelConfig
from sdn_triton.tuning.defaults import default_config
from sdn_triton.tuning.shapes import LayerShape


def only_loop(text, warps=4):
    flow = ControlFlow(read_sass(listing(text), warps))
    (loop,) = flow.loops
    return [instruction.opcode for instruction in flow.path(loop).everything()]


BRANCHES = """
    S2R R0, SR_TID.X
.L_x_0:
    IADD3 R1, R1, 0x1, RZ
    {jump}
    LDG.E.128 R4, desc[UR4][R2.64]
    BRA `(.L_x_2)
.L_x_1:
    ISETP.GE.AND P1, PT, R1, R2, PT
    ISETP.LT.AND P1, PT, R1, R3, P1
    @P1 LDG.E.128 R4, desc[UR4][R2.64]
.L_x_2:
    HMMA.16816.F32.BF16 R8, R4, R6, R8
    @P0 BRA `(.L_x_0)
    EXIT
.L_x_3:
    BRA `(.L_x_3)
"""


@pytest.mark.parametrize("jump", ["@P2 BRA `(.L_x_1)", "BRA.U UP2, `(.L_x_1)", "@!UP2 BRA `(.L_x_1)"])
def test_the_shorter_of_two_ways_through_a_loop_counts(jump):
    path = only_loop(BRANCHES.format(jump=jump))
    assert path == ["IADD3", jump.split()[0 if jump[0] == "B" else 1], "LDG.E.128", "BRA", "HMMA.16816.F32.BF16", "BRA"]


def test_the_way_with_the_matrix_product_counts_though_it_is_longer():
    path = only_loop(
        """
.L_x_0:
    BRA.U UP1, `(.L_x_1)
    UMOV UR29, 0x8200490
    UTCHMMA tmem[UR22], gdesc[UR8], tmem[UR5], tmem[UR28], idesc[UR29], UPT
.L_x_1:
    SYNCS.PHASECHK.TRANS64.TRYWAIT P5, [UR6], R20
    @!P5 BRA `(.L_x_3)
.L_x_2:
    @P0 BRA `(.L_x_0)
    EXIT
.L_x_3:
    SYNCS.PHASECHK.TRANS64.TRYWAIT P5, [UR6], R20
    @!P5 BRA `(.L_x_3)
    BRA `(.L_x_2)
"""
    )
    # The wait out of line is no part of it.
    assert path == ["BRA.U", "UMOV", "UTCHMMA", "SYNCS.PHASECHK.TRANS64.TRYWAIT", "BRA", "BRA"]


def test_the_jump_of_a_reconvergence_goes_where_it_was_announced():
    path = only_loop(
        """
.L_x_0:
    BSSY B0, `(.L_x_2)
    @P1 BRA `(.L_x_1)
    FADD R1, R1, R2
    BSYNC B0
.L_x_1:
    FADD R1, R1, R2
    FADD R1, R1, R2
    BSYNC B0
.L_x_2:
    @P0 BRA `(.L_x_0)
    EXIT
"""
    )
    assert path == ["BSSY", "BRA", "FADD", "BSYNC", "BRA"]


def test_notes_behind_an_instruction_are_no_operands():
    text = listing(
        "UMOV UR29, 0x8200490  &req={1}  ?trans1\nNOP  ?WAIT7_END_GROUP\nBRA `(.L_x_0)  &wr=0x0 ?trans5\n.L_x_0:\nEXIT"
    )
    code = read_sass(text, 4)
    assert [i.operands for i in code.instructions] == ["UR29, 0x8200490", "", "`(.L_x_0)", ""]
    assert not code.instructions[2].falls_through


def test_jumps_that_cannot_be_followed_are_said():
    with pytest.raises(UnreadableCodeError, match="indirect jump"):
        read_sass(listing("BRX R2, -0x10"), 4)
    middle = "@P1 BRA `(.L_x_1)\n.L_x_0:\nFADD R1, R1, R2\n.L_x_1:\nFMUL R1, R1, R2\n@P0 BRA `(.L_x_0)\nEXIT"
    with pytest.raises(UnreadableCodeError, match="middle of a loop"):
        ControlFlow(read_sass(listing(middle), 4))
    with pytest.raises(UnreadableCodeError, match="no instructions"):
        read_sass("nothing of the kind", 4)


NESTED = """
    LDC R1, c[0x0][0x28]
.L_x_0:
    MUFU.RSQ R2, R3
    MUFU.RSQ R4, R5
    {inside}
    FMUL R2, R2, R4
    @P1 BRA `(.L_x_0)
    STG.E R2, desc[UR4][R2.64]
    EXIT
"""
LOOP = """
.L_x_{0}:
    LDSM.16.M88.4 R8, [R9]
    HMMA.16816.F32.BF16 R8, R4, R6, R8
    @P0 BRA `(.L_x_{0})
"""
# A step is 4 pixels by 16 channels, two elements a thread; its product is what one HMMA of 16 x 8 x 16 does.
WARP = Block(threads=32, pixels=4, channels=16, outputs=32)


def work(**changes):
    return KernelWork(**{**dict(block=16, products=1, steps=8, repeats=1, memory=0.0, streamed=0.0), **changes})


def counted(inside, **changes):
    return cost_of(read_sass(listing(NESTED.format(inside=inside)), 1), work(**changes), WARP)


def test_products_beside_the_differences():
    cost = counted("HMMA.16816.F32.BF16 R8, R4, R6, R8")
    assert cost.elements_per_trip == 2
    assert cost.issued == 5 / 2
    assert {kind: count for kind, count in cost.counts.items() if count} == {
        "special": 1.0,
        "tensor": 0.5,
        "fp": 0.5,
        "other": 0.5,
    }
    assert cost.flop == 2 * WARP.outputs
    # Three instructions outside, over the eight steps of two elements each.
    assert sum(cost.outside.values()) == 3 / 16


@pytest.mark.parametrize(
    ("inside", "of_a_step", "trips"),
    [(LOOP.format(1), 6, 6), (LOOP.format(1) + LOOP.format(2), 6, 3), (LOOP.format(1), 1, 1)],
    ids=["one loop of 6", "two loops of 3", "one loop of 1"],
)
def test_products_in_loops_of_their_own_count_with_their_trips(inside, of_a_step, trips):
    loops = inside.count("HMMA")
    cost = counted(inside, products=of_a_step)
    assert cost.elements_per_trip == 2
    assert cost.issued == (4 + 3 * loops * trips) / 2
    assert cost.flop == of_a_step * 2 * WARP.outputs
    assert cost.scratchpad_bytes == loops * trips * 32 * 16 / 64


def test_a_first_trip_that_the_compiler_took_out_of_its_loop():
    product = "HMMA.16816.F32.BF16 R8, R4, R6, R8\n"
    cost = counted(product + LOOP.format(1) + LOOP.format(2), products=8)
    assert cost.flop == 8 * 2 * WARP.outputs
    assert cost.issued == (4 + 1 + 7 * 3) / 2
    assert counted(product + LOOP.format(1)).issued == (4 + 1) / 2


def test_steps_of_a_trip_whose_products_have_a_loop_of_their_own():
    roots = "MUFU.RSQ R2, R3\n" * 14
    cost = counted(roots + LOOP.format(1), looped_steps=8)
    assert cost.elements_per_trip == 16
    assert cost.issued == (2 + 14 + 2 + 3 * 8) / 16


def test_unrolling_is_found():
    twice = "MUFU.RSQ R2, R3\n" * 2 + "HMMA.16816.F32.BF16 R8, R4, R6, R8\n" * 2
    assert counted(twice).elements_per_trip == 4
    assert counted("", products=0).elements_per_trip == 2
    assert counted("MUFU.RSQ R2, R3\n" * 4, products=0).elements_per_trip == 6


@pytest.mark.parametrize(
    ("inside", "changes", "message"),
    [
        ("", {}, "no matrix products"),
        ("MUFU.RSQ R2, R3\nHMMA.16816.F32.BF16 R8, R4, R6, R8", {}, "3 reciprocal square roots for 2 elements"),
        ("HMMA.1688.F32.BF16 R8, R4, R6, R8", {}, "0.5 matrix products"),
        ("HMMA.16816.F32.BF16 R8, R4, R6, R8\n" * 2 + LOOP.format(1), {}, "1 matrix products too many"),
        ("MUFU.RSQ R2, R3", {"products": 0}, "1.5 similarities"),
    ],
)
def test_what_does_not_fit_the_work_of_the_kernel_is_said(inside, changes, message):
    with pytest.raises(UnreadableCodeError, match=re.escape(message)):
        counted(inside, **changes)


def test_bytes_of_loads_and_stores():
    code = read_sass(
        listing(
            """
    LDG.E.128 R4, desc[UR4][R2.64]
    LDG.E.U16 R4, desc[UR4][R2.64]
    LDGSTS.E.BYPASS.LTC128B.128 [R3], desc[UR4][R2.64]
    LDGSTS.E.64 [R3], desc[UR4][R2.64]
    STS.64 [R3], R4
    LDSM.16.M88.4 R4, [R3]
    HGMMA.64x128x16.F32.BF16 R24, R112, gdesc[UR28], R24
    HGMMA.64x64x8.F32.TF32 R24, gdesc[UR12].tnspB, R24, gsb0
    UTMALDG.2D [UR4], [UR6]
    EXIT
"""
        ),
        warps=8,
        copy_bytes=8192.0,
    )
    found = [(i.global_bits, i.l1_bytes, i.l2_bytes, i.scratchpad_bytes) for i in code.instructions]
    assert found == [
        (128, 4096, 0, 0),
        (16, 512, 0, 0),
        (128, 0, 4096, 4096),
        (64, 2048, 0, 2048),
        (0, 0, 0, 2048),
        (0, 0, 0, 4096),
        (0, 0, 0, 2 * 128 * 16 * 2),
        (0, 0, 0, 2 * (64 + 64) * 8 * 4),
        (0, 0, 8192, 8192),
        (0, 0, 0, 0),
    ]
    assert [i.flop for i in code.instructions if i.flop] == [2 * 2 * 64 * 128 * 16, 2 * 2 * 64 * 64 * 8]


def test_size_of_bulk_copies():
    ptx = """
	@%p9 mbarrier.arrive.expect_tx.shared.b64 _, [%r7], 24576;
	@%p9 cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1, {%r2, %r3}], [%r7];
	@%p9 cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1, {%r2, %r3}], [%r7];
"""
    assert bulk_copy_bytes(ptx) == 12288
    assert bulk_copy_bytes("ld.global.v4.b32") is None
    with pytest.raises(UnreadableCodeError, match="bulk copy"):
        read_sass(listing("UTMALDG.2D [UR4], [UR6]"), 4)


def test_shape_of_a_product_of_the_whole_block():
    text = "UMOV UR29, 0x8200490\n{}\nUTCHMMA gdesc[UR22], gdesc[UR8], tmem[UR5], tmem[UR28], idesc[UR29], UPT\nEXIT"
    product = read_sass(listing(text.format("NOP")), 4).instructions[2]
    assert product.flop == 2 * 128 * 128 * 16
    assert product.scratchpad_bytes == 2 * 128 * 16 * 2
    with pytest.raises(UnreadableCodeError, match="not a constant"):
        read_sass(listing(text.format("UIADD3 UR29, UR29, 0x1, URZ")), 4)


def test_blocks_on_a_multiprocessor():
    hopper = MULTIPROCESSORS["sm_90"]
    assert hopper.blocks_resident(threads=256, registers=128, shared_bytes=0) == 2
    assert hopper.blocks_resident(threads=256, registers=129, shared_bytes=0) == 1  # 136 a thread are given
    assert hopper.blocks_resident(threads=128, registers=168, shared_bytes=0) == 3
    assert hopper.blocks_resident(threads=128, registers=16, shared_bytes=75 * 1024) == 3
    assert hopper.blocks_resident(threads=128, registers=16, shared_bytes=232_448) == 1
    assert hopper.blocks_resident(threads=128, registers=16, shared_bytes=232_449) == 0
    assert hopper.blocks_resident(threads=32, registers=16, shared_bytes=0) == 32
    assert hopper.blocks_resident(threads=32, registers=96, shared_bytes=0) == 20  # five in each quarter
    assert hopper.blocks_resident(threads=32, registers=97, shared_bytes=0) == 16  # 104 a thread are given
    assert hopper.blocks_resident(threads=1024, registers=32, shared_bytes=0) == 2
    assert MULTIPROCESSORS["sm_86"].blocks_resident(threads=512, registers=32, shared_bytes=0) == 3
    blackwell = MULTIPROCESSORS["sm_100"]
    assert blackwell.blocks_resident(threads=128, registers=64, shared_bytes=0, tensor_columns=256) == 2


@pytest.mark.parametrize("name", MULTIPROCESSORS)
def test_a_block_may_have_what_the_device_has(name):
    limit = SHARED_BYTES[TARGETS[name].architecture]
    assert MULTIPROCESSORS[name].blocks_resident(128, 32, limit) == 1
    assert MULTIPROCESSORS[name].blocks_resident(128, 32, limit + 1) == 0


def test_every_target_has_a_model():
    assert list(MULTIPROCESSORS) == [name for name, target in TARGETS.items() if target.kind == "cuda"]


CONFIG = KernelConfig(128, 16, 64, 256, 8, 1)


def perfect_cost(instructions):
    counts = {**dict.fromkeys(KINDS, 0.0), "fp": instructions - 1.125, "special": 1.0, "tensor": 0.125}
    return Cost(32.0, 32 * instructions, counts, dict.fromkeys(KINDS, 0.0), {}, 512.0, 0.0, 0.0, 0.0)


def test_the_limits_of_an_h100():
    """Per element and at O = 256: tensor 0.125 clocks, a reciprocal square root 1 / 16, i instructions i / 128."""
    floor = floor_of(
        perfect_cost(8.0),
        work_of("difference_forward", Shape(256, 256, 2), CONFIG),
        MULTIPROCESSORS["sm_90"],
        "bf16",
    )
    assert floor.clocks["tensor"] == 0.125
    assert floor.clocks["special"] == 1 / 16
    assert floor.clocks["issue"] == 8 / 128
    # Weights for 256 outputs, from the second-level cache for every tile of 128 pixels: what no instruction shows.
    assert floor.clocks["l2"] > 0.1
    assert floor.bound == "tensor"
    assert floor.ratio == pytest.approx(8 / 9)


def test_a_repeated_element_is_paid_again():
    whole, half = (
        work_of("difference_forward", Shape(256, 512, 2), KernelConfig(128, 16, 64, block_o, 8, 1))
        for block_o in (512, 256)
    )
    device = MULTIPROCESSORS["sm_90"]
    issue_bound = perfect_cost(100.0)
    assert floor_of(issue_bound, half, device, "bf16").ratio == 2 * floor_of(issue_bound, whole, device, "bf16").ratio


@pytest.mark.parametrize("kernel", KERNELS)
def test_work_is_positive_and_falls_with_larger_tiles(kernel):
    shape = Shape(256, 256, 2)
    small = work_of(kernel, shape, KernelConfig(64, 8, 32, 32, 4, 1))
    large = work_of(kernel, shape, KernelConfig(256, 16, 128, 256, 8, 1))
    assert min(small.memory, small.streamed, small.steps, small.repeats) > 0
    assert large.streamed * large.repeats < small.streamed * small.repeats
    assert large.memory == small.memory


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arch", "sm_91"], "invalid choice: 'sm_91'"),
        (["--kernel", "difference"], "invalid choice: 'difference'"),
        (["--dtype", "float32"], "invalid choice: 'float32'"),
        (["--channels", "0"], "'0' is not a positive whole number"),
        (["--config", "block_x=3"], "unknown key 'block_x'"),
        (["--config", "block_p"], "'block_p' is not KEY=NUMBER"),
        (["--memory-format", "rows"], "invalid choice: 'rows'"),
        (["--json", "no/such/folder/file.json"], "it must be a file in an existing folder"),
    ],
)
def test_a_wrong_option_is_refused(options, message, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(options)
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_it_says_that_it_needs_the_compiler():
    command = [sys.executable, "-m", "sdn_triton.bench.machine_code"]
    environment = {"TRITON_INTERPRET": "1", "PATH": "/usr/bin:/bin"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 2
    assert "TRITON_INTERPRET is set" in run.stderr


def row(**changes):
    figures = dict(
        kernel="difference_forward",
        arch="sm_90",
        dtype="bf16",
        channels=256,
        outputs=256,
        config=dict(block_p=128, block_c=64, block_o=128, num_warps=8, num_stages=1, splits=1),
        registers=176,
        spill_bytes=0,
        shared_bytes=49_152,
        fits=True,
        blocks_per_sm=1,
        hazards=0,
        tensor_instructions=4,
        load_bits={"128": 12.0},
        elements_per_trip=32.0,
        instructions_per_trip=317.0,
        clocks_per_element={"issue": 0.0774, "tensor": 0.0625},
        bound="issue",
        ratio=2.0,
        ratio_is="simulated",
        ratio_range=[1.8, 2.3],
        floor_ratio=1.1,
        issued_per_element=9.9,
        error=None,
    )
    return {**dict.fromkeys((*COUNTS.values(), *PIXEL.values()), 0.0), **figures, **changes}


def test_tables():
    assert "difference_forward sm_90 bf16 256->256 [128x64x128 8w 1s]" in resource_table([row()]).plain()
    assert "128:12" in resource_table([row()]).plain()
    assert "NO" in resource_table([row(fits=False)]).plain()
    assert resource_table([row(), row(hazards=67)]).styles == ["", "red"]
    assert " 67 " in resource_table([row(hazards=67)]).plain()
    assert "9.90" in count_table([row()]).plain()
    assert re.search(
        r"0\.077 .* 0\.062 .* issue +1\.10x +2\.00x +simulated +1\.80x to 2\.30x", clock_table([row()]).plain()
    )
    unknown = {key: None for key in row() if key not in ("kernel", "arch", "dtype", "channels", "outputs", "config")}
    for table in (resource_table, count_table, clock_table):
        assert "difference_forward" in table([row(**{**unknown, "error": "cannot be compiled"})]).plain()


def test_the_change_against_another_revision_is_shown():
    before = row(issued_per_element=13.5, ratio=2.5, registers=241)
    table = against_table("HEAD", [row()], [before]).plain()
    assert re.search(r"241 -> 176 .* 13\.50 -> 9\.90 +-26\.7% +2\.50 -> 2\.00 +-20\.0%", table)
    assert against_table("HEAD", [row()], [before]).styles == [""]
    assert against_table("HEAD", [before], [row()]).styles == ["red"]
    lost = row(issued_per_element=None, ratio=None, error="not understood")
    assert "not understood" in against_table("HEAD", [row()], [lost]).plain()


@pytest.mark.parametrize("channels", [32, 64, 128, 256])
@pytest.mark.parametrize("op", ["difference", "block"])
def test_what_is_examined_is_what_a_launch_takes(op, channels):
    shape = LayerShape.parse(f"op={op},n={IMAGES},c={channels},h={ROWS},w={COLUMNS},dtype=bf16")
    for arch in ("sm_80", "sm_90", "sm_100"):
        for unit in units_of([shape], TARGETS[arch]):
            examined = KernelCase(unit.kernel, arch, "bf16", channels, channels).config()
            assert examined == default_config(unit.kernel, unit.work, TARGETS[arch]), unit.kernel
