"""The check for registers of unfinished products, on machine code written by hand."""

import pytest

pytest.importorskip("triton")

from support.listings import listing

from sdn_triton.bench.machine_code.control_flow import UnreadableCodeError
from sdn_triton.bench.machine_code.hazards import count_hazards, find_hazards, main, why_hazardous
from sdn_triton.bench.machine_code.registers import registers_of
from sdn_triton.bench.machine_code.sass import read_sass


def found(text):
    """The hazards of a listing: the name of the instruction, what it does, to which registers, of which product."""
    return [
        (hazard.instruction.opcode.split(".")[0], hazard.use, hazard.registers, hazard.product.operands.split(",")[0])
        for hazard in find_hazards(read_sass(listing(text), warps=4))
    ]


def span(first, count):
    return tuple(range(first, first + count))


PRODUCT = "HGMMA.64x64x16.F32.BF16 R24, R4, gdesc[UR4], R24, gsb0"
OTHER_PRODUCT = "HGMMA.64x64x16.F32.BF16 R64, R8, gdesc[UR4], R64, gsb0"
WAIT = "WARPGROUP.DEPBAR.LE gsb0, 0x{}"
LOAD = "LDG.E.128 R4, desc[UR4][R2.64]"


def test_a_wait_covers_the_product():
    text = "{}\n{}\n{}\nEXIT"
    assert found(text.format(PRODUCT, WAIT.format(0), LOAD)) == []
    assert found(text.format(PRODUCT, WAIT.format(1), LOAD)) == [("LDG", "writes the operand", span(4, 4), "R24")]
    assert found(text.format(PRODUCT, LOAD, WAIT.format(0))) == [("LDG", "writes the operand", span(4, 4), "R24")]
    assert found(text.format(LOAD, PRODUCT, WAIT.format(0))) == []


@pytest.mark.parametrize(("left", "expected"), [(0, []), (1, [("LDG", "writes the operand", span(4, 4), "R24")])])
def test_over_the_back_edge(left, expected):
    """What the compiler made of a pipelined loop: the next trip's load meets the product of the last."""
    text = f"""
    .L_x_0:
        {LOAD}
        WARPGROUP.ARRIVE
        {PRODUCT}
        {WAIT.format(left)}
        @P0 BRA `(.L_x_0)
        {WAIT.format(0)}
        STG.E.128 desc[UR4][R2.64], R24
        EXIT
    """
    assert found(text) == expected


def test_the_latest_groups_are_left():
    """One of two may be in flight: the earlier has ended, also over the back edge."""
    text = f"""
    .L_x_0:
        MOV R4, R0
        MOV R8, R0
        {PRODUCT}
        {OTHER_PRODUCT}
        {WAIT.format(1)}
        MOV R5, R0
        MOV R9, R0
        @P0 BRA `(.L_x_0)
        EXIT
    """
    assert found(text) == [("MOV", "writes the operand", (register,), "R64") for register in (8, 9)]
    assert found(text.replace("0x1", "0x2")) == [
        ("MOV", "writes the operand", (register,), of)
        for register, of in ((4, "R24"), (8, "R64"), (5, "R24"), (9, "R64"))
    ]


def test_products_of_one_group_end_together():
    first = PRODUCT.removesuffix(", gsb0")
    text = f"{first}\n{OTHER_PRODUCT}\n{WAIT.format(0)}\nMOV R4, R0\nMOV R8, R0\nEXIT"
    assert found(text) == []
    assert [hazard[2] for hazard in found(text.replace("0x0", "0x1"))] == [(4,), (8,)]


def test_a_product_of_no_group_is_never_waited_for():
    text = f"{PRODUCT.removesuffix(', gsb0')}\n{WAIT.format(0)}\nMOV R4, R0\nEXIT"
    assert found(text) == [("MOV", "writes the operand", (4,), "R24")]


TWO_WAYS = """
    {product}
    {jump}
    {one_way}
    BRA `(.L_x_1)
.L_x_0:
    {other_way}
.L_x_1:
    {meet}
    MOV R4, R0
    EXIT
"""


