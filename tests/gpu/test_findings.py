"""What ``make gpu`` finds: tests as they end, timings and tuning that go on, predictions, and the summary of it all."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.gpu_folders import folders
from support.places import ROOT

from sdn_triton.aot.compile import TARGETS
from sdn_triton.bench.documents import tables as document_tables
from sdn_triton.bench.gpu import (
    files,
    findings,
    plan,
    predicted,
    predictions,
    rehearsal,
    reporting,
    summary,
    timings,
    tuning,
)
from sdn_triton.bench.machine_code.examination import KernelCase
from sdn_triton.bench.problems.suites import SUITES
from sdn_triton.bench.runs.record import read_record
from sdn_triton.bench.runs.saved_runs import run_of
from sdn_triton.tuning.shapes import LayerShape

__all__ = ["folders"]  # a fixture


# Tests, as they end

TESTS = """
import pytest
import torch

@pytest.mark.parametrize("number", range(6))
def test_some(number):
    if number == 2:
        torch.cuda.broken = True
        raise AssertionError("the first that is wrong")
    assert not torch.cuda.broken, "nothing works any more"

@pytest.mark.skip
def test_other(): pass

def test_setup(missing): pass
"""
BROKEN_TORCH = """
class cuda:
    broken = False
    def is_initialized(): return True
    def synchronize():
        if cuda.broken: raise RuntimeError("CUDA error: an illegal memory access was encountered")
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_every_test_is_in_the_file_and_a_broken_context_costs_only_its_process(workers, tmp_path):
    if workers:
        pytest.importorskip("xdist")
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "torch.py").write_text(BROKEN_TORCH)
    options = ["-p", "bench.gpu.reporting", "--report", str(tmp_path / "tests.txt"), "--group", "kernels"]
    options += ["-p", "xdist", "-n", "1"] if workers else []
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    subprocess.run([*command, "test_it.py"], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    found = findings.Tests.of(tmp_path / "tests.txt")
    lost = [name for name in found.failed["test_it.py::test_some"] if name != "test_it.py::test_some[2]"]
    # In a process of its own all that comes after the illegal access is lost; a worker is replaced.
    assert len(lost) == (0 if workers else 3)
    assert found.counts["kernels"]["passed"] == (5 if workers else 2)
    assert found.counts["kernels"]["skipped"] == 1
    assert "test_it.py::test_setup" in found.failed
    assert found.said["test_it.py::test_some"] == "AssertionError: the first that is wrong"
    (ended,) = found.ended["kernels"]
    assert ended.endswith("exit status 1")


def test_tests_that_were_cut_off_are_counted(tmp_path):
    path = tmp_path / "tests.txt"
    path.write_text("== kernels: begun\npassed 0.10 a::b[1]\nfailed 0.10 a::c[x]\n    E   no\npassed 0.1")
    found = findings.Tests.of(path)
    assert (found.counts["kernels"]["passed"], found.failed, found.said) == (1, {"a::c": ["a::c[x]"]}, {"a::c": "no"})
    assert (found.begun["kernels"], found.ended) == (1, {"kernels": []})
    assert findings.Tests.of(None).counts == {}
    path.write_text("== graphs: begun\n== graphs: begun\n== graphs: ended: 1 passed\n")
    found = findings.Tests.of(path)
    assert (found.begun["graphs"], found.ended) == (2, {"graphs": ["1 passed"]})


def test_a_file_of_tests_that_cannot_be_imported_is_a_failure(tmp_path):
    reporter = reporting.Reporter(tmp_path / "tests.txt", "others")
    report = pytest.CollectReport("test_x.py", "failed", "E   ImportError: no", [])
    reporter.pytest_collectreport(report)
    reporter.pytest_sessionfinish(2)
    found = findings.Tests.of(tmp_path / "tests.txt")
    assert found.failed == {"test_x.py": ["test_x.py"]}
    assert found.ended["others"][0].startswith("0 passed, 1 failed")


def test_of_what_a_failure_says_the_end_is_kept():
    report = pytest.CollectReport("test_x.py", "failed", "\n".join(f"{number} {'x' * 400}" for number in range(40)), [])
    lines = reporting.said(report).splitlines()
    assert [line.split()[0] for line in lines] == [str(number) for number in range(10, 40)]
    assert all(line.startswith("    ") and len(line) == 304 for line in lines)


# Timings that outlive their process

BENCH = """
import json, os, sys
from pathlib import Path
path, mode = Path(sys.argv[1]), sys.argv[2]
cases, providers = map(json.loads, sys.argv[3:5])
with path.with_suffix(".begun").open("a") as begun:
    begun.write("x")
content = json.loads(path.read_text()) if path.exists() else {
    "schema": 1, "complete": False, "environment": {}, "settings": {}, "roofs": None, "cases": [],
    "providers": providers}
for case in cases:
    if case["id"] not in [other["id"] for other in content["cases"]]:
        if mode in case["id"]:
            os.kill(os.getpid(), 9)
        content["cases"].append({**case, "results": {}})
        path.write_text(json.dumps(content))
content["complete"] = True
path.write_text(json.dumps(content))
"""


def test_a_benchmark_goes_on_behind_what_takes_its_process_down(tmp_path):
    cases, path = SUITES["gpu"](), tmp_path / "bench.json"
    described = [json.dumps(x) for x in ([case.describe() for case in cases], PROVIDERS)]
    command = [sys.executable, "-c", BENCH, str(path), "ResNet-50 FPN 1024x2048", *described]
    assert timings.run(command, path, cases, ["triton"], timings.time.monotonic() + 60) == 0
    assert path.with_suffix(".begun").read_text() == "xxx"  # up to the fault, at it, behind the whole problem
    content = read_record(path)
    assert content["complete"]
    assert [case["id"] for case in content["cases"]] == [case.id for case in cases]
    failed = [case for case in content["cases"] if case["results"]]
    assert [case["network"] for case in failed] == ["ResNet-50 FPN 1024x2048"] * 2
    result = failed[0]["results"]
    assert list(result) == ["conv2d", "triton"]
    assert result["triton"]["status"] == "failed"
    assert "exit status -9" in result["triton"]["why"]


def test_a_benchmark_that_does_not_begin_is_not_begun_again(tmp_path):
    command = [sys.executable, "-c", "raise SystemExit(1)"]
    assert timings.run(command, tmp_path / "none.json", SUITES["gpu"](), [], timings.time.monotonic() + 60) == 1


def test_a_benchmark_is_not_begun_again_with_little_time_left(tmp_path):
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(bench_of()))
    command = [sys.executable, "-c", "raise SystemExit(1)"]
    stop = timings.time.monotonic() + timings.MARGIN
    assert timings.run(command, path, SUITES["gpu"](), ["triton"], stop) == 1
    assert read_record(path)["cases"] == []


