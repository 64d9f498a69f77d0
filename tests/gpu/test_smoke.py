"""The smoke run: what becomes of tasks that are wrong, raise or take their process with them, and of its lines."""

import json
import os
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")

from support.smoke_tasks import Stub

from sdn_triton.bench.gpu import smoke
from sdn_triton.bench.gpu.examples import ExampleTask, share_of
from sdn_triton.bench.gpu.findings import Sanitizer
from sdn_triton.bench.gpu.hazard_question import hazard_tasks
from sdn_triton.bench.gpu.smoke import Smoke, families, main
from sdn_triton.bench.gpu.variants import VARIANTS
from sdn_triton.bench.gpu.where import Place
from sdn_triton.bench.measuring.contract import bound_of, error_and_bound, floor_of
from sdn_triton.bench.problems.launches import ALIGNED_CHANNELS, ALIGNED_COLUMNS, EXAMPLES, errors_and_bounds

PLACE = Place("sm_90")


def run(tmp_path, tasks, **options):
    """Whether nothing was wrong, and the lines by family."""
    by_family = {}
    for task in tasks:
        by_family.setdefault(task.family, []).append(task)
    path = tmp_path / "smoke.jsonl"
    is_right = Smoke(PLACE, path, **options).run(by_family)
    rows = {name: [] for name in by_family}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        rows[row["family"]].append(row)
    return is_right, rows


def test_a_wrong_result_is_followed_by_its_variants(tmp_path, capsys):
    is_right, rows = run(
        tmp_path, [Stub("a", "wrong", remedies=("one stage",)), Stub("a", "right"), Stub("b", "right")]
    )
    assert not is_right
    found = [(row["kernels"], row["variant"], row["ok"]) for row in rows["a"]]
    assert found == [
        (["wrong"], "as chosen", False),
        (["wrong"], "one stage", True),
        (["wrong"], "4 warps", False),
        (["right"], "as chosen", True),
    ]
    assert [row["ok"] for row in rows["b"]] == [True]
    shown = capsys.readouterr().out
    assert "WRONG a, bf16, odd, as chosen" in shown
    assert Sanitizer.of(shown).tasks == 5  # it shares the output with compute-sanitizer, and is counted there


def test_all_right_is_right(tmp_path):
    assert run(tmp_path, [Stub("a", "right"), Stub("b", "right")])[0]


def test_a_process_that_dies_takes_nothing_with_it(tmp_path):
    """Two of these end or spoil their process; what follows has another one, and the other family never notices."""
    deeds = ("right", "aborts", "raises", "right")
    is_right, rows = run(
        tmp_path, [*(Stub("a", deed, variant="only") for deed in deeds), Stub("b", "right")], apart=True
    )
    assert not is_right
    assert [row["ok"] for row in rows["a"]] == [True, False, False, True]
    assert [row["why"] for row in rows["a"]] == [
        None,
        "the process ended: signal SIGABRT",
        "RuntimeError: an illegal memory access",
        None,
    ]
    assert len({rows["a"][0]["process"], rows["a"][3]["process"], rows["b"][0]["process"], os.getpid()}) == 4
    assert rows["b"][0]["ok"]
    assert all(row.keys() >= {"family", "kernels", "seconds", "shares", "ok", "why"} for row in rows["a"])


def test_what_spoils_its_process_has_one_of_its_own(tmp_path, monkeypatch):
    apart = []

    class Noted(smoke.Here):
        def run(self, task, seconds):
            apart.append(task.family)
            return super().run(task, seconds)

    monkeypatch.setattr(smoke, "Apart", Noted)
    run(tmp_path, [Stub("a", "right", spoils_its_process=True), Stub("b", "right")])
    assert apart == ["a"]


def test_the_end_is_kept(tmp_path):
    """What sleeps is stopped and claims nothing; what was not reached says so."""
    is_right, rows = run(tmp_path, [Stub("a", "sleeps"), Stub("a", "right")], apart=True, seconds=4.0)
    assert is_right
    assert [row["ok"] for row in rows["a"]] == [None, None]
    assert rows["a"][0]["why"].startswith("no answer within")
    assert rows["a"][1]["why"] == "not reached: the time was up"