@pytest.mark.parametrize("jump", ["@P0 BRA `(.L_x_0)", "BRA.U UP0, `(.L_x_0)", "BRA.DIV UR4, `(.L_x_0)"])
@pytest.mark.parametrize(
    ("one_way", "other_way", "meet", "is_hazard"),
    [
        pytest.param(WAIT.format(0), WAIT.format(0), "NOP", False, id="both-wait"),
        pytest.param(WAIT.format(0), "NOP", "NOP", True, id="one-waits"),
        pytest.param("NOP", WAIT.format(0), "NOP", True, id="the-other-waits"),
        pytest.param("NOP", "NOP", WAIT.format(0), False, id="waits-where-they-meet"),
        pytest.param(OTHER_PRODUCT, OTHER_PRODUCT, WAIT.format(1), False, id="a-later-group-on-both"),
        pytest.param(OTHER_PRODUCT, "NOP", WAIT.format(1), True, id="a-later-group-on-one"),
        pytest.param("NOP", OTHER_PRODUCT, WAIT.format(1), True, id="a-later-group-on-the-other"),
        pytest.param("MOV R4, R0", WAIT.format(0), WAIT.format(0), True, id="written-on-one-way"),
    ],
)
def test_two_ways(jump, one_way, other_way, meet, is_hazard):
    text = TWO_WAYS.format(product=PRODUCT, jump=jump, one_way=one_way, other_way=other_way, meet=meet)
    assert {hazard[0] for hazard in found(text)} == ({"MOV"} if is_hazard else set())


def test_a_product_on_one_way_only():
    text = TWO_WAYS.format(product="NOP", jump="@P0 BRA `(.L_x_0)", one_way=PRODUCT, other_way="NOP", meet="NOP")
    assert found(text) == [("MOV", "writes the operand", (4,), "R24")]


def test_predicates():
    """What may not be executed neither waits nor ends a group, but may write; what never is does nothing."""
    text = "{}\n{}\n{}\nEXIT"
    hazard = [("MOV", "writes the operand", (4,), "R24")]
    assert found(text.format(PRODUCT, "@P0 " + WAIT.format(0), "MOV R4, R0")) == hazard
    assert found(text.format("@P0 " + PRODUCT, "NOP", "MOV R4, R0")) == hazard
    assert found(text.format(PRODUCT, "NOP", "@!P0 MOV R4, R0")) == hazard
    assert found(text.format(PRODUCT, "@P0 " + OTHER_PRODUCT, WAIT.format(1) + "\nMOV R4, R0")) == hazard
    assert found(text.format(PRODUCT, "NOP", "@!PT MOV R4, R0")) == []
    assert found(text.format(PRODUCT, "@!PT " + WAIT.format(0), "MOV R4, R0")) == hazard
    assert found(text.format("@!PT " + PRODUCT, "NOP", "MOV R4, R0")) == []


SHARED = "HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4].tnspA.tnspB, R24, gsb0"


@pytest.mark.parametrize(
    ("following", "expected"),
    [
        ("FADD R0, R55, R1", [("FADD", "reads the accumulator", (55,), "R24")]),
        ("FADD R55, R0, R1", [("FADD", "writes the accumulator", (55,), "R24")]),
        ("FADD R56, R23, R1", []),
        ("STG.E.128 desc[UR4][R2.64], R20", []),
        ("STG.E.128 desc[UR4][R2.64], R21", [("STG", "reads the accumulator", (24,), "R24")]),
        ("LDS.128 R54, [R2]", [("LDS", "writes the accumulator", (54, 55), "R24")]),
        ("LDGSTS.E.BYPASS.128 [R24], desc[UR4][R2.64], !P0", [("LDGSTS", "reads the accumulator", (24,), "R24")]),
        (SHARED, []),
        (SHARED.replace("R24, gsb0", "RZ, !UPT, gsb0"), []),
        (
            SHARED.replace("64x64x16", "64x32x16"),
            [(*("HGMMA", use), span(24, 16), "R24") for use in ("writes the accumulator", "reads the accumulator")],
        ),
        (
            SHARED.replace("R24", "R40"),
            [(*("HGMMA", use), span(40, 16), "R24") for use in ("writes the accumulator", "reads the accumulator")],
        ),
        (
            SHARED.replace("64x64x16.F32.BF16", "64x128x16.F16"),
            [(*("HGMMA", use), span(24, 32), "R24") for use in ("writes the accumulator", "reads the accumulator")],
        ),
        (SHARED.replace("R24", "R56"), []),
        (PRODUCT.replace("R4,", "R52,"), [("HGMMA", "reads the accumulator", span(52, 4), "R24")]),
    ],
)
def test_the_accumulator(following, expected):
    """It is left alone, but by a product of the same shape: that adds to it in turn."""
    assert found(f"{SHARED}\n{following}\n{WAIT.format(0)}\nEXIT") == expected