# Tuning


def test_the_tuner_has_the_paired_kernels_and_leaves_out_what_is_hopeless():
    hopper = TARGETS["sm_90"]
    assert [unit.kernel for unit in tuning.units(tuning.SHAPE, hopper)] == list(plan.TUNED)
    assert all(unit.work.can_pair for unit in tuning.units(tuning.SHAPE, hopper))
    others = tuning.units(tuning.SHAPE, hopper, ["difference_forward"])
    assert "difference_forward" not in [unit.kernel for unit in others]


def test_finalists_are_each_configuration_once():
    def row(stages):
        config = {"block_p": 64, "block_w": 16, "block_c": 32, "block_o": 64, "num_warps": 4, "num_stages": stages}
        return {"config": config, "microseconds": 1.0}

    assert list(tuning.finalists({**row(1), "runner_up": row(2), "heuristic": row(3)})) == [
        "winner", "runner_up", "heuristic"
    ]  # fmt: skip
    assert list(tuning.finalists({**row(1), "runner_up": row(2), "heuristic": row(1)})) == ["winner", "runner_up"]
    assert list(tuning.finalists({**row(1), "runner_up": None, "heuristic": None})) == ["winner"]


@pytest.mark.long
def test_the_winner_is_timed_once_more(tmp_path):
    path = tmp_path / "table.json"
    shape = "op=difference,c=32,h=4,w=5,dtype=fp16"
    arguments = ["--table", str(path), "--seconds", "1", "--device", "cpu", "--shape", shape]
    others = [word for kernel in plan.TUNED[1:] for word in ("--without", kernel)]
    assert tuning.main([*arguments, *others]) == 0
    (entry,) = json.loads(path.read_text())["entries"]
    assert entry["kernel"] == "difference_forward"
    assert entry["verified"]
    low, high = entry["again"]["winner"]["interval"]
    assert 0 < low <= entry["again"]["winner"]["microseconds"] <= high


