"""The instrument that reads machine code, on code that Triton's compiler makes; and the pins of the default kernels."""

import json
import shutil
import subprocess
import sys

import pytest
from support.places import ROOT
from support.sampling import sample

triton = pytest.importorskip("triton")
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sdn_triton.aot.compile import TARGETS, Compiled
from sdn_triton.bench.machine_code.__main__ import main
from sdn_triton.bench.machine_code.control_flow import ControlFlow
from sdn_triton.bench.machine_code.examination import KernelCase, examine, read_code
from sdn_triton.bench.machine_code.kernel_cost import Block, cost_of, hot_loop
from sdn_triton.bench.machine_code.kernel_work import KERNELS, KernelWork
from sdn_triton.bench.machine_code.throughput import MULTIPROCESSORS, WARP
from sdn_triton.bench.machine_code.timeline.hopper import Hopper
from sdn_triton.bench.machine_code.timeline.simulation import SimulatedMultiprocessor
from sdn_triton.bench.machine_code.timeline.trip import Tiles, trips_of
from sdn_triton.bench.yardstick.other_ways import PRODUCT_SHARE
from sdn_triton.tuning.kernels import DEPTHWISE_KERNELS

# What the hot loops issue for one difference element: bfloat16, channels last, C = O = 256 and 128, the default
# configurations, by triton 3.7. A kernel that gets better by more than the margin below wants its pin lowered here.
PINS = {
    ("difference_forward", "sm_80"): (17.75, 17.75),
    ("difference_forward", "sm_90"): (10.38, 10.44),
    ("difference_forward", "sm_100"): (7.70, 7.70),
    ("difference_data_gradient", "sm_80"): (17.72, 17.72),
    ("difference_data_gradient", "sm_90"): (17.59, 17.59),
    ("difference_data_gradient", "sm_100"): (13.66, 13.66),
    ("difference_weight_gradient", "sm_80"): (16.72, 16.72),
    ("difference_weight_gradient", "sm_90"): (14.41, 11.48),
    ("difference_weight_gradient", "sm_100"): (11.66, 11.66),
    ("block_forward", "sm_80"): (24.50, 17.22),
    ("block_forward", "sm_90"): (10.66, 10.53),
    ("depthwise_forward", "sm_80"): (9.97, 9.97),
    ("depthwise_forward", "sm_90"): (9.97, 9.97),
    ("depthwise_data_gradient", "sm_80"): (21.19, 21.19),
    ("depthwise_data_gradient", "sm_90"): (21.31, 21.31),
    ("depthwise_weight_gradient", "sm_80"): (10.78, 10.78),
    ("depthwise_weight_gradient", "sm_90"): (10.81, 10.81),
}
# The same for other tensors: dtype and memory format come behind kernel and architecture.
PINS_OF_OTHERS = {
    ("difference_forward", "sm_80", "bf16", "contiguous"): (32.75, 26.19),
    ("difference_forward", "sm_90", "bf16", "contiguous"): (25.19, 25.19),
    ("difference_data_gradient", "sm_80", "bf16", "contiguous"): (39.06, 39.06),
    ("difference_data_gradient", "sm_90", "bf16", "contiguous"): (38.81, 38.81),
    ("difference_weight_gradient", "sm_80", "bf16", "contiguous"): (44.31, 40.25),
    ("difference_weight_gradient", "sm_90", "bf16", "contiguous"): (38.94, 38.94),
    ("difference_forward", "sm_80", "tf32", "channels_last"): (15.56, 15.56),
    ("difference_forward", "sm_90", "tf32", "channels_last"): (18.94, 18.94),
    ("difference_data_gradient", "sm_80", "tf32", "channels_last"): (19.06, 19.06),
    ("difference_data_gradient", "sm_90", "tf32", "channels_last"): (19.00, 19.00),
    ("difference_weight_gradient", "sm_80", "tf32", "channels_last"): (68.75, 47.19),
    ("difference_weight_gradient", "sm_90", "tf32", "channels_last"): (29.94, 25.31),
    ("difference_forward", "sm_100", "tf32", "channels_last"): (17.44, 16.62),
    ("difference_weight_gradient", "sm_100", "tf32", "channels_last"): (29.62, 26.19),
    ("difference_forward", "sm_80", "tf32", "contiguous"): (21.62, 21.62),
    ("difference_forward", "sm_90", "tf32", "contiguous"): (23.88, 23.88),
    ("difference_data_gradient", "sm_80", "tf32", "contiguous"): (30.62, 30.62),
    ("difference_data_gradient", "sm_90", "tf32", "contiguous"): (30.88, 30.88),
    ("difference_weight_gradient", "sm_80", "tf32", "contiguous"): (66.62, 42.12),
    ("difference_weight_gradient", "sm_90", "tf32", "contiguous"): (38.44, 38.44),
}
MARGIN = 1.1
# Two packed subtractions for two elements, the square and the sum, the reciprocal root, the product: less than this
# cannot be a difference, whatever the compiler does, and the instrument has lost instructions.
LEAST = 3.0


