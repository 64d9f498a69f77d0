"""No kernel leaves registers of an unfinished product to chance: what Triton's compiler makes of each, for Hopper."""

import random
import re
import subprocess
from dataclasses import replace
from unittest import mock

import pytest
import torch

triton = pytest.importorskip("triton")
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sdn_triton.aot.assembler import assembler_version
from sdn_triton.aot.compile import TARGETS, ToolError, compile_launch, disassembly
from sdn_triton.aot.examples import example_launches
from sdn_triton.bench.machine_code.control_flow import UnreadableCodeError
from sdn_triton.bench.machine_code.examination import KernelCase, examine
from sdn_triton.bench.machine_code.hazards import Hazard, find_hazards, main
from sdn_triton.bench.machine_code.registers import registers_of
from sdn_triton.bench.machine_code.sass import read_sass
from sdn_triton.bench.tuner.static_ranking import Ranked
from sdn_triton.bench.tuner.trials import Trial, precision_of, units_of
from sdn_triton.options import DifferenceOptions
from sdn_triton.tuning.defaults import Work, all_defaults, default_config
from sdn_triton.tuning.fallback import smaller
from sdn_triton.tuning.kernels import PRODUCT_KERNELS
from sdn_triton.tuning.shapes import LayerShape
from sdn_triton.tuning.spaces import candidates

SM_90 = TARGETS["sm_90"]
ARITHMETICS = ("bf16", "fp16", "tf32")
MENDED = (13, 3)
"""Since this release ptxas leaves the registers of a product in flight alone, and so does what it is given here."""


def assembler() -> tuple[int, ...]:
    version = assembler_version(SM_90)
    if version is None:
        pytest.fail("this triton does not tell its assembler's version")
    return tuple(map(int, version.split(".")))


@triton.jit
def products_kernel(
    a_ptr, b_ptr, c_ptr, n, scale, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, FORM: tl.constexpr
):
    """The sum of n products whose left operand is computed; in a form that waits for each, or takes it as loaded."""
    rows, columns, inner = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    total = tl.zeros((M, N), tl.float32)
    for i in range(n):
        a = tl.load(a_ptr + rows[:, None] * 1024 + (i * K + inner)[None, :])
        b = tl.load(b_ptr + (i * K + inner)[:, None] * 1024 + columns[None, :])
        total = tl.dot(a if FORM == "loaded" else a * a - 1, b, total)
        if FORM == "waiting":
            total *= scale
    tl.store(c_ptr + rows[:, None] * 1024 + columns[None, :], total)


def compiled(form: str, num_stages: int) -> triton.compiler.CompiledKernel:
    constants = {"M": 128, "N": 128, "K": 64, "FORM": form}
    kinds = {"a_ptr": "*fp16", "b_ptr": "*fp16", "c_ptr": "*fp32", "n": "i32", "scale": "fp32"}
    attributes = {(position,): [["tt.divisibility", 16]] for position in range(3)}
    source = ASTSource(products_kernel, {**kinds, **dict.fromkeys(constants, "constexpr")}, constants, attributes)
    options = {"num_warps": 4, "num_stages": num_stages}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def hazards_in(text: str) -> list[Hazard]:
    return find_hazards(read_sass(text, warps=4, copy_bytes=0.0))


def test_the_fault_is_found(tmp_path, capsys):
    """A pipelined loop whose operand is in registers: wrong with an assembler before 13.3, and known to be."""
    kernel = compiled("computed", num_stages=3)
    hazards = hazards_in(disassembly(kernel.asm["cubin"]))
    assert len(re.findall(r"wgmma\.wait_group\.sync\.aligned\s+[1-9]", kernel.asm["ptx"])) > 0
    assert bool(hazards) == (assembler() < MENDED)
    assert all(hazard.use == "writes the operand" for hazard in hazards)
    for hazard in hazards:
        assert set(hazard.registers) <= registers_of(hazard.product).reads & registers_of(hazard.instruction).writes
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(kernel.asm["cubin"])
    assert main([str(binary)]) == int(bool(hazards))
    printed = capsys.readouterr().out
    assert all(str(hazard) in printed for hazard in hazards)


@pytest.mark.parametrize(("form", "num_stages"), [("computed", 1), ("waiting", 3), ("loaded", 3)])
def test_what_is_right_is_not_reported(form, num_stages):
    text = disassembly(compiled(form, num_stages).asm["cubin"])
    assert text.count("HGMMA") > 1
    assert bool(re.search(r"HGMMA\S+ R\d+, R\d+", text)) == (form != "loaded")
    assert hazards_in(text) == []


def hazards_of(kernel, arithmetic, config, **arguments):
    """The hazards of everything that is launched with a configuration."""
    launches = example_launches(kernel, arithmetic, config, **arguments)
    assert launches
    return [str(hazard) for launch in launches for hazard in hazards_in(compile_launch(launch, SM_90).machine_code())]