# Predictions


def case_of(kind, pass_):
    return next(c for c in predictions.predictable() if (c.workload.kind, c.pass_) == (kind, pass_))


def test_predicted_is_what_is_launched():
    """Training a block launches the kernels of the difference and of the fusion, and two that nothing is said of."""
    found = {key: [launch.tuned_as for launch in predictions.launches_of(case_of(*key))] for key in (
        ("layer", "inference"), ("block", "inference"), ("block", "training")
    )}  # fmt: skip
    assert found["layer", "inference"] == ["difference_forward"]
    assert found["block", "inference"] == ["block_forward"]
    assert set(found["block", "training"]) == {
        *("difference_forward", "edge_products", "difference_data_gradient", "difference_weight_gradient"),
        *("fusion_forward", "fusion_data_gradient", "fusion_weight_gradient"),
        *("merge_moments_kernel", "moments_gradient_kernel"),
    }


def examined(ratio):
    figures = {"ratio": ratio, "ratio_range": [ratio - 0.5, ratio + 1.0], "floor_ratio": 1.0}
    return figures | {"blocks_per_sm": 1, "error": None}


def test_times_of_kernels_add_up(monkeypatch):
    ratios = {"difference_forward": 2.0, "fusion_forward": 5.0}
    monkeypatch.setattr(predictions, "examine", lambda case: examined(ratios.get(case.kernel, 1.0)))
    layer = predictions.predict(case_of("layer", "inference"), predictions.Kernels())
    # 2 x 9 x 256 x 256 x 128 x 128 operations at 132 x 4096 a clock of 1.83 GHz: 0.0195 ms.
    assert layer["convolution_ms"] == pytest.approx(2 * 9 * 256**2 * 128**2 / (132 * 4096 * 1.83e9) * 1e3)
    assert (layer["ratio"], layer["range_ratio"]) == (pytest.approx(2.0), pytest.approx([1.5, 3.0]))
    assert layer["whole_waves_ms"] / layer["ms"] == pytest.approx(132 / 128)
    training = predictions.predict(case_of("layer", "training"), predictions.Kernels())
    assert training["ratio"] == pytest.approx((2.0 + 3 * 1.0) / 3)
    assert training["floor_ms"] == pytest.approx(4 * layer["convolution_ms"])
    block = predictions.predict(case_of("block", "inference"), predictions.Kernels())
    assert block["ratio"] == pytest.approx(1.0)  # a 3x3 and a 1x1 over twice the channels, as the floor is
    block = predictions.predict(case_of("block", "training"), predictions.Kernels())
    fused = predictions.reference_ms(KernelCase("fusion_forward", "sm_90", "bf16", 256, 256, images=1))
    assert block["ms"] == pytest.approx(5 * layer["convolution_ms"] + (5 + 2) * fused)
    assert block["not_predicted"] == ["merge_moments_kernel", "moments_gradient_kernel"]


def test_kernels_are_examined_as_they_are_launched(monkeypatch):
    seen = []
    monkeypatch.setattr(predictions, "examine", lambda case: seen.append(case) or examined(1.0))
    case = case_of("block", "training")
    predictions.predict(case, predictions.Kernels())
    launched = {launch.tuned_as: launch.config for launch in predictions.launches_of(case)}
    assert {subject.kernel for subject in seen} == launched.keys() & set(predictions.KERNELS)
    for subject in seen:
        assert replace(subject.config(), source="") == replace(launched[subject.kernel], source=""), subject.kernel
    (stage,) = case.workload.stages
    assert {(subject.channels, subject.rows, subject.columns) for subject in seen} == {
        (stage.channels, stage.height, stage.width)
    }


def test_one_of_several_configurations_is_no_prediction(monkeypatch):
    case = case_of("layer", "inference")
    (launch,) = predictions.launches_of(case)
    other = replace(launch, config=replace(launch.config, num_warps=2 * launch.config.num_warps))
    monkeypatch.setattr(predictions, "launches_of", lambda case: [launch, other])
    with pytest.raises(ValueError, match="difference_forward is launched with several configurations"):
        predictions.predict(case, predictions.Kernels())