@pytest.mark.skipif(not triton.__version__.startswith("3.7."), reason="the pins are those of triton 3.7")
@pytest.mark.parametrize("channels", sample([256, 128], lambda channels: channels == 256), ids="C{}".format)
@pytest.mark.parametrize(("kernel", "arch"), PINS, ids=lambda name: name)
@pytest.mark.sampled(6)
def test_the_default_kernels_issue_no_more_than_they_did(kernel, arch, channels):
    check_pin(KernelCase(kernel, arch, "bf16", channels, channels), PINS[kernel, arch][channels == 128])


@pytest.mark.skipif(not triton.__version__.startswith("3.7."), reason="the pins are those of triton 3.7")
@pytest.mark.parametrize("channels", sample([256, 128], lambda channels: channels == 256), ids="C{}".format)
@pytest.mark.parametrize("pinned", PINS_OF_OTHERS, ids="-".join)
@pytest.mark.sampled(3)
def test_the_default_kernels_issue_no_more_than_they_did_for_other_tensors(pinned, channels):
    kernel, arch, arithmetic, memory_format = pinned
    case = KernelCase(kernel, arch, arithmetic, channels, channels, memory_format)
    check_pin(case, PINS_OF_OTHERS[pinned][channels == 128])


def check_pin(case, pin):
    row = examine(case, with_range=False)
    assert row["error"] is None
    assert row["fits"]
    assert row["spill_bytes"] == 0
    assert LEAST < row["issued_per_element"] <= MARGIN * pin
    assert row["issued_per_element"] > pin / 1.5, "much better than pinned: lower the pin in this file"
    assert 0.9 < row["special_per_element"] < 2


@pytest.mark.skipif(not triton.__version__.startswith("3.7."), reason="the target is that of triton 3.7")
@pytest.mark.parametrize("channels", sample([256, 128], lambda channels: channels == 256), ids="C{}".format)
def test_the_forward_target(channels):
    """On sm_90 nothing in local memory, all outputs up to 256 in one tile, and weights that are prefetched."""
    row = examine(KernelCase("difference_forward", "sm_90", "bf16", channels, channels))
    config = row["config"]
    assert row["spill_bytes"] == 0
    assert config["block_o"] == channels
    assert config["num_stages"] > 1
    assert row["l2_bytes_per_element"] == 2 * config["block_o"] / config["block_p"]  # the weights, and nothing else


@pytest.mark.skipif(not triton.__version__.startswith("3.7."), reason="the target is that of triton 3.7")
@pytest.mark.parametrize(
    ("kernel", "arithmetic", "most"),
    [
        ("difference_forward", "bf16", 1.5),
        ("difference_forward", "tf32", 1.5),
        ("difference_weight_gradient", "bf16", 2.0),
        ("difference_weight_gradient", "tf32", 2.1),
        ("edge_products", "bf16", 1.5),
        ("edge_products", "tf32", 1.4),
    ],
)
def test_products_run_under_the_next_differences(kernel, arithmetic, most):
    """On Hopper, by the simulation, outside of the loop included."""
    row = examine(KernelCase(kernel, "sm_90", arithmetic, 256, 256), with_range=False)
    assert row["error"] is None
    assert row["spill_bytes"] == 0
    assert row["hazards"] == 0
    assert row["ratio_is"] == "simulated"
    assert row["ratio"] <= most