def work(arithmetic, images=2, rows=64, columns=64):
    can_pair = arithmetic != "tf32"
    return Work(arithmetic, images, rows, columns, channels=256, outputs=256, taps=9, can_pair=can_pair)


USUAL = {
    (kernel, arithmetic): dict.fromkeys(
        replace(default_config(kernel, work(arithmetic, images), SM_90), block_w=16, splits=1) for images in (1, 16)
    )
    for kernel in PRODUCT_KERNELS
    for arithmetic in ("bf16", "tf32")
    if all_defaults(kernel, arithmetic, SM_90)
}
"""What runs 256 channels at 64x64 pixels, one image and many."""


def marks(kernel, arithmetic, config):
    """What is used most is checked each time."""
    return [] if config in USUAL.get((kernel, arithmetic), ()) else [pytest.mark.long]


def name(config):
    tile = f"{config.block_p}x{config.block_c}x{config.block_o}"
    return f"{tile}-{config.num_warps}w-{config.num_stages}s{'-pairs' * config.pairs}"


DEFAULTS = [
    pytest.param(
        kernel,
        arithmetic,
        config,
        marks=marks(kernel, arithmetic, config),
        id=f"{kernel}-{arithmetic}-{name(config)}",
    )
    for kernel in PRODUCT_KERNELS
    for arithmetic in ARITHMETICS
    for config in all_defaults(kernel, arithmetic, SM_90)
]


@pytest.mark.parametrize(("kernel", "arithmetic", "config"), DEFAULTS)
def test_defaults(kernel, arithmetic, config):
    assert hazards_of(kernel, arithmetic, config) == []


def test_the_usual_ones_are_among_the_defaults():
    for (kernel, arithmetic), configs in USUAL.items():
        assert set(configs) <= set(all_defaults(kernel, arithmetic, SM_90)), (kernel, arithmetic)


OPTIONS = {
    "zero_flux": {"options": DifferenceOptions((3, 3), padding=(1, 1), border="zero_flux")},
    "learned-contrast": {"contrast": torch.empty(256, device="meta", dtype=torch.float32)},
    "exponential-5x5-dilation2": {
        "options": DifferenceOptions((5, 5), padding=(4, 4), dilation=(2, 2), diffusivity="exponential")
    },
    "vector": {"options": DifferenceOptions((3, 3), padding=(1, 1), similarity="vector")},
    "contiguous": {"memory_format": torch.contiguous_format},
    "contiguous, copied": {"memory_format": torch.contiguous_format},
    "odd-channels": {"channels": 37, "outputs": 19},
    "beyond-32-bits": {"size": (4096, 4096)},
}


@pytest.mark.parametrize(
    "option",
    [pytest.param(o, marks=[pytest.mark.long] * (o not in ("zero_flux", "learned-contrast"))) for o in OPTIONS],
)
@pytest.mark.parametrize(
    "kernel", ["difference_forward", *(pytest.param(k, marks=pytest.mark.long) for k in PRODUCT_KERNELS[1:])]
)
def test_options(kernel, option):
    """Each changes the loop: its loads, its masks, what it computes."""
    if kernel.startswith("fusion") and option not in ("contiguous", "odd-channels", "beyond-32-bits"):
        pytest.skip("an option of the difference")
    if kernel == "edge_products" and option in ("vector", "contiguous", "contiguous, copied", "odd-channels"):
        pytest.skip("taps have products there")
    arguments = OPTIONS[option]
    sizes = arguments.get("channels", 256), arguments.get("outputs", 256)
    pairs = option not in ("vector", "contiguous", "odd-channels")
    config = default_config(kernel, Work("bf16", 2, 64, 64, *sizes, taps=9, can_pair=pairs), SM_90)
    assert hazards_of(kernel, "bf16", config, **arguments) == []


def sampled(kernel, arithmetic, count):
    """Some of what the tuner tries, of those that prefetch: the same each time, and those in pairs first."""
    found = [config for config in candidates(kernel, work(arithmetic), SM_90) if config.num_stages > 1]
    chosen = random.Random(0).sample(found, min(count, len(found)))
    return sorted(chosen, key=lambda config: not config.pairs)


SAMPLES = [
    pytest.param(kernel, arithmetic, config, marks=marks, id=f"{kernel}-{arithmetic}-{number}")
    for kernel in PRODUCT_KERNELS
    for arithmetic in ARITHMETICS
    if all_defaults(kernel, arithmetic, SM_90)
    for number, config in enumerate(sampled(kernel, arithmetic, 8))
    for marks in [[] if number == 0 and arithmetic == "bf16" and kernel.endswith("forward") else [pytest.mark.long]]
]