def test_waves_are_whole():
    assert predictions.whole_waves([132], 1) == 1
    assert predictions.whole_waves([133], 1) == pytest.approx(264 / 133)
    assert predictions.whole_waves([132, 66], 1) == pytest.approx(264 / 198)


def test_what_is_frozen_is_not_made_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(predictions, "examine", lambda case: examined(1.0) | dict.fromkeys(
        ("assembler", "registers", "spill_bytes", "shared_bytes", "hazards", "bound", "ratio_is")
    ))  # fmt: skip
    path = tmp_path / "2000-01-01.json"
    path.write_text(json.dumps({"versions": [{"triton": "9.9"}]}))
    assert predictions.main(["--json", str(path)]) == 0
    versions = [entry["triton"] for entry in json.loads(path.read_text())["versions"]]
    assert len(versions) == 2
    assert "9.9" in versions
    with pytest.raises(SystemExit):
        predictions.main(["--json", str(path)])
    assert "which are frozen" in capsys.readouterr().err


def test_a_kernel_that_is_not_understood_is_no_prediction(monkeypatch):
    monkeypatch.setattr(predictions, "examine", lambda case: {"error": "not understood"})
    with pytest.raises(ValueError, match="difference_forward with 256 channels: not understood"):
        predictions.predict(case_of("layer", "inference"), predictions.Kernels())


def test_what_is_committed_covers_what_is_timed():
    """The newest predictions are for both versions of triton in use, and for every case of a layer and a block."""
    content = json.loads(predicted.newest().read_text())
    assert {"3.6.0", "3.7.1"} <= {entry["triton"] for entry in content["versions"]}
    for entry in content["versions"]:
        assert [row["id"] for row in entry["predictions"]] == [case.id for case in predictions.predictable()]
        for row in entry["predictions"]:
            assert row["floor_ms"] <= row["range_ms"][0] <= row["ms"] <= row["range_ms"][1]
            assert row["ms"] <= row["whole_waves_ms"]


def prediction(**changes):
    return {
        "id": "a", "ms": 0.030, "range_ms": [0.025, 0.035], "whole_waves_ms": 0.04, "ratio": 1.5,
        "range_ratio": [1.25, 1.75],
    } | changes  # fmt: skip


def measured(ours, floor=0.02, **changes):
    results = {
        name: {"status": "ok", "samples_ms": [ms] * 9, "median_ms": ms, "interval_ms": [ms, ms], "why": None}
        for name, ms in (("triton", ours), ("conv2d", floor))
    }
    return {
        "id": "a", "kind": "layer", "network": "FPN", "name": "stage 1", "mode": "kernel", "pass": "inference",
        "stages": [[64, 8, 8]], "batch": 1, "dtype": "bfloat16", "memory_format": "channels_last", "cache": "cold",
        "flop": 1e9, "bytes": 1e6, "results": results,
    } | changes  # fmt: skip


PROVIDERS = {name: {"title": name, "role": role} for name, role in (("conv2d", "floor"), ("triton", "ours"))}


def bench_of(*cases, triton="3.6.0"):
    return {
        "schema": 1, "cases": list(cases), "environment": {"triton": triton}, "settings": {}, "roofs": None,
        "complete": True, "providers": PROVIDERS,
    }  # fmt: skip


@pytest.mark.parametrize(("ours", "verdict"), [(0.033, "inside, 1.10"), (0.039, "inside, 1.30"), (0.06, "above, 2.00"),
                                               (0.015, "below, 0.50")])  # fmt: skip
def test_a_prediction_hits_or_misses(ours, verdict):
    content = {"versions": [{"triton": "3.6.0", "predictions": [prediction()]}]}
    found = predicted.by_case(content, "3.6.0")
    (row,) = predicted.compared(found, run_of(Path("bench.json"), bench_of(measured(ours), measured(1.0, id="b"))))
    assert row.verdict == f"{verdict} of it"
    assert row.ratio == pytest.approx(ours / 0.02)
    assert predicted.by_case(content, "3.7.1") == {}
    wrong = measured(ours)
    wrong["results"]["triton"]["status"] = "refused"
    assert list(predicted.compared(found, run_of(Path("bench.json"), bench_of(wrong)))) == []