@pytest.mark.parametrize(
    ("instruction", "reads", "writes"),
    [
        ("FFMA R0, R2.reuse, -R3, 1", {2, 3}, {0}),
        ("HFMA2.BF16_V2 R7, R9.H0_H0, |R8|, -RZ", {8, 9}, {7}),
        ("LOP3.LUT P0, R4, R5, UR7, R6, 0xfe, !PT", {5, 6}, {4}),
        ("LOP3.LUT P0, RZ, R5, 0x1, RZ, 0xc0, !PT", {5}, set()),
        ("IADD3 R152, P4, P5, R250, -0x3000, R9", {250, 9}, {152}),
        ("IADD3.X R153, R251, -0x1, RZ, P4, !PT", {251}, {153}),
        ("IMAD.WIDE R190, R191, 0x4, R246", {191, 246, 247}, {190, 191}),
        ("IMAD.WIDE.U32 R4, P0, R2, R3, R6", {2, 3, 6, 7}, {4, 5}),
        ("IMAD.HI.U32 R3, R3, R5, R6", {3, 5, 6, 7}, {3}),
        ("CS2R R88, SRZ", set(), {88, 89}),
        ("CS2R.32 R88, SR_CLOCKLO", set(), {88}),
        ("LDG.E.128 R152, desc[UR20][R188.64+0x1000]", {188, 189}, span(152, 4)),
        ("LDG.E.64.CONSTANT R2, desc[UR4][R2.64], P0", {2, 3}, {2, 3}),
        ("LDG.E.U16 R2, desc[UR4][R8.64]", {8, 9}, {2}),
        ("LDS.64 R4, [R6.X4+UR5+0x10]", {6}, {4, 5}),
        ("LDSM.16.M88.4 R56, [R77+UR6+0x6000]", {77}, span(56, 4)),
        ("LDSM.16.MT88.2 R56, [R77]", {77}, {56, 57}),
        ("LDC.64 R4, c[0x0][R3+0x230]", {3}, {4, 5}),
        ("STS.128 [R3+0x10], R8", {3, *span(8, 4)}, set()),
        ("STSM.16.M88.4 [R3], R8", {3, *span(8, 4)}, set()),
        ("STG.E desc[UR4][R2.64], R8", {2, 3, 8}, set()),
        ("LDGSTS.E.BYPASS.128 [R159+0x1000], desc[UR20][R154.64], !P2", {159, 154, 155}, set()),
        ("ATOMG.E.ADD.STRONG.GPU PT, R5, desc[UR4][R2.64], R7", {2, 3, 7}, {5}),
        ("SHFL.BFLY PT, R3, R4, 0x10, 0x1f", {4}, {3}),
        ("VOTE.ANY R4, PT, P0", set(), {4}),
        ("VOTE.ALL P0, P1", set(), set()),
        ("ISETP.GE.AND P6, PT, R153, UR31, PT", {153}, set()),
        ("R2UR UR4, R9", {9}, set()),
        ("UIADD3 UR4, UR4, 0x7f, URZ", set(), set()),
        ("F2F.F64.F32 R2, R9", {9}, {2, 3}),
        ("F2F.F32.F64 R2, R8", {8, 9}, {2}),
        ("F2I.FTZ.U32.TRUNC.NTZ R5, R4", {4}, {5}),
        ("F2I.S64.TRUNC R4, R9", {9}, {4, 5}),
        ("I2F.F64 R4, R9", {9}, {4, 5}),
        ("I2F.S64 R9, R4", {4, 5}, {9}),
        ("DFMA R4, R6, R8, -R10", {6, 7, 8, 9, 10, 11}, {4, 5}),
        ("DSETP.GT.AND P0, PT, R6, R8, PT", {6, 7, 8, 9}, set()),
        ("HMMA.16816.F32.BF16 R8, R4, R2, R12", {*span(4, 4), 2, 3, *span(12, 4)}, span(8, 4)),
        ("HMMA.1688.F32.TF32 R8, R4, R2, RZ", {4, 5, 2}, span(8, 4)),
        ("HMMA.16816.F16 R8, R4, R2, R12", {*span(4, 4), 2, 3, 12, 13}, {8, 9}),
        ("HGMMA.64x16x8.F32.TF32 R24, R4, gdesc[UR4], R24", {*span(4, 4), *span(24, 8)}, span(24, 8)),
        ("HGMMA.64x16x16.F32 R24, gdesc[UR4].tnspB, RZ, !UPT", set(), span(24, 8)),
        ("HGMMA.64x256x16.F16 R24, gdesc[UR4], R24, UP0, gsb0", span(24, 64), span(24, 64)),
    ],
)
def test_registers_of_instructions(instruction, reads, writes):
    """All of these forms but doubles, atomics and halves were compared with ``nvdisasm -plr``, NVIDIA's own account."""
    (read,) = read_sass(listing(instruction), warps=4).instructions
    assert registers_of(read).reads == set(reads)
    assert registers_of(read).writes == set(writes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{product}\nFROBNICATE R1, R2\nEXIT", "it is not known which registers FROBNICATE R1, R2"),
        ("{product}\nFADD P0, P1\nEXIT", "no register for the result"),
        ("{product}\nHMMA.884.F32 R8, R4, R2, R12\nEXIT", "unknown tensor instruction|not known which registers"),
        ("{product}\nBSYNC B0\nEXIT", "not known where BSYNC B0 leads"),
        ("HGMMA.SP.64x64x16.F32 R24, R4, gdesc[UR4], R24, gsb0\nEXIT", "unknown form of matrix product"),
        ("HGMMA.64x64x16.F32 R24, R4, gdesc[UR4], R88, gsb0\nEXIT", "unknown form of matrix product"),
        ("HGMMA.64x64x16.F32 R24, R4, gdesc[UR4], R24, gsb1\nEXIT", "unknown form of matrix product"),
        ("{product}\nWARPGROUP.DEPBAR.GE gsb0, 0x1\nEXIT", "unknown instruction of warp groups"),
        ("{product}\nWARPGROUP.DEPBAR.LE gsb1, 0x1\nEXIT", "unknown instruction of warp groups"),
        ("{product}\nWARPGROUP.FROB\nEXIT", "unknown instruction of warp groups"),
        ("{product}\nCALL.REL.NOINC `(f)\nEXIT\nf:\nRET.REL.NODEC R4 `(f)", "a call"),
        ("{product}\nBRA `(.L_x_9)", "not known where BRA"),
        ("{product}\nNOP", "goes on behind its end"),
        ("{product}\n0x1234\nEXIT", "a line of another form"),
    ],
)
def test_what_is_not_understood_is_refused(text, message):
    with pytest.raises(UnreadableCodeError, match=message):
        found(text.format(product=PRODUCT))


