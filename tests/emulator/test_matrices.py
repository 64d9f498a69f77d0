"""Matrix instructions against the tables of the PTX manual, written down here element by element."""

import numpy as np
import pytest
import torch

from emulator import layouts
from emulator.handwritten import execute, module
from emulator.machine import Mode
from emulator.ptx import parse

RANDOM = np.random.default_rng(0)
TORCH = {"f16": torch.float16, "bf16": torch.bfloat16, "tf32": torch.float32}


def words(matrix: torch.Tensor, places: list[list[tuple[int, ...]]]) -> torch.Tensor:
    """A register of every lane from the elements whose places it holds."""
    found = []
    for lane in places:
        bits = [int(matrix[place].view(torch.int16 if matrix.element_size() == 2 else torch.int32)) for place in lane]
        size = 8 * matrix.element_size()
        word = sum((b & (2**size - 1)) << size * n for n, b in enumerate(bits))
        found.append(np.array(word, np.uint32).view(np.int32))
    return torch.from_numpy(np.array(found, np.int32))


def a_places(register: int, kind: str) -> list[list[tuple[int, int]]]:
    """Row and column of A: ``groupID`` is ``lane / 4``."""
    if kind == "tf32":
        return [[(lane // 4 + 8 * (register % 2), lane % 4 + 4 * (register // 2))] for lane in range(32)]
    row, column = 8 * (register % 2), 8 * (register // 2)
    return [[(lane // 4 + row, 2 * (lane % 4) + part + column) for part in (0, 1)] for lane in range(32)]


def b_places(register: int, kind: str) -> list[list[tuple[int, int]]]:
    if kind == "tf32":
        return [[(lane % 4 + 4 * register, lane // 4)] for lane in range(32)]
    return [[(2 * (lane % 4) + part + 8 * register, lane // 4) for part in (0, 1)] for lane in range(32)]


def c_place(lane: int, register: int) -> tuple[int, int]:
    """Of D of any width: four registers for eight columns."""
    eighth, part = divmod(register, 4)
    return lane // 4 + 8 * (part // 2), 8 * eighth + 2 * (lane % 4) + part % 2


def tensor_of(kind: str, *shape: int) -> torch.Tensor:
    """Numbers that all kinds hold exactly, and whose products sum up exactly in float32."""
    return torch.from_numpy(RANDOM.integers(-8, 9, shape)).to(TORCH[kind])


@pytest.mark.parametrize("kind", ["f16", "bf16", "tf32"])
def test_mma(kind: str) -> None:
    depth = 8 if kind == "tf32" else 16
    a, b = tensor_of(kind, 16, depth), tensor_of(kind, depth, 8)
    c = torch.randn(16, 8).round(decimals=1)
    registers = [words(a, a_places(k, kind)) for k in range(4)] + [words(b, b_places(k, kind)) for k in range(2)]
    registers += [words(c, [[c_place(lane, k)] for lane in range(32)]) for k in range(4)]
    memory = torch.cat(registers)
    loads = "\n".join(f"ld.global.b32 %r{10 + k}, [%rd9+{128 * k}];" for k in range(10))
    stores = "\n".join(f"st.global.b32 [%rd9+{128 * k}], %r{20 + k};" for k in range(4))
    shape = "m16n8k8" if kind == "tf32" else "m16n8k16"
    execute(
        f"""mad.wide.u32 %rd9, %r0, 4, %rd0;
        {loads}
        mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 {{%r20,%r21,%r22,%r23}}, {{%r10,%r11,%r12,%r13}},
            {{%r14,%r15}}, {{%r16,%r17,%r18,%r19}};
        {stores}""",
        memory,
        threads=32,
    ).raise_if_any()
    expected = (a.double() @ b.double() + c.double()).float()
    found = memory[: 4 * 32].view(torch.float32).view(4, 32)
    for lane in range(32):
        for k in range(4):
            assert found[k, lane] == expected[c_place(lane, k)]


@pytest.mark.parametrize("trans", ["", ".trans"])
def test_ldmatrix_and_stmatrix(trans: str) -> None:
    """Thread ``i`` receives elements ``2 (i % 4)`` and the next of row ``i / 4``, or of column ``i / 4``."""
    tiles = torch.from_numpy(RANDOM.integers(0, 2**15, (4, 8, 8)).astype(np.int16))
    memory, copied = tiles.view(-1).view(torch.int32).clone(), torch.zeros(128, dtype=torch.int32)
    found = torch.zeros(128, dtype=torch.int32)
    execute(
        f"""mad.wide.u32 %rd9, %r0, 16, %rd0;
        ld.global.v4.b32 {{%r10, %r11, %r12, %r13}}, [%rd9];
        mad.lo.u32 %r9, %r0, 16, %r2;
        st.shared.v4.b32 [%r9], {{%r10, %r11, %r12, %r13}};
        ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r20, %r21, %r22, %r23}}, [%r9];
        mad.wide.u32 %rd8, %r0, 4, %rd1;
        st.global.b32 [%rd8], %r20;
        st.global.b32 [%rd8+128], %r21;
        st.global.b32 [%rd8+256], %r22;
        st.global.b32 [%rd8+384], %r23;
        stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%r9+512], {{%r20, %r21, %r22, %r23}};
        ld.shared.v4.b32 {{%r10, %r11, %r12, %r13}}, [%r9+512];
        mad.wide.u32 %rd7, %r0, 16, %rd2;
        st.global.v4.b32 [%rd7], {{%r10, %r11, %r12, %r13}};""",
        memory,
        found,
        copied,
        threads=32,
    ).raise_if_any()
    assert torch.equal(copied, memory)
    halves = found.view(torch.int16).view(4, 32, 2)
    for tile in range(4):
        for lane in range(32):
            source = tiles[tile].T if trans else tiles[tile]
            assert halves[tile, lane].tolist() == source[lane // 4, 2 * (lane % 4) :][:2].tolist()


@pytest.mark.parametrize("swizzle", [16, 32, 64, 128])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_descriptors(swizzle: int, is_transposed: bool) -> None:
    """Rows of ``swizzle`` bytes; in every 128 bytes the sixteen-byte pieces change places with the row's number.

    Neighbours in memory are elements of one line, or lines where the operand is transposed.
    """
    start, leading, stride, lines, depth = 2048, 4096, 8192, 64, 16
    if is_transposed and swizzle < 128:
        lines = swizzle // 2 * 2
    found = layouts.start_addresses(start, leading, stride, swizzle, lines, depth, 2, is_transposed)
    for line in range(lines):
        for k in range(depth):
            along, across = (line, k) if is_transposed else (k, line)
            piece, inside = divmod(2 * along, 16)
            if swizzle == 16:
                steps = (stride, leading) if is_transposed else (leading, stride)
                logical = piece * steps[0] + across // 8 * steps[1] + across % 8 * 16 + inside
                expected = start + logical
            else:
                pieces = swizzle // 16
                outer, piece = divmod(piece, pieces)
                row = across % 8 * swizzle // 128  # of 128 bytes
                place = across % 8 * swizzle % 128 // 16 + piece
                logical = outer * leading + across // 8 * stride
                expected = start + logical + row * 128 + (place ^ (row % pieces)) * 16 + inside
            assert found[line, k] == expected, (line, k)


WGMMA = """
    mad.wide.u32 %rd9, %r0, 4, %rd0;
    ld.global.b32 %r10, [%rd9];
    ld.global.b32 %r11, [%rd9+512];
    ld.global.b32 %r12, [%rd9+1024];
    ld.global.b32 %r13, [%rd9+1536];
    mad.wide.u32 %rd8, %r0, 2, %rd1;
    ld.global.b16 %rs1, [%rd8];
    mad.lo.u32 %r9, %r0, 2, %r2;
    st.shared.b16 [%r9], %rs1;
    FENCE
    bar.sync 0;
    cvt.u64.u32 %rd7, %r2;
    shr.u64 %rd7, %rd7, 4;
    or.b64 %rd7, %rd7, DESCRIPTOR;
    mov.b32 %r20, 0;
    mov.b32 %r21, 0;
    mov.b32 %r22, 0;
    mov.b32 %r23, 0;
    mov.b32 %r30, 0;
    mov.b32 %r31, 0;
    mov.b32 %r32, 0;
    mov.b32 %r33, 0;
    setp.ne.u32 %p1, %r0, 999;
    ORDER
    wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16
        {%r20,%r21,%r22,%r23}, {%r10,%r11,%r12,%r13}, %rd7, %p1, 1, 1, 0;
    COMMIT
    BETWEEN
    WAIT
    mad.wide.u32 %rd6, %r0, 4, %rd2;
    st.global.b32 [%rd6], %r20;
    st.global.b32 [%rd6+512], %r21;
    st.global.b32 [%rd6+1024], %r22;
    st.global.b32 [%rd6+1536], %r23;
"""
"""A of four warps from registers times B of 8 columns, whose two tiles of 8x8 lie 128 bytes apart."""
SOUND = {
    "FENCE": "fence.proxy.async.shared::cta;",
    "ORDER": "wgmma.fence.sync.aligned;",
    "COMMIT": "wgmma.commit_group.sync.aligned;",
    "BETWEEN": "",
    "WAIT": "wgmma.wait_group.sync.aligned 0;",
    "DESCRIPTOR": str((128 >> 4) << 16 | (256 >> 4) << 32),
}


def wgmma(mode: Mode | None = None, **changed: str):
    """What was found, the result in registers, and A and B."""
    body = WGMMA
    for name, text in (SOUND | changed).items():
        body = body.replace(name, text)
    a, b = tensor_of("bf16", 64, 16), tensor_of("bf16", 8, 16)
    memory = torch.stack(
        [torch.cat([words(a[16 * w : 16 * w + 16], a_places(k, "bf16")) for w in range(4)]) for k in range(4)]
    ).view(-1)
    tiles = b.view(8, 2, 8).transpose(0, 1).contiguous().view(-1)
    result = torch.zeros(4, 128, dtype=torch.int32)
    found = execute(body, memory, tiles.view(torch.int32), result, threads=128, mode=mode)
    return found, result.view(torch.float32), a.float() @ b.float().T


@pytest.mark.parametrize("order", ["lockstep", "random"])
@pytest.mark.parametrize("products", ["early", "late", "latest"])
def test_wgmma(order: str, products: str) -> None:
    found, result, expected = wgmma(Mode(order, products=products))
    assert not found.kinds
    for thread in range(128):
        for k in range(4):
            row, column = c_place(thread % 32, k)
            assert result[k, thread] == expected[16 * (thread // 32) + row, column]


HAZARD, FLIGHT = "register of an unfinished instruction", "in flight at exit"
WGMMA_FAULTS = {
    "no-proxy-fence": ({"FENCE": ""}, {"missing proxy fence"}),
    "fence-of-another-kind": ({"FENCE": "fence.acq_rel.cta;"}, {"missing proxy fence"}),
    "no-wait": ({"WAIT": ""}, {HAZARD, FLIGHT}),
    "wait-for-another": ({"WAIT": "wgmma.wait_group.sync.aligned 1;"}, {HAZARD, FLIGHT}),
    "no-commit": ({"COMMIT": ""}, {HAZARD, FLIGHT}),
    "left-operand-written": ({"BETWEEN": "add.s32 %r11, %r11, 1;"}, {HAZARD}),
    "left-operand-written-with-what-it-holds": ({"BETWEEN": "mov.b32 %r11, %r11;"}, {HAZARD}),
    "sums-read": ({"BETWEEN": "add.s32 %r30, %r22, 1;"}, {HAZARD}),
    "sums-taken-for-the-left-operand": (
        {
            "BETWEEN": "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 "
            "{%r30,%r31,%r32,%r33}, {%r20,%r21,%r22,%r23}, %rd7, %p1, 1, 1, 0;\n wgmma.commit_group.sync.aligned;"
        },
        {HAZARD},
    ),
    "sums-written": ({"BETWEEN": "mov.b32 %r20, 0;"}, {HAZARD}),
    "right-operand-written": ({"BETWEEN": "st.shared.b16 [%r9], %rs1;"}, {"race in shared memory"}),
    "right-operand-never-written": (
        {"DESCRIPTOR": str((512 >> 4) << 16 | (256 >> 4) << 32)},
        {"read of memory that nobody wrote"},
    ),
    "no-wgmma-fence": ({"ORDER": ""}, {"missing wgmma.fence"}),
}
HARMLESS = {
    "left-operand-read": {"BETWEEN": "add.s32 %r30, %r11, 1;"},
    "descriptor-written": {"BETWEEN": "mov.b64 %rd7, 0;"},
    "not-executed": {"BETWEEN": "@!%p1 mov.b32 %r20, 0;"},
    "fence-by-the-reader": {"FENCE": "", "ORDER": "fence.proxy.async.shared::cta;\n wgmma.fence.sync.aligned;"},
}


@pytest.mark.parametrize("name", WGMMA_FAULTS)
def test_faults_of_wgmma(name: str) -> None:
    changed, kinds = WGMMA_FAULTS[name]
    assert set(wgmma(**changed)[0].kinds) == kinds


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_changes_of_wgmma(name: str) -> None:
    assert not wgmma(**HARMLESS[name])[0].kinds


def test_an_unfinished_product_gives_other_results() -> None:
    """What is wrong is wrong in some mode, too."""
    found, result, _ = wgmma(Mode(products="latest"), BETWEEN="mov.b32 %r10, 0;")
    assert found.kinds
    assert not torch.equal(result, wgmma()[1])


def test_the_kernels_here_are_read() -> None:
    kernel = parse(module("bar.sync 0;", 3))
    assert [kind for kind, _ in kernel.parameters] == ["u64"] * 3