def test_predictions_stand_beside_what_was_measured(tmp_path, capsys):
    paths = {name: tmp_path / f"{name}.json" for name in ("predictions", "bench", "out")}
    paths["predictions"].write_text(json.dumps({"versions": [{"triton": "3.6.0", "predictions": [prediction()]}]}))
    paths["bench"].write_text(json.dumps(bench_of(measured(0.03))))
    options = [str(paths["bench"]), "--predictions", str(paths["predictions"])]
    assert predicted.main([*options, "--json", str(paths["out"])]) == 0
    assert "inside, 1.00 of it" in capsys.readouterr().out
    assert json.loads(paths["out"].read_text())[0]["verdict"] == "inside, 1.00 of it"
    paths["bench"].write_text(json.dumps(bench_of(measured(0.03), triton="3.7.1")))
    assert predicted.main(options) == 1
    assert "no case" in capsys.readouterr().out


def test_the_documents_have_both_side_by_side(tmp_path):
    assert "Nothing was predicted yet" in document_tables.predictions(tmp_path, "results")
    ids = [f"FPN/layer/stage {n}/batch 1/bfloat16/channels_last/inference/kernel/cold" for n in (1, 2)]
    (tmp_path / "predictions").mkdir()
    versions = [
        {"triton": "3.6.0", "predictions": [prediction(id=name) for name in ids]},
        {"triton": "3.7.1", "predictions": [prediction(id=ids[0])]},
    ]
    (tmp_path / "predictions/2000-01-01.json").write_text(json.dumps({"versions": versions}))
    text = document_tables.predictions(tmp_path, "results")
    assert "No GPU has run any of it yet" in text
    assert "| FPN, layer of stage 2 | inference | 30.0 us, 1.50x (1.25x to 1.75x) | not predicted |" in text
    run = tmp_path / "h100/2000-01-02/bench.json"
    run.parent.mkdir(parents=True)
    run.write_text(json.dumps(bench_of(measured(0.06, id=ids[0]))))
    text = document_tables.predictions(tmp_path, "results")
    assert "No GPU" not in text
    assert "| case | pass | triton 3.6.0 | triton 3.7.1 | h100/2000-01-02 |" in text
    assert "| 60.0 us, 3.00x: above, 2.00 of it |" in text
    assert "| not measured |" in text


# The summary


def smoke_line(**changes):
    row = {
        "family": "forward",
        "kernels": ["paired_forward"],
        "arithmetic": "bf16",
        "shape": "odd",
        "size": [2, 32, 4, 16, 32],
    }
    return json.dumps(row | {"variant": "as chosen", "ok": True, "why": None, "shares": {"y": 0.5}} | changes) + "\n"


