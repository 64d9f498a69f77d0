"""What ``make prove`` tells the verifier, and what it makes of the answer; the verifier itself runs in `make prove`."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from sdn_triton import feature_fusion, semantic_difference_conv2d
from sdn_triton.bench.proofs import __main__ as proofs
from sdn_triton.bench.proofs import references
from sdn_triton.bench.proofs.__main__ import (
    ARCHITECTURES,
    LAUNCHES,
    Verdict,
    bind,
    claims,
    describe,
    reason,
    recorded,
    worse,
)
from sdn_triton.kernels.arguments import Contrast
from sdn_triton.launch.run import Launch
from sdn_triton.tuning.configs import KernelConfig

PARAMETERS = {"z_ptr": "*bf16", "u_ptr": "*bf16", "C": "i32", "contrast.inverse": "fp32"}


def launch_and_kernel():
    image = torch.empty((1, 4, 1, 8), device="meta", dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    arguments = {"z_ptr": image, "u_ptr": image, "C": 4, "contrast": Contrast(None, 0.5, None)}
    config = KernelConfig(block_p=8, block_w=8, block_c=4, block_o=4, num_warps=2, num_stages=1)
    launch = Launch(SimpleNamespace(__name__="copy_kernel"), (3,), arguments, config)
    return launch, SimpleNamespace(parameters=PARAMETERS, threads=64, shared_bytes=128)


def test_numbers_are_described_and_pointers_are_not():
    described = describe(*launch_and_kernel())
    assert described["launch"]["grid_dim"] == [3, 1, 1]
    assert described["launch"]["block_dim"] == [64, 1, 1]
    assert described["launch"]["dynamic_shared_bytes"] == 128
    assert described["arguments"] == [
        {"parameter": "copy_kernel_param_2", "type": "u32", "value": 4},
        {"parameter": "copy_kernel_param_3", "type": "f32", "value": 0.5},
    ]


def test_a_formula_is_bound_to_the_memory_of_the_pointers():
    reference = references.Reference(lambda u: u, ("u_ptr",), "z_ptr")
    bound = bind(*launch_and_kernel(), reference)
    layout = bound["left_inputs"]["layouts"]["6:global12:input.arg1.0"]
    assert layout["shape"] == [8, 4]
    assert layout["source_strides_bytes"] == [8, 2]
    assert bound["outputs"]["left_allocation"] == "6:global12:input.arg0.0"
    assert bound["reference"]["arguments"] == [
        {"name": "u", "allocation": "6:global12:input.arg1.0", "shape": [8, 4], "dtype": "bfloat16"}
    ]


def flat(image: torch.Tensor) -> torch.Tensor:
    return image[0, :, 0].T


def test_the_formula_of_the_difference_is_the_operator():
    u, v = torch.randn(2, 1, 3, 1, 7).unbind()
    weight, bias = torch.randn(5, 3, 3, 3), torch.randn(5)
    found = references.difference_forward(flat(u), flat(v), weight.permute(0, 2, 3, 1), bias)
    expected = semantic_difference_conv2d(u, v, weight, bias, padding=1)
    torch.testing.assert_close(found, flat(expected).bfloat16())


def test_the_formula_of_the_fusion_is_the_operator():
    u, y = torch.randn(2, 1, 3, 1, 7).unbind()
    weight, bias, scale, shift = torch.randn(5, 6, 1, 1), torch.randn(5), torch.randn(3), torch.randn(3)
    found = references.fusion_forward(flat(u), flat(y), weight, bias, scale, shift)
    expected = feature_fusion(u, y, weight, bias, scale=scale, shift=shift)
    torch.testing.assert_close(found, flat(expected).bfloat16())


VERDICT = Verdict("a", "a_kernel", "sm_80", "no race", "one block", "proved", "race_free", "", 1.0)


@pytest.mark.parametrize(
    ("before", "now", "is_worse"),
    [
        ("proved", "proved", False),
        ("proved", "not decided", True),
        ("proved", "refuted", True),
        ("not decided", "refuted", True),
        ("not decided", "proved", False),
        ("refuted", "refuted", False),
        ("refuted", "not decided", False),
    ],
)
def test_a_verdict_may_get_better_only(before, now, is_worse):
    assert (
        worse([replace(VERDICT, verdict=now)], [replace(VERDICT, verdict=before)])
        == [replace(VERDICT, verdict=now)] * is_worse
    )


def test_a_new_kernel_has_to_be_proved_or_at_least_not_refuted():
    assert worse([replace(VERDICT, verdict="refuted")], [])
    assert not worse([replace(VERDICT, verdict="not decided")], [])


def test_a_race_is_said_with_its_place():
    end = {"mode": "write", "location": {"file": "somewhere/kernels/fusion.py", "line": 7}}
    race = {"first": end, "second": end, "region": {"address_space": "shared"}}
    found = {"diagnostics": [{"code": "unordered"}], "races": [race]}
    assert reason(found) == "unordered; write and write of shared memory, fusion.py:7"


def test_what_is_no_verdict_decides_nothing(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(proofs, "verify", lambda *_: {"result": "timeout", "diagnostics": [{"code": "time_budget"}]})
    monkeypatch.setattr("sdn_triton.aot.compile.compile_launch", lambda *_: None)
    claim = next(claims(["sm_80"], ["difference_forward"]))
    assert [(v.verdict, v.result, v.reason) for v in proofs.examine(claim, 1.0)] == [
        ("not decided", "timeout", "time_budget")
    ]


def test_every_claim_is_on_record():
    verdicts = {(v.kernel, v.architecture, "equal" in v.claim) for v in recorded()}
    assert {(c.kernel, c.architecture, c.equal) for c in claims(ARCHITECTURES, list(LAUNCHES))} == verdicts