@pytest.mark.parametrize(("kernel", "arithmetic", "config"), SAMPLES)
def test_what_the_tuner_may_try(kernel, arithmetic, config):
    assert hazards_of(kernel, arithmetic, config) == [], config


@pytest.mark.long
@pytest.mark.parametrize("kernel", PRODUCT_KERNELS)
def test_what_is_run_where_a_default_does_not(kernel):
    config = smaller(default_config(kernel, work("bf16"), SM_90))
    while config is not None:
        assert hazards_of(kernel, "bf16", config) == [], config
        config = smaller(config)


def test_machine_code_counts_them():
    """The figure of sdn_triton.bench.machine_code is that of the check."""
    case = KernelCase("fusion_forward", "sm_90", "bf16", 256, 256)
    row = examine(case)
    assert row["error"] is None
    assert row["assembler"] == assembler_version(SM_90)
    hazard = Hazard(*[read_sass("/*0000*/ NOP ;", 4).instructions[0]] * 2, "writes the operand", (1,))
    with mock.patch("sdn_triton.bench.machine_code.examination.find_hazards", return_value=[hazard]):
        changed = examine(case)
    assert changed == {**row, "hazards": 1}
    assert Ranked(case.config(), {**row, "hazards": 0}).order < Ranked(case.config(), changed).order


UNIT = "op=fusion,c=64,o=64,h=16,w=16,dtype=fp16"


def trial():
    (unit,) = [unit for unit in units_of([LayerShape.parse(UNIT)], SM_90) if unit.kernel == "fusion_forward"]
    with precision_of(unit.shape):
        return Trial(unit, torch.device("meta")), default_config(unit.kernel, unit.work, SM_90)


def test_the_tuner_looks_before_it_runs():
    tried, config = trial()
    assert tried.why_not_run(replace(config, num_stages=1), SM_90) is None
    with mock.patch(
        "sdn_triton.bench.machine_code.hazards.find_hazards",
        return_value=[mock.Mock(__str__=lambda self: "LDG: wrong")],
    ):
        reason = tried.why_not_run(config, SM_90)
        assert reason == "it is not run: 1 instructions use registers of an unfinished product; LDG: wrong"
        assert tried.why_not_run(config, TARGETS["sm_80"]) is None, "there a product ends before the next instruction"
    with mock.patch("sdn_triton.bench.machine_code.hazards.find_hazards", side_effect=UnreadableCodeError("FROB")):
        assert tried.why_not_run(config, SM_90) == "it is not run: its machine code is not understood: FROB"


def test_no_disassembler_is_said():
    tried, config = trial()
    with (
        mock.patch("sdn_triton.aot.compile.subprocess.run", side_effect=FileNotFoundError("nvdisasm")),
        pytest.raises(ToolError, match="this triton comes without a nvdisasm"),
    ):
        tried.why_not_run(config, SM_90)
    with mock.patch("sdn_triton.aot.compile.disassembly", side_effect=ToolError("no nvdisasm")):
        assert examine(KernelCase("fusion_forward", "sm_90", "bf16", 256, 256))["error"] == "ToolError: no nvdisasm"


def test_a_binary_that_is_none(tmp_path, capsys):
    path = tmp_path / "kernel.cubin"
    path.write_bytes(b"\x7fELF and nothing")
    assert main([str(path)]) == 2
    assert "cannot be checked: nvdisasm cannot read the binary" in capsys.readouterr().err


@pytest.mark.parametrize("kernel", ["difference_forward", "difference_weight_gradient", "fusion_forward"])
def test_registers_are_those_that_the_disassembler_sees(kernel, tmp_path):
    """``nvdisasm -plr`` marks for each instruction what it reads (v), writes (^) or both (x); not every release can."""
    (launch, *_) = example_launches(kernel, "bf16", default_config(kernel, work("bf16"), SM_90))
    path = tmp_path / "kernel.cubin"
    path.write_bytes(compile_launch(launch, SM_90).assembly["cubin"])
    tool = triton.knobs.nvidia.nvdisasm.path
    run = subprocess.run([tool, "-c", "-plr", "-lrm", "narrow", path], capture_output=True, text=True)
    if run.returncode or "// |" not in run.stdout:
        pytest.skip(f"this nvdisasm cannot show life ranges: {run.stderr.strip().splitlines()[-1]}")
    compared = 0
    for line in run.stdout.splitlines():
        code, mark, ranges = line.partition("// |")
        if not mark or not re.match(r"\s*/\*[0-9a-f]{4}\*/", code):
            continue
        (instruction,) = read_sass(code, warps=8).instructions
        marks = ranges.partition("|")[0][len("  123 ") - 1 :]
        expected = ({number for number, sign in enumerate(marks) if sign in signs} for signs in ("vx", "^x"))
        found = registers_of(instruction)
        assert [set(found.reads), set(found.writes)] == list(expected), instruction.text
        compared += 1
    assert compared > 300