def test_the_summary_says_what_is_right_what_is_wrong_and_how_fast(folders, monkeypatch):
    monkeypatch.setattr(predicted, "newest", lambda: folders.work / "2026-01-02.json")
    (folders.work / "2026-01-02.json").write_text(
        json.dumps({"versions": [{"triton": "3.6.0", "predictions": [prediction()]}]})
    )
    folders.write_json(files.ENVIRONMENT, {
        "environment": {
            "card": {"name": "H100", "driver_version": "580"}, "packages": {"torch": "2.11"},
            "compiled_before": {"parts": {"smoke": {"kernels": 3, "were there": 2, "compiled": 1, "failed": 0}}},
        },
        "steps": {
            "smoke": {"status": 0, "seconds": 41.2, "why": None, "begun": 1},
            "tuner": {"status": None, "seconds": 70.0, "why": "cut off at 70 s", "begun": 2},
        },
    })  # fmt: skip
    question = {"repeats": 300, "wrong_repeats": 12, "hazards_in_machine_code": 61}
    (folders.first / files.SMOKE).write_text(
        smoke_line()
        + smoke_line(shape="aligned", ok=False, why="y: 7.25 times the error allowed")
        + smoke_line(shape="aligned", variant="one stage", kernels=["others"])
        + smoke_line(shape="aligned", variant="4 warps", ok=False)
        + smoke_line(family="hazard, unguarded", variant="3 stages", ok=None, shape="large", **question)
    )
    (folders.out / files.TESTS).write_text(
        "== kernels: begun\nfailed 1.00 t.py::test_a[1]\n    E   AssertionError: off\nfailed 1.00 t.py::test_a[2]\n"
    )
    (folders.out / files.SANITIZER).write_text(
        "========= Invalid __global__ write of size 2 bytes\n=========     at paired_forward+0x10\n"
        "========= ERROR SUMMARY: 2 errors\n========= ERROR SUMMARY: 1 error\n"
    )
    refused = measured(0.03, id="b", kind="block")
    refused["results"]["triton"] |= {"status": "refused", "why": "output: error 1e-1"}
    folders.write_json(files.BENCH, bench_of(measured(0.03), refused) | {"complete": False})
    config = {"block_p": 64, "num_warps": 4}
    again = {"winner": {"microseconds": 20.0, "interval": [19.0, 21.0]}}
    entry = {"kernel": "difference_forward", "shape": "c=256", "config": config, "timed": [1, 2], "rejected": []}
    same = entry | {"shape": "c=64", "heuristic": {"config": config}}
    unfinished = entry | {"shape": "c=128"}
    folders.write_json(
        files.TABLE,
        {"entries": [entry | {"again": again}, same | {"again": again}], "unfinished": [unfinished]},
    )
    text = summary.summary(folders)
    for expected in (
        "H100, driver 580; torch 2.11, triton None",
        "Compiled before: smoke: 3 kernels, 2 were there, 1 compiled\n",
        "Steps that ended well: smoke 41 s",
        "  tuner: cut off at 70 s, begun 2 times",
        "SMOKE: 1 right, 1 WRONG, 0 not reached",
        "  WRONG forward, bf16, aligned; right: one stage; y: 7.25 times the error allowed\n",
        "  hazard, unguarded: paired_forward, 3 stages: wrong in 12 of 300 repeats; such instructions in the machine",
        "TESTS, kernels: CUT OFF: 0 passed, 2 failed, 0 skipped until then",
        "  FAILED t.py::test_a (2 times): AssertionError: off",
        "SANITIZER: 3 errors; 0 of smoke's tasks ended under it\n",
        "  Invalid __global__ write of size 2 bytes at paired_forward+0x10",
        "predictions of 2026-01-02",
        "layer FPN 64x8x8 inference kernel: triton 30.0, conv2d 20.0; 1.50 [1.50-1.50]",
        "; predicted 30.0, 1.50: inside, 1.00 of it",
        "block FPN 64x8x8 inference kernel: no time: triton REFUSED: output: error 1e-1",
        "TUNED difference_forward c=256: 2 right, 0 rejected; winner 20.0 [19.0-21.0]",
        "  not all cases were reached",
        "TUNED difference_forward c=128: 2 right, 0 rejected; not timed once more",
        "  winner: block_p=64,num_warps=4",
        "  winner (the heuristic's): block_p=64,num_warps=4",
    ):  # fmt: skip
        assert expected in text


CLEAN = """\
========= COMPUTE-SANITIZER
ok    forward, bf16, odd, as chosen, 0.41 of the error allowed
-     forward, bf16, aligned, as chosen: not reached: the time was up
========= ERROR SUMMARY: 0 errors
"""
FINDINGS = """\
========= COMPUTE-SANITIZER
========= Invalid __global__ read of size 4 bytes
=========     at paired_forward_kernel+0x1a0 in paired.py:40
=========     by thread (3,0,0) in block (0,0,0)
=========     Address 0x7f0000000100 is out of bounds
=========     Saved host backtrace up to driver entry point at kernel launch time
=========         Host Frame: launch [0x10] in libcuda.so.1
=========
========= Invalid __global__ read of size 4 bytes
=========     at paired_forward_kernel+0x1a0 in paired.py:40
=========     by thread (4,0,0) in block (0,0,0)
=========
========= Potential stack overflow detected
WRONG forward, bf16, odd, as chosen: not finite
========= Target application returned an error
========= ERROR SUMMARY: 57 errors
========= ERROR SUMMARY: 7 errors were not printed. Use --print-limit option to adjust the number of printed errors
"""
IN_A_KERNEL = "Invalid __global__ read of size 4 bytes at paired_forward_kernel+0x1a0 in paired.py:40"
NO_DRIVER = "Error: Target application terminated before first instrumented API call"
NO_LIBRARY = "Unable to find injection library libsanitizer-collection.so"