@pytest.mark.skipif(not triton.__version__.startswith("3.7."), reason="the target is that of triton 3.7")
@pytest.mark.parametrize(
    ("kernel", "arithmetic", "most"),
    [
        ("difference_forward", "tf32", 1.6),
        ("difference_weight_gradient", "bf16", 1.35),
        ("difference_weight_gradient", "tf32", 1.7),
    ],
)
def test_what_older_tensor_cores_are_kept_waiting(kernel, arithmetic, most):
    """The bound on an A100."""
    row = examine(KernelCase(kernel, "sm_80", arithmetic, 256, 256))
    assert row["error"] is None
    assert row["spill_bytes"] == 0
    assert row["ratio"] <= most


@pytest.mark.parametrize("kernel", DEPTHWISE_KERNELS)
def test_depthwise_kernels_load_16_bytes_at_a_time(kernel):
    """Of a number of channels, too, of which the compiler knows nothing."""
    words = {"pairs": True, "block_p": 32, "block_c": 32, "block_o": 32, "num_warps": 4}
    row = examine(KernelCase(kernel, "sm_90", "bf16", 40, 40, overrides=tuple(words.items())))
    assert row["error"] is None
    assert row["load_bits"].keys() == {"128"}


@pytest.mark.parametrize(("l2_bytes", "reached"), [(24.0, 0.5), (38.0, PRODUCT_SHARE), (48.0, 1.0)], ids=str)
@pytest.mark.parametrize("stages", [3, 4], ids="stages{}".format)
def test_a_plain_product_is_simulated_as_it_is_known_to_run(stages, l2_bytes, reached):
    """The share of the tensor cores' rate in tiles of 128x256x64, by what the second-level cache gives."""
    m, n, k = 128, 256, 64
    code = code_of(products_kernel, "sm_90", 8, dtype="bf16", num_stages=stages, M=m, N=n, K=k, ROOTS=False)
    block = Block(256, pixels=m, channels=k, outputs=n)
    work = KernelWork(block=k, products=1, steps=16, repeats=1, memory=0.0, streamed=0.0, has_differences=False)
    hot = hot_loop(code, work, block)
    played = SimulatedMultiprocessor(trips_of(hot.way, code, 8, Tiles()), 8, 1, 4096.0, Hopper(l2_bytes=l2_bytes)).run(
        16, 16
    )
    assert hot.steps * 2 * m * n * k / 4096 / played == pytest.approx(reached, abs=0.02)


def test_a_block_moves_the_least_there_is():
    """Two inputs and an output once; in two kernels the response too, out and in, and the input a second time."""
    row = {k: examine(KernelCase(k, "sm_90", "bf16", 64, 96)) for k in ("block_forward", "difference_forward")}
    assert row["block_forward"]["least_bytes_per_pixel"] == (2 * 64 + 96) * 2
    assert row["difference_forward"]["least_bytes_per_pixel"] == (2 * 64 + 96) * 2
    fusion = examine(KernelCase("fusion_forward", "sm_90", "bf16", 64, 96))
    assert fusion["least_bytes_per_pixel"] == (64 + 64 + 96) * 2  # the instrument's fusion has R = C
    for figures in (*row.values(), fusion):
        assert figures["l2_bytes_per_pixel"] > figures["least_bytes_per_pixel"]


