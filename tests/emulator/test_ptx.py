"""Text of PTX, as Triton writes it, into instructions."""

import pytest

from emulator.handwritten import module
from emulator.instructions import Unsupported
from emulator.program import Program
from emulator.ptx import Address, Immediate, Register, Special, Symbol, Vector, number, parse, split

TEXT = """
//
.version 8.4
.target sm_90a
.address_size 64
	// .globl	some_kernel             // -- Begin function
.extern .shared .align 16 .b8 global_smem[];
.shared .align 8 .b8 barriers[24];
.visible .entry some_kernel(
	.param .u64 .ptr .global .align 1 some_kernel_param_0,
	.param .u32 some_kernel_param_1,
	.param .u64 .ptr .global .align 1 some_kernel_param_2
)
.reqntid 128, 1, 1
{
	.reg .pred 	%p<3>;
	.reg .b32 	%r<4>;
	.reg .b64 	%rd<2>;
	.loc	1 5 0                           // file.py:5:0
$L__func_begin0:
	ld.param.b64 	%rd1, [some_kernel_param_0+8];
	{
	.reg .b32 %r1; // another one
	mov.u32 %r1, %tid.x; mov.b64 {%r2, _}, %rd1;
	}
	@!%p1 st.global.v2.b32 [ %rd1 + -16 ], { %r1, %r2 };
	shfl.sync.idx.b32 	%r2|%p2, %r1, 0f3F800000, -0x1f, -1;
	bra.uni 	$L__func_begin0;
	// begin inline asm
	wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16
		{%r1}, %rd1, %rd1, %p1, 1, 1, 0, 0;
	// end inline asm
	ret;
}
	.section	.debug_abbrev
	{
.b8 1
	}
"""


def test_a_kernel() -> None:
    kernel = parse(TEXT)
    assert (kernel.name, kernel.target, kernel.threads) == ("some_kernel", "sm_90a", 128)
    assert kernel.parameters == [(kind, f"some_kernel_param_{n}") for n, kind in enumerate(("u64", "u32", "u64"))]
    assert kernel.shared == {"global_smem": (0, 16), "barriers": (24, 8)}
    assert kernel.labels == {"$L__func_begin0": 0}
    assert [register.width for register in kernel.registers] == [1] * 3 + [32] * 4 + [64] * 2 + [32]
    assert [i.opcode for i in kernel.instructions] == ["ld", "mov", "mov", "st", "shfl", "bra", "wgmma", "ret"]
    assert [i.number for i in kernel.instructions] == list(range(8))


def test_operands() -> None:
    kernel = parse(TEXT)
    load, inner, unpack, store, shuffle, branch, product, _ = kernel.instructions
    by_name = {register.name: register for register in kernel.registers[:-1]}
    assert load.operands == (by_name["%rd1"], Address(Symbol("some_kernel_param_0"), 8))
    assert inner.operands == (kernel.registers[-1], Special("tid.x"))
    assert kernel.registers[-1] == Register(9, 32, "%r1")
    assert unpack.operands[0] == Vector((by_name["%r2"], Symbol("_")))
    assert store.operands == (Address(by_name["%rd1"], -16), Vector((by_name["%r1"], by_name["%r2"])))
    assert (store.predicate, store.negated) == (by_name["%p1"], True)
    assert store.modifiers == ("global", "v2", "b32")
    assert shuffle.operands[0] == Vector((by_name["%r2"], by_name["%p2"]))
    assert shuffle.operands[2:] == (Immediate(0x3F800000, True), Immediate(-31), Immediate(-1))
    assert branch.operands == (Symbol("$L__func_begin0"),)
    assert TEXT.splitlines()[product.line - 1].strip().startswith("wgmma")
    assert str(product).startswith(f"line {product.line}: wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{%r1}}")


def test_words() -> None:
    assert number("0x1F") == Immediate(31)
    assert number("-5") == Immediate(-5)
    assert number("3U") == Immediate(3)
    assert number("0dC000000000000000") == Immediate(0xC000000000000000, True)
    assert number("%r1") is None
    assert number("abc") is None
    assert split("a, {b, c}, [d+4], e") == ["a", "{b, c}", "[d+4]", "e"]
    assert split("") == []


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "no entry"), (TEXT.replace(".reg .b64", ".local .b64"), ".local"), (TEXT[: TEXT.index("ret;")], "end")],
)
def test_what_is_not_understood(text: str, says: str) -> None:
    with pytest.raises(SyntaxError, match=says):
        parse(text)


@pytest.mark.parametrize(
    "instruction",
    [
        "nanosleep.u32 %r1;",
        "add.rz.f32 %f1, %f2, %f3;",
        "fma.rn.f64 %rd1, %rd2, %rd3, %rd4;",
        "ld.local.b32 %r1, [%rd1];",
        "atom.global.cas.b32 %r1, [%rd0], %r2, %r3;",
        "mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 {%r1}, {%r2}, {%r3}, {%r4};",
        "bar.arrive 0, 64;",
        "shfl.sync.idx.b32 %r1|%p1, %r2, 0, 31, -1;",
        "add.s32 %r1, %r2, %rs1;",
    ],
)
def test_what_is_not_known_is_said(instruction: str) -> None:
    """Never a wrong guess: an instruction or a form of it that is not known stops the translation."""
    with pytest.raises(Unsupported):
        [block.run for block in Program(parse(module(instruction)), 0).blocks]