def test_the_bound_is_twice_the_eager_error_or_a_rounding():
    exact = torch.tensor([1.0, -2.0], dtype=torch.float64)
    half, off = exact.half(), exact.half() + 0.125
    assert error_and_bound(off, half, exact) == (0.125, 2 * torch.finfo(torch.float16).eps * 2.0)
    assert error_and_bound(half, off, exact) == (0.0, 2 * 0.125)
    assert error_and_bound(exact.float(), exact.float(), exact)[1] == 2 * 8 * torch.finfo(torch.float32).eps * 2.0
    assert error_and_bound(exact.float(), off.float(), exact, is_tf32=True)[1] == 2 * 2.0**-10 * 2.0
    assert error_and_bound(half, half, exact, terms=100.0)[1] == 2 * torch.finfo(torch.float16).eps * 100.0


def test_benchmark_and_tuner_allow_a_few_roundings_and_never_much():
    half, single = (torch.finfo(dtype).eps for dtype in (torch.float16, torch.float32))
    assert (floor_of(half), floor_of(single)) == (2 * half, 32 * single)
    floor = 2 * half
    assert bound_of(0.0, floor) == floor
    assert bound_of(floor, floor) == 2 * floor
    assert bound_of(1.0, floor) == 16 * floor
    assert bound_of(1.0, 2.0**-5) == 0.25


def test_what_is_not_finite_is_wrong():
    example = next(example for example in EXAMPLES if example.name == "resize")
    arguments = example.arguments(torch.float16, torch.device("cpu"))
    results = example.call(arguments, "eager")
    ((error, bound),) = errors_and_bounds(example, "fp16", arguments, results).values()
    assert 0 < error <= bound / 2
    results["gradient"][0, 0, 0, 0] = float("nan")
    assert errors_and_bounds(example, "fp16", arguments, results) == {"gradient": (float("inf"), bound)}
    assert share_of(float("inf"), bound) == float("inf")
    assert (share_of(0.0, 0.0), share_of(1e-9, 0.0), share_of(1.0, 4.0)) == (0.0, float("inf"), 0.25)


@pytest.mark.parametrize("task", hazard_tasks(), ids=lambda task: f"{task.form}-{task.kernel}-{task.stages}")
def test_the_hazard_is_asked_of_hopper_only(task):
    row = task.run(Place("sm_80"))
    assert (row["ok"], row["why"]) == (None, "on sm_80 no product goes on that has operands in registers")
    assert task.why_not_asked(Place("sm_90").target) is None


def test_every_example_has_its_arithmetics_and_two_shapes():
    known = families()
    for example in EXAMPLES:
        cases = {(task.arithmetic, task.shape) for task in known[example.name]}
        assert cases == {(a, shape) for a in example.arithmetics for shape in ("odd", "aligned")}
    assert set(known) - {example.name for example in EXAMPLES} == {"hazard, as shipped", "hazard, unguarded"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_aligned_shapes(example):
    aligned = example.aligned()
    assert aligned.channels % ALIGNED_CHANNELS == aligned.outputs % ALIGNED_CHANNELS == 0
    assert aligned.size[1] % ALIGNED_COLUMNS == 0
    assert aligned.channels >= example.channels
    assert (aligned.options.groups == aligned.channels) == (example.options.groups == example.channels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "sm_90"], "the emulator needs its compiler"),
        (["--device", "cuda"], "torch sees no GPU here"),
        (["--device", "sm_91"], "invalid choice: 'sm_91'"),
        (["--family", "nothing"], "invalid choice: 'nothing'"),
        (["--seconds", "-1"], "'-1' is not a positive number of seconds"),
    ],
)
def test_what_cannot_be_run_is_said(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(tmp_path / "smoke.jsonl"), *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["difference-paired", "fusion", "block"])
def test_variants_are_compiled_otherwise_in_every_kernel(name):
    task = ExampleTask(next(example for example in EXAMPLES if example.name == name), "bf16")
    expected = {
        "one stage": lambda launch: launch.config.num_stages == 1,
        "4 warps": lambda launch: launch.config.num_warps == 4,
        "8 warps": lambda launch: launch.config.num_warps == 8,
        "unpaired": lambda launch: not launch.config.pairs,
        "without PTX": lambda launch: not launch.arguments.get("PTX"),
    }
    assert expected.keys() == set(VARIANTS)
    chosen = task.launches(PLACE)
    assert {launch.config.source for launch in chosen} >= {"heuristic"}
    for variant, is_so in expected.items():
        launches = replace(task, variant=variant).launches(PLACE)
        assert launches
        assert all(map(is_so, launches))
    assert [(x.name, x.config) for x in task.launches(PLACE)] == [(x.name, x.config) for x in chosen]
    tried = [other.variant for other in task.variants(PLACE)]
    assert tried == [v for v in expected if not all(map(expected[v], chosen))]