# The others have the instructions of sm_80, which the pins above are about.
@pytest.mark.parametrize("arch", sample(MULTIPROCESSORS, lambda arch: arch in ("sm_90", "sm_100")))
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.sampled(12)
def test_every_kernel_is_understood_on_every_target(kernel, arch):
    channels = 128 if kernel == "block_forward" else 256  # as many responses as a tile holds everywhere
    row = examine(KernelCase(kernel, arch, "bf16", channels, channels))
    assert row["error"] is None
    assert row["issued_per_element"] > LEAST
    assert row["ratio"] >= row["floor_ratio"] > 0.5
    assert row["clocks_per_element"][row["bound"]] == max(row["clocks_per_element"].values())
    parts = ("arithmetic", "integer", "memory", "special", "tensor", "other")
    assert row["issued_per_element"] == pytest.approx(sum(row[f"{part}_per_element"] for part in parts))


@triton.jit
def roots_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    """One load, one reciprocal root and one sum for each number."""
    offsets = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(n):
        total += tl.rsqrt(tl.load(x_ptr + i * BLOCK + offsets))
    tl.store(y_ptr + offsets, total)


@triton.jit
def products_kernel(a_ptr, b_ptr, c_ptr, n, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, ROOTS: tl.constexpr):
    """The sum of n products; with ROOTS each product is followed by a reciprocal root of every sum."""
    rows, columns, inner = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    total = tl.zeros((M, N), tl.float32)
    for i in range(n):
        part = tl.zeros((M, N), tl.float32)
        for j in range(n if ROOTS else 1):
            at = (i + j) * K
            a = tl.load(a_ptr + rows[:, None] * 1024 + (at + inner)[None, :])
            b = tl.load(b_ptr + (at + inner)[:, None] * 1024 + columns[None, :])
            part = tl.dot(a, b, part)
        total += tl.rsqrt(part) if ROOTS else part
    tl.store(c_ptr + rows[:, None] * 1024 + columns[None, :], total)


