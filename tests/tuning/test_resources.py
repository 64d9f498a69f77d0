"""What the resource model rules out, by itself; against the compiler it stands in tests/aot/test_resources.py."""

from dataclasses import replace

import pytest

from sdn_triton.aot.compile import TARGETS
from sdn_triton.tuning import pipelining
from sdn_triton.tuning.configs import INTERPRETER, KernelConfig, Target
from sdn_triton.tuning.defaults import Work, all_defaults, default_config
from sdn_triton.tuning.kernels import KERNELS, PRODUCT_KERNELS
from sdn_triton.tuning.resources import estimate, why_not
from sdn_triton.tuning.spaces import axes, candidates

CONFIG = KernelConfig(64, 16, 32, 128, num_warps=4, num_stages=1)
WORK = Work("bf16", images=2, rows=128, columns=128, channels=256, outputs=256, taps=9)


@pytest.mark.parametrize(
    ("change", "name", "reason"),
    [
        (dict(num_stages=4, block_c=128), "sm_86", "bytes of shared memory"),
        (dict(block_p=256, block_o=256), "sm_90", "registers a thread"),
        (dict(block_p=256, block_o=256, num_warps=8), "sm_100", "tensor memory"),
        (dict(num_warps=64), "sm_90", "threads of a block"),
        (dict(num_warps=32), "gfx942", "threads of a block"),
        (dict(block_c=8), "sm_90", "shortest side of a matrix product"),
        (dict(block_p=1 << 14, num_warps=32), "sm_100", "larger than"),
    ],
    ids=lambda value: str(value),
)
def test_what_cannot_run_is_said(change, name, reason):
    assert why_not("difference_forward", "bf16", CONFIG, TARGETS[name]) is None
    assert reason in (why_not("difference_forward", "bf16", replace(CONFIG, **change), TARGETS[name]) or "")


@pytest.mark.parametrize(
    ("version", "arithmetic", "name", "stages"),
    [
        ((3, 6), "bf16", "sm_90", {1}),
        ((3, 6), "tf32", "sm_100", {1}),
        ((3, 6), "bf16", "sm_80", {1, 2, 3}),
        ((3, 6), "bf16", "gfx942", {1, 2}),
        ((3, 6), "ieee", "sm_90", {1}),
        ((3, 7), "bf16", "sm_90", {1, 2, 3}),
        (None, "tf32", "sm_90", {1, 3, 4}),
    ],
    ids=str,
)
def test_loops_are_pipelined_where_triton_fences_them(version, arithmetic, name, stages, monkeypatch):
    monkeypatch.setattr(pipelining, "triton_version", lambda: version)
    target = TARGETS[name]
    found = [config for kernel in PRODUCT_KERNELS for config in all_defaults(kernel, arithmetic, target)]
    assert {config.num_stages for config in found} == stages
    work = WORK._replace(arithmetic=arithmetic, can_pair=arithmetic == "bf16")
    assert default_config.__wrapped__("difference_forward", work, target).num_stages in stages
    reason = why_not("fusion_forward", arithmetic, replace(CONFIG, num_stages=2), target) or ""
    assert ("leaves out the fence" in reason) == (
        version == (3, 6) and name in ("sm_90", "sm_100") and arithmetic != "ieee"
    )


def test_an_unknown_gpu_has_what_all_known_ones_have():
    config = replace(CONFIG, num_stages=4, block_c=64)
    assert why_not("difference_forward", "bf16", config, TARGETS["sm_90"]) is None
    assert "65536" in (why_not("difference_forward", "bf16", config, Target("cuda", 130, 100)) or "")


def test_the_interpreter_has_no_limits():
    assert why_not("difference_forward", "ieee", replace(CONFIG, block_p=1 << 16, num_stages=9), INTERPRETER) is None


def test_occupancy_goes_down_with_what_a_block_takes():
    target = TARGETS["sm_90"]
    blocks = [
        estimate("difference_forward", "bf16", config, target).blocks
        for config in (CONFIG, replace(CONFIG, block_o=256), replace(CONFIG, num_stages=3, block_c=64, block_o=256))
    ]
    assert blocks == sorted(blocks, reverse=True)
    assert blocks[0] > blocks[-1] >= 1


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_candidates_can_run_and_begin_with_the_heuristic(kernel, name):
    target = TARGETS[name]
    found = candidates(kernel, WORK, target)
    assert found == candidates(kernel, WORK, target)
    assert found[0] == default_config(kernel, WORK, target)
    assert len(found) > 20
    assert len({replace(config, source="") for config in found}) == len(found)
    assert all(why_not(kernel, "bf16", config, target) is None for config in found[1:])
    space = axes(kernel, "bf16")
    assert all(getattr(config, "block_p") in space["block_p"] for config in found[1:])  # noqa: B009


def test_candidates_are_no_wider_than_the_work():
    small = WORK._replace(images=1, rows=4, columns=8, channels=24, outputs=40)
    for config in candidates("difference_forward", small, TARGETS["sm_90"])[1:]:
        assert (config.block_p, config.block_c) == (32, 32)
        assert config.block_o == 64
        assert config.block_w <= 8


def test_nearer_candidates_come_first():
    found = candidates("fusion_forward", WORK, TARGETS["sm_90"])
    first, second, last = found[0], found[1], found[-1]
    changed = [name for name in vars(first) if name != "source" and getattr(first, name) != getattr(second, name)]
    assert len(changed) == 1
    assert sum(getattr(first, name) != getattr(last, name) for name in vars(first)) > 2