def test_code_without_such_products_has_none():
    assert found("HMMA.16816.F32.BF16 R8, R4, R2, R12\nMOV R4, R0\nFROBNICATE R1\nEXIT") == []


def test_a_hazard_is_said_in_words(tmp_path, capsys):
    text = listing(f"{PRODUCT}\n{LOAD}\nFADD R0, R24, R55\n{WAIT.format(0)}\nEXIT")
    hazards = find_hazards(read_sass(text, warps=4))
    assert str(hazards[0]) == (
        f"0010 {LOAD}: writes the operand (R4, R5, R6, R7) of a product in flight, 0000 {PRODUCT}"
    )
    assert count_hazards(hazards) == 2
    assert str(why_hazardous(read_sass(text, 4))).startswith(
        "2 instructions use registers of an unfinished product; 0010"
    )
    bad, good, unknown = tmp_path / "bad.sass", tmp_path / "good.sass", tmp_path / "unknown.sass"
    bad.write_text(text)
    good.write_text(listing("MOV R4, R0\nEXIT"))
    unknown.write_text("nothing of the kind")
    assert main([str(good)]) == 0
    assert "good.sass: no instructions with a hazard" in capsys.readouterr().out
    assert main([str(bad), str(good)]) == 1
    printed = capsys.readouterr().out
    assert "bad.sass: 2 instructions with a hazard" in printed
    assert str(hazards[1]) in printed
    assert main([str(good), str(unknown), str(tmp_path / "absent")]) == 2
    assert "unknown.sass: cannot be checked: the disassembly holds no instructions" in capsys.readouterr().err