@pytest.mark.parametrize(
    ("text", "errors", "tasks", "said"),
    [
        (CLEAN, 0, 1, []),
        (FINDINGS, 57, 1, [f"{IN_A_KERNEL} (2 times)", "Potential stack overflow detected",
                           "Target application returned an error"]),
        (FINDINGS.partition("=========     by thread (4")[0], None, 0, [f"{IN_A_KERNEL} (2 times)"]),
        (f"========= COMPUTE-SANITIZER\n========= {NO_DRIVER}\n", None, 0, [NO_DRIVER]),
        (f"========= COMPUTE-SANITIZER\n========= {NO_LIBRARY}\n", None, 0, [NO_LIBRARY]),
        ("", None, 0, []),
    ],
    ids=["clean", "findings", "cut off", "not started", "not installed whole", "nothing"],
)  # fmt: skip
def test_what_the_sanitizer_says_is_read(text, errors, tasks, said, folders):
    assert findings.Sanitizer.of(text) == findings.Sanitizer(errors, tasks, said)
    (folders.out / files.SANITIZER).write_text(text)
    (line,) = [line for line in summary.summary(folders).splitlines() if line.startswith("SANITIZER")]
    assert ("did not come to count" in line) is (errors is None)


def test_the_stand_in_of_the_sanitizer_counts_what_is_wrong():
    for lines, errors in (("ok    a\nWRONG b\nWRONG c\n", 2), ("ok    a\nWRONG b\n", 1), ("ok    a\n", 0)):
        command = [sys.executable, "-c", f"print({lines!r}, end=''); raise SystemExit({errors})"]
        run = subprocess.run([sys.executable, rehearsal.CHECKER, *command], capture_output=True, text=True)
        assert run.returncode == errors
        found = findings.Sanitizer.of(run.stdout)
        assert (found.errors, found.tasks) == (errors, lines.count("\n"))


def test_the_summary_of_nothing_says_so(folders, capsys):
    text = summary.summary(folders)
    assert "no card found" in text
    assert "Steps that ended well: none" in text
    assert "SMOKE: nothing was found out" in text
    assert summary.main([str(folders.out), "--first", str(folders.first)]) == 0
    assert capsys.readouterr().out == text
    with pytest.raises(SystemExit):
        summary.main([str(folders.out / "none")])


def test_the_summary_keeps_its_limits():
    assert summary.shortened(["a", "b"]) == "a\nb\n"
    lines = summary.shortened([f"line {number}" for number in range(100)]).splitlines()
    assert (len(lines), lines[-1]) == (60, "... 41 more lines")
    assert summary.shortened(["x" * 500]) == "x" * 187 + "...\n"
    text = summary.shortened(["x" * 300] * 70)
    assert len(text) <= 12_000
    assert text.splitlines()[-1] == f"... {70 - len(text.splitlines()) + 1} more lines"
    exact = [f"line {number}" for number in range(60)]
    assert summary.shortened(exact).splitlines() == exact


def test_a_run_of_many_failures_stays_within_the_limits(folders):
    rows = [smoke_line(ok=False, family=f"family {n}", why="y" * 300) for n in range(50)]
    (folders.out / files.SMOKE).write_text("".join(rows))
    failed = "".join(f"failed 0.1 t.py::test_{n}[1]\n    E   {'z' * 300}\n" for n in range(50))
    (folders.out / files.TESTS).write_text(f"== kernels: begun\n{failed}")
    folders.write_json(files.BENCH, bench_of(*(measured(0.03, id=str(n)) for n in range(30))))
    text = summary.summary(folders)
    assert len(text) <= 12_000
    assert "and 42 more" in text
    assert "layer FPN" in text


def test_shapes_are_those_that_were_asked_for():
    assert LayerShape.parse("op=difference,c=256,h=128,w=128") == tuning.SHAPE
    assert len(SUITES["gpu"]()) <= 16