@triton.jit
def copies_kernel(a_ptr, b_ptr, c_ptr, n, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    """The sum of n products whose operands come by bulk copies."""
    a_tiles = tl.make_tensor_descriptor(a_ptr, [1024, 1024], [1024, 1], [M, K])
    b_tiles = tl.make_tensor_descriptor(b_ptr, [1024, 1024], [1024, 1], [K, N])
    rows, columns = tl.arange(0, M), tl.arange(0, N)
    total = tl.zeros((M, N), tl.float32)
    for i in range(n):
        total = tl.dot(a_tiles.load([0, i * K]), b_tiles.load([i * K, 0]), total)
    tl.store(c_ptr + rows[:, None] * 1024 + columns[None, :], total)


def compiled(kernel, arch, num_warps=4, num_stages=1, dtype="fp16", **constants):
    target = TARGETS[arch]
    pointers = {
        name: "*fp32" if name in "x_ptr y_ptr c_ptr" else f"*{dtype}" for name in kernel.arg_names if "ptr" in name
    }
    source = ASTSource(
        kernel,
        signature={**pointers, "n": "i32", **dict.fromkeys(constants, "constexpr")},
        constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
        attrs={(index,): [["tt.divisibility", 16]] for index in range(len(pointers))},
    )
    binary = triton.compile(
        source,
        target=GPUTarget(target.kind, target.architecture, WARP),
        options={"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True},
    )
    return Compiled(kernel.__name__, target, binary.asm, binary.metadata.shared, WARP * num_warps, {})


def code_of(kernel, arch, num_warps=4, **settings):
    return read_code(compiled(kernel, arch, num_warps, **settings), num_warps, "fp16")


@pytest.mark.parametrize("arch", MULTIPROCESSORS)
@pytest.mark.sampled(4)
def test_a_loop_that_can_be_counted_by_hand(arch):
    """Each thread has four floats: one load of 128 bits, four roots and four additions, however often unrolled."""
    threads = 4 * WARP
    flow = ControlFlow(code_of(roots_kernel, arch, BLOCK=4 * threads))
    loops = [list(flow.path(loop).everything()) for loop in flow.all_loops()]
    assert loops
    for path in loops:
        loads = [instruction for instruction in path if instruction.global_bits]
        roots = [instruction for instruction in path if instruction.is_inverse_root]
        assert len(loads) >= 1
        assert {load.global_bits for load in loads} == {128}
        assert sum(load.l1_bytes for load in loads) == 16 * threads * len(loads)
        assert len(roots) == 4 * len(loads)
    work = KernelWork(block=1, products=0, steps=8, repeats=1, memory=0.0, streamed=0.0)
    cost = cost_of(flow.code, work, Block(threads, pixels=4 * threads, channels=1, outputs=1))
    assert cost.elements_per_trip % 4 == 0
    assert cost.counts["special"] == 1
    assert cost.l1_bytes == 4
    # The addition, and where roots of small numbers are made exact two or three instructions more.
    assert 1 <= cost.counts["fp"] + 2 * cost.counts["pair"] <= 5
    assert 2.25 <= cost.issued <= 12


TILES = [(4, (64, 64, 64)), (8, (128, 64, 32)), (4, (128, 128, 64))]


@pytest.mark.parametrize(("num_warps", "tile"), sample(TILES, lambda num_warps, tile: num_warps == 8), ids=str)
@pytest.mark.parametrize("arch", MULTIPROCESSORS)
@pytest.mark.sampled(3)
def test_products_of_a_loop(arch, num_warps, tile):
    m, n, k = tile
    flow = ControlFlow(code_of(products_kernel, arch, num_warps, M=m, N=n, K=k, ROOTS=False))
    paths = [list(flow.path(loop).everything()) for loop in flow.all_loops()]
    paths = [path for path in paths if sum(instruction.flop for instruction in path)]
    assert paths
    for path in paths:  # more than one where the compiler unrolls
        unrolled = sum(instruction.flop for instruction in path) / (2 * m * n * k)
        assert unrolled in (1, 2, 4, 8)
        assert sum(instruction.l1_bytes for instruction in path) == unrolled * 2 * (m + n) * k


@pytest.mark.parametrize("arch", MULTIPROCESSORS)
@pytest.mark.sampled(3)
def test_products_in_an_inner_loop(arch):
    """Eight products and one root for each of 64 x 64 sums: the inner loop has eight trips, or less if unrolled."""
    code = code_of(products_kernel, arch, M=64, N=64, K=64, ROOTS=True)
    threads = 4 * WARP
    block = Block(threads, pixels=64, channels=64, outputs=64)
    cost = cost_of(code, KernelWork(block=64, products=8, steps=8, repeats=1, memory=0.0, streamed=0.0), block)
    assert cost.elements_per_trip == 64 * 64 / threads
    assert cost.flop == 8 * 2 * 64
    assert cost.l1_bytes == 8 * 2 * (64 + 64) * 64 / (64 * 64)
    assert cost.counts["special"] == 1


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100", "sm_120"])
def test_pipelined_loads_go_past_the_first_cache(arch):
    flow = ControlFlow(code_of(products_kernel, arch, num_stages=3, M=64, N=64, K=64, ROOTS=False))
    paths = [list(flow.path(loop).everything()) for loop in flow.all_loops()]
    (path,) = [path for path in paths if sum(instruction.flop for instruction in path)]
    assert sum(instruction.flop for instruction in path) == 2 * 64**3
    assert sum(instruction.l2_bytes for instruction in path) == 2 * (64 + 64) * 64
    assert not sum(instruction.l1_bytes for instruction in path)


@pytest.mark.parametrize("arch", ["sm_90", "sm_100"])
def test_bulk_copies_go_past_the_first_cache(arch):
    flow = ControlFlow(code_of(copies_kernel, arch, num_stages=3, M=64, N=64, K=64))
    paths = [list(flow.path(loop).everything()) for loop in flow.all_loops()]
    (path,) = [path for path in paths if sum(instruction.flop for instruction in path)]
    assert sum(instruction.flop for instruction in path) == 2 * 64**3
    assert sum(instruction.l2_bytes for instruction in path) == 2 * (64 + 64) * 64


def test_what_does_not_fit_is_reported():
    overrides = (("block_p", 128), ("block_c", 128), ("block_o", 256), ("num_warps", 8), ("num_stages", 4))
    row = examine(KernelCase("difference_forward", "sm_120", "bf16", 256, 256, overrides=overrides))
    assert row["error"] is None
    assert row["shared_bytes"] > row["shared_limit"] == 101_376
    assert not row["fits"]
    assert row["blocks_per_sm"] == 0
    assert row["spill_bytes"] > 0


SELECTION = ["--kernel", "difference_forward", "--arch", "sm_90", "--channels", "128"]


def test_tables_and_json(tmp_path, capsys):
    output = tmp_path / "rows.json"
    config = "block_p=64,num_warps=4,num_stages=1"
    assert main([*SELECTION, "--outputs", "64", "--config", config, "--json", str(output)]) == 0
    (row,) = json.loads(output.read_text())
    assert {
        "kernel",
        "arch",
        "dtype",
        "config",
        "registers",
        "spill_bytes",
        "shared_bytes",
        "fits",
        "blocks_per_sm",
        "issued_per_element",
        "tensor_per_element",
        "special_per_element",
        "ratio",
        "ratio_is",
        "floor_ratio",
    } <= row.keys()
    assert (row["channels"], row["outputs"]) == (128, 64)
    assert (row["config"]["block_p"], row["config"]["source"]) == (64, "explicit")
    printed = capsys.readouterr().out
    assert "difference_forward sm_90 bf16 128->64 [64x" in printed
    assert f"{row['issued_per_element']:.2f}" in printed


def test_an_impossible_configuration_is_refused(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main([*SELECTION, "--config", "block_p=48"])
    assert exit_info.value.code == 2
    assert "powers of two" in capsys.readouterr().err


@pytest.fixture
def repository(tmp_path):
    """A repository of its own with this code in it."""
    root = tmp_path / "repository"
    root.mkdir()
    for name in ("bench", "kernels", "sdn_triton"):
        shutil.copytree(
            ROOT / name, root / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "results")
        )
    for arguments in (
        ["init", "--quiet"],
        ["add", "."],
        ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", "then"],
    ):
        subprocess.run(["git", *arguments], cwd=root, check=True)
    return root


def against(repository, revision, *options):
    command = [sys.executable, "-m", "sdn_triton.bench.machine_code", *SELECTION, "--against", revision, *options]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_against_another_revision(repository, tmp_path):
    defaults = repository / "sdn_triton" / "tuning" / "defaults.py"
    unchanged = defaults.read_text()
    changed = unchanged + "\n\nbefore = default_config\n\n\ndef default_config(*args):\n"
    defaults.write_text(
        changed + "    return replace(before(*args), block_p=32, num_warps=4, block_c=32, pairs=False)\n"
    )
    output = tmp_path / "rows.json"
    run = against(repository, "HEAD", "--json", str(output))
    assert run.returncode == 0, run.stderr
    (row,) = json.loads(output.read_text())
    assert row["config"]["block_p"] == 32
    assert row["against"]["config"]["block_p"] > 32
    then, now = row["against"]["issued_per_element"], row["issued_per_element"]
    assert f"{then:.2f} -> {now:.2f}" in run.stdout
    left = subprocess.run(["git", "worktree", "list"], cwd=repository, capture_output=True, text=True).stdout
    assert len(left.splitlines()) == 1


@pytest.mark.long
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_against_a_revision_without_kernels(repository):
    run = against(repository, "no-such-revision")
    assert run.returncode == 2
    assert "--against no-such-revision: there is no such revision" in run.stderr
    (repository / "kernels" / "difference_forward.py").unlink()
    commit = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-am", "now"]
    subprocess.run(commit, cwd=repository, check=True)
    subprocess.run(["git", "checkout", "--quiet", "HEAD~1", "--", "kernels"], cwd=repository, check=True)
    run = against(repository, "HEAD")
    assert run.returncode == 1
    assert "--against HEAD: its kernels cannot be examined" in run.stderr
    assert "difference_forward" in run.stderr
