"""``sdn-triton bench run``: what is counted, checked, timed, kept, and gone on with."""

import copy
import json
import random
import re
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from support.bench_runs import CPU, TINY, WORKLOADS, started, wrong_gradient, wrong_pixel
from support.places import EXAMPLE
from torch.utils.flop_counter import FlopCounterMode

from sdn_triton import SDN, semantic_difference_conv2d
from sdn_triton.bench.measuring import clocks, intervals, roofs, rounds
from sdn_triton.bench.measuring.clocks import Prepared, clock_for
from sdn_triton.bench.problems import suites
from sdn_triton.bench.problems.cases import BenchCase, grid
from sdn_triton.bench.problems.checking import Problem, Setting, check
from sdn_triton.bench.problems.networks import NETWORKS, distinct_networks
from sdn_triton.bench.problems.providers import (
    PROVIDERS,
    UnfusedBlock,
    UnfusedNeck,
    central_difference,
    unfold,
)
from sdn_triton.bench.problems.workloads import PASSES
from sdn_triton.bench.reports import run_tables
from sdn_triton.bench.runs import runner
from sdn_triton.bench.runs.record import Record, read_record
from sdn_triton.bench.runs.saved_runs import RunFileError, run_of
from sdn_triton.bench.runs.verdicts import speedup_of
from sdn_triton.bench.suite import pytest_results


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_half_of_samples_is_a_toss_of_a_coin():
    """The intervals hold the median of a lopsided distribution as often as they promise, and not much more often."""
    draw = random.Random(0).expovariate
    for n, level in ((6, 0.95), (11, 0.95), (25, 0.95), (25, 0.99), (700, 0.95)):
        trials = 2000 if n < 100 else 400
        held = 0
        for _ in range(trials):
            low, high = intervals.median_interval([draw(0.6931471805599453) for _ in range(n)], level)
            held += low <= 1.0 <= high
        assert held / trials > level - 0.012, (n, level)
        assert held / trials < level + 0.45 * (1 - level) + 0.02, (n, level)


def test_intervals_know_how_many_samples_they_take():
    assert (intervals.least_samples(), intervals.least_samples(0.99)) == (6, 8)
    assert intervals.median_interval([2.0, 1.0, 3.0]) == (1.0, 3.0)
    assert intervals.median_interval(range(1, 21)) == (6, 15)  # a table of the sign test
    with pytest.raises(ValueError, match="samples must have at least one"):
        intervals.median_interval([])
    with pytest.raises(ValueError, match=r"level must lie between 0 and 1, got 1\.5"):
        intervals.median_interval([1.0], 1.5)
    with pytest.raises(ValueError, match="the same rounds, got 1 and 2"):
        intervals.ratio_samples([1.0], [1.0, 2.0])


def test_what_is_prepared_is_not_timed():
    calls = []
    call = Prepared(lambda: calls.append("prepare") or time.sleep(0.005), lambda: calls.append("call"))
    clock = clock_for(CPU)
    clock.warm_up("a", call)
    assert clock.sample("a", call) < 0.003
    assert calls[-2:] == ["prepare", "call"]


def test_a_cold_cache_is_overwritten_before_every_call(monkeypatch):
    monkeypatch.setattr(clocks, "last_cache_bytes", lambda: 64)
    clock = clock_for(CPU, cache="cold")
    clock.warm_up("a", lambda: None)
    before = clock.cache.clone()
    for _ in range(3):
        clock.sample("a", lambda: None)
    assert clock.cache.nbytes == 128
    assert torch.equal(clock.cache, before + 3)
    assert clock_for(CPU, cache="warm").cache is None


def test_modes_that_cannot_be_measured_say_so():
    with pytest.raises(ValueError, match="needs a GPU, got cpu: use 'operator'"):
        clock_for(CPU, "kernel")
    with pytest.raises(ValueError, match="mode must be one of operator, kernel, host, got 'fast'"):
        clock_for(CPU, "fast")


@pytest.mark.gpu
@pytest.mark.parametrize("cache", clocks.CACHES)
@pytest.mark.parametrize("mode", clocks.MODES)
def test_clocks_of_a_gpu(mode, cache, device):
    x = torch.ones(2**20, device=device)
    clock = clock_for(device, mode, cache)
    clock.warm_up("a", lambda: x * 2)
    assert 0 < clock.sample("a", lambda: x * 2) < 0.1


def test_a_call_that_fails_while_it_warms_up_is_left_out():
    failures = {}

    def broken():
        raise RuntimeError("no")

    calls = {"broken": broken, "whole": lambda: None}
    with pytest.raises(RuntimeError, match="no"):
        rounds.interleave(calls, CPU, 0.0)
    timings = rounds.interleave(calls, CPU, 0.0, on_failure=lambda name, error: failures.update({name: str(error)}))
    assert (list(timings), failures) == (["whole"], {"broken": "no"})


def test_a_call_that_fails_later_is_left_out_too():
    class OneSecond:
        def warm_up(self, name, call):
            call()

        def sample(self, name, call):
            call()
            return 1.0

    failures, left = {}, iter(range(4))
    calls = {"first": lambda: None, "breaks": lambda: next(left), "last": lambda: None}
    timings = rounds.interleave(
        calls, CPU, 1.0, (6, 6), clock=OneSecond(), on_failure=lambda name, error: failures.update({name: type(error)})
    )
    assert failures == {"breaks": StopIteration}
    assert timings == {"first": rounds.Timing((1.0,) * 6), "last": rounds.Timing((1.0,) * 6)}


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.kind)
def test_operations_are_those_that_torch_counts(workload):
    """PyTorch's counter sees the products of every operator on the way, those of the library by their own formulas."""
    for pass_ in PASSES:
        ready = Problem(workload, Setting(CPU, torch.float32)).make_ready(PROVIDERS["eager"])
        ready.module.train(pass_ != "inference")
        outputs = ready.recorded() if pass_ == "backward" else ()
        # Not autograd.grad, as the harness does: the counter's hooks do not work there.
        with FlopCounterMode(display=False) as counter:
            if pass_ != "backward":
                outputs = ready.recorded()
            if pass_ in ("backward", "training"):
                torch.autograd.backward(outputs, ready.grads)
        assert workload.flop(pass_) == counter.get_total_flops(), pass_


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.kind)
def test_traffic_is_that_of_the_tensors(workload):
    ready = Problem(workload, Setting(CPU, torch.float32)).make_ready(PROVIDERS["eager"])
    outputs = sum(y.numel() for y in ready.forward())
    leaves = sum(x.numel() for x in ready.leaves.values())
    gradients = sum(x.numel() for x in ready.forward_backward() if x is not None)
    assert workload.least_bytes("inference", 2) == workload.least_bytes("forward", 2) == 2 * (leaves + outputs)
    assert workload.least_bytes("backward", 2) == 2 * (outputs + leaves + gradients)
    assert workload.least_bytes("training", 2) == 2 * (2 * outputs + 2 * leaves + gradients)


def test_the_backward_alone_is_the_rest_of_training():
    ready = Problem(WORKLOADS[0], Setting(CPU, torch.float32)).make_ready(PROVIDERS["eager"])
    step, retained = ready.step("backward"), ready.step("backward", retain=True)
    for found in (step(), step(), retained(), retained()):
        for own, other in zip(found, ready.forward_backward(), strict=True):
            torch.testing.assert_close(own, other)


def test_only_inference_is_in_evaluation_mode():
    ready = Problem(WORKLOADS[-1], Setting(CPU, torch.float32)).make_ready(PROVIDERS["eager"])
    for pass_ in PASSES:
        step = ready.step(pass_)
        assert ready.module.training is (pass_ != "inference")
        if pass_ in ("inference", "forward"):
            assert all(y.requires_grad is (pass_ == "forward") for y in step())


def test_the_central_difference_is_the_constant_diffusivity():
    u, v, weight, bias = (torch.randn(s, dtype=torch.float64) for s in ((2, 3, 5, 7), (2, 3, 5, 7), (4, 3, 3, 3), (4,)))
    expected = semantic_difference_conv2d(u, v, weight, bias, padding=1, diffusivity="constant")
    torch.testing.assert_close(central_difference(u, v, weight, bias), expected)


@pytest.mark.parametrize("workload", WORKLOADS[1:], ids=lambda w: w.kind)
def test_the_unfused_block_is_the_same_block(workload):
    """Held against float64 on the eager path, for its own needs a GPU."""
    make = {"block": partial(UnfusedBlock, backend="eager"), "neck": partial(UnfusedNeck, backend="eager")}
    result, ready = check(Problem(workload, Setting(CPU, torch.float32)), replace(PROVIDERS["unfused"], **make))
    assert result.status == "ok", result.why
    assert not [module for module in ready.module.modules() if isinstance(module, SDN)]


def test_cudnn_tries_no_algorithms_while_results_are_checked(provider, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    seen = []

    def noting(u, v, weight, bias):
        seen.append(torch.backends.cudnn.benchmark)
        return unfold(u, v, weight, bias)

    name = provider("noting", noting, exact=noting)
    result, ready = check(Problem(WORKLOADS[0], Setting(CPU, torch.float32)), PROVIDERS[name])
    assert (result.status, seen) == ("ok", [False] * len(seen))
    assert torch.backends.cudnn.benchmark
    ready.forward()
    assert seen[-1]


def test_the_first_call_on_a_gpu_does_not_count_as_memory(monkeypatch):
    """Algorithms are tried in it. The GPU is one that only says what was asked of it."""
    events = []
    for name in ("synchronize", "memory_allocated", "reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: events.append(name) or len(events))
    call = Prepared(lambda: events.append("prepare"), lambda: events.append("call"))
    assert rounds.peak_memory(call, torch.device("cuda")) > 0
    first = events.index("call")
    measured = events[first + 1 :]
    assert measured[: measured.index("max_memory_allocated") + 1] == [
        "prepare", "synchronize", "memory_allocated", "reset_peak_memory_stats", "call", "synchronize",
        "max_memory_allocated",
    ]  # fmt: skip


@pytest.mark.parametrize("difference", [wrong_pixel, wrong_gradient])
def test_a_wrong_provider_is_refused_and_not_timed(provider, difference):
    """Of one problem: what is found wrong in training is not timed in inference either."""
    run = started(["conv2d", provider("wrong", difference)])
    run.run(grid([TINY], [(40, 56)], kinds=("layer",), stages=(1,), passes=("inference", "training")))
    assert len(run.record.content["cases"]) == 2
    for case in run.record.content["cases"]:
        wrong, floor = case["results"]["wrong"], case["results"]["conv2d"]
        assert floor["status"] == "ok"
        assert (wrong["status"], wrong["median_ms"], wrong["samples_ms"]) == ("refused", None, [])
        assert "allowed" in wrong["why"]
        assert wrong["error"] is None or wrong["error"] > 1  # None: a gradient that did not come at all
        seen = run.record.run
        shown = run_tables.case_table(seen, seen.case(case["id"]), set()).plain()
        assert re.search(r"^wrong +WRONG", shown, re.MULTILINE)


def test_a_slow_provider_is_found_slower(provider):
    def slow(u, v, weight, bias):
        time.sleep(0.01)
        return unfold(u, v, weight, bias)

    run = started(["conv2d", provider("slow", slow, role="ours"), "unfold"])
    run.run(grid([TINY], [(40, 56)], kinds=("layer",), stages=(1,), passes=("inference",)))
    seen = run.record.run
    speedup = speedup_of(seen, seen.cases[0], "slow")
    assert (speedup.baseline.provider, speedup.verdict) == ("unfold", "slower")
    assert speedup.factor < 0.5
    assert speedup.interval.low <= speedup.factor <= speedup.interval.high
    (summary,) = run_tables.summary_tables(seen)
    assert "slower in 1" in summary.plain()


def test_ours_is_never_held_against_ours():
    content = copy.deepcopy(json.loads(EXAMPLE.read_text()))
    for case in content["cases"]:
        results = case["results"]
        fast = results["eager"] | {"median_ms": 1e-9, "samples_ms": [1e-9] * len(results["eager"]["samples_ms"])}
        results["triton"] = fast
    run = run_of(EXAMPLE, content)
    for case in run.cases:
        assert speedup_of(run, case, "eager").baseline.provider in ("compile", "unfold-compile", "unfold")


def test_every_result_has_what_readers_look_for(tmp_path):
    """The committed example is what is written today, field for field, but for the errors that came later."""
    path = tmp_path / "bench.json"
    run = started(["conv2d", "eager", "unfold"], path=path, budget=600.0)
    run.run(grid([TINY], [(40, 56)], stages=(1,)))
    written, example = read_record(path), read_record(EXAMPLE)
    assert written.keys() == example.keys()
    for case in written["cases"]:
        assert case.keys() == example["cases"][0].keys()
        for result in case["results"].values():
            later = {"output_error", "gradient_error"}
            assert result.keys() == example["cases"][0]["results"]["conv2d"].keys() | later
            assert 0 <= result["output_error"] < 1e-5
            assert 0 <= result["gradient_error"] < 1e-3
            low, high = result["interval_ms"]
            assert low <= result["median_ms"] <= high
            assert len(result["samples_ms"]) == 8
            assert result["peak_bytes"] > 0
            assert result["error"] <= 1
    assert {case["kind"] for case in written["cases"]} == {"layer", "block", "neck"}


def test_too_few_rounds_have_no_interval():
    assert runner.timed_row(rounds.Timing((1.0,) * 5), 1, None)["interval_ms"] is None
    assert runner.timed_row(rounds.Timing((1.0,) * 6), 1, None)["interval_ms"] == [1000.0, 1000.0]


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self):
        return self.now


def test_a_spent_budget_skips_and_a_second_run_goes_on(tmp_path):
    path, clock, names = tmp_path / "bench.json", Clock(), ["conv2d", "unfold"]
    cases = grid([TINY], [(40, 56)], kinds=("layer",), passes=("inference",))
    run = started(names, path=path, clock=clock)
    run.run(cases, done=lambda case, results: setattr(clock, "now", 100.0))
    first, second = read_record(path)["cases"]
    assert {r["status"] for r in first["results"].values()} == {"ok"}
    assert {r["status"] for r in second["results"].values()} == {"skipped"}
    assert "0 of 60 s are left" in second["results"]["unfold"]["why"]
    assert run.unfinished(cases) == cases[1:]

    again = started(names, path=path, resume=True)
    begun = []
    again.run(cases, begin=begun.append)
    assert begun == cases[1:]
    kept, found = read_record(path)["cases"]
    assert kept == first
    assert {r["status"] for r in found["results"].values()} == {"ok"}
    assert not again.unfinished(cases)
    # Another provider: all of the cases have to be run again.
    assert started([*names, "eager"], path=path, resume=True).unfinished(cases) == cases


def test_what_takes_too_long_is_not_begun():
    run = started(["conv2d"], budget=60.0)
    checked, rows = runner.Checked(is_complete=True, seconds=100.0), {}
    (case,) = grid([TINY], [(40, 56)], kinds=("neck",), passes=("inference",))
    run._measure(case, checked, rows, lambda what: None)
    assert rows["conv2d"]["status"] == "skipped"
    assert "this case takes about 800" in rows["conv2d"]["why"]


def test_every_finished_case_is_on_disk_when_a_run_is_stopped(tmp_path):
    path = tmp_path / "bench.json"

    def stop(case):
        if case.workload.name == "stage 2":
            raise KeyboardInterrupt

    run = started(["conv2d"], path=path)
    with pytest.raises(KeyboardInterrupt):
        run.run(grid([TINY], [(40, 56)], kinds=("layer",), passes=("inference",)), begin=stop)
    content = read_record(path)
    assert [case["name"] for case in content["cases"]] == ["stage 1"]
    assert content["complete"] is False


def test_a_file_is_gone_on_with_only_where_it_agrees(tmp_path):
    path = tmp_path / "bench.json"
    environment, settings = {"torch": "1", "git": {"revision": "a"}, "time": 1}, {"rounds": [8, 9], "command": "x"}
    Record(path, environment, settings).write()
    with pytest.raises(RunFileError, match="is there: --resume goes on with it"):
        Record(path, environment, settings)
    Record(path, environment | {"time": 2, "load": [3.0]}, settings | {"command": "y"}, resume=True)
    with pytest.raises(RunFileError, match=r"git\.revision: 'a' there, 'b' now"):
        Record(path, environment | {"git": {"revision": "b"}}, settings, resume=True)
    with pytest.raises(RunFileError, match=r"rounds: \[8, 9\] there, \[1, 2\] now"):
        Record(path, environment, settings | {"rounds": [1, 2]}, resume=True)
    path.write_text("[]")
    with pytest.raises(RunFileError, match="the file is not an object"):
        Record(path, environment, settings, resume=True)
    path.write_text("{")
    with pytest.raises(RunFileError, match="not JSON"):
        read_record(path)
    with pytest.raises(RunFileError, match="No such file"):
        read_record(tmp_path / "absent.json")


def test_a_failure_while_timing_is_that_providers_alone(provider, monkeypatch):
    calls = []

    def fails_later(u, v, weight, bias):
        calls.append(1)
        if len(calls) > 2:
            raise torch.OutOfMemoryError if u.requires_grad else RuntimeError("broken\nmore")
        return unfold(u, v, weight, bias)

    monkeypatch.setattr(runner, "peak_memory", lambda call, device: 0)
    run = started(["conv2d", provider("late", fails_later)])
    run.run(grid([TINY], [(40, 56)], kinds=("layer",), stages=(1,), passes=("inference", "training")))
    rows = [case["results"] for case in run.record.content["cases"]]
    assert [row["conv2d"]["status"] for row in rows] == ["ok", "ok"]
    assert [(row["late"]["status"], row["late"]["why"]) for row in rows] == [("unavailable", "out of memory")] * 2


def test_a_mode_without_its_device_is_said():
    run = started(["conv2d"])
    run.run(grid([TINY], [(40, 56)], kinds=("layer",), stages=(1,), modes=("kernel",), passes=("inference",)))
    (case,) = run.record.content["cases"]
    assert case["results"]["conv2d"]["status"] == "unavailable"
    assert "needs a GPU" in case["results"]["conv2d"]["why"]


@pytest.mark.parametrize("name", suites.SUITES)
def test_suites_name_each_case_once(name):
    cases = list(dict.fromkeys(suites.SUITES[name]()))
    assert len({case.id for case in cases}) == len(cases) > 5
    if name == "cpu":
        assert {case.mode for case in cases} == {"operator", "host"}
        assert {"layer", "block", "neck"} == {case.workload.kind for case in cases}
        assert {case.pass_ for case in cases} == set(PASSES)
        assert {"warm", "cold"} == {case.cache for case in cases}


def test_a_grid_refuses_what_there_is_not():
    with pytest.raises(ValueError, match="passes must be among inference, forward, backward, training, got sideways"):
        grid([TINY], [(64, 64)], passes=("sideways",))


def test_all_stands_for_every_pyramid_once():
    names = distinct_networks()
    pyramids = [(NETWORKS[name].channels, NETWORKS[name].strides) for name in names]
    assert len(set(pyramids)) == len(pyramids)
    assert set(pyramids) == {(network.channels, network.strides) for network in NETWORKS.values()}


def test_case_ids_tell_everything_apart():
    case = BenchCase(WORKLOADS[0])
    changes = [
        {"dtype": "bfloat16"}, {"memory_format": "channels_last"}, {"pass_": "backward"}, {"mode": "host"},
        {"cache": "cold"}, {"workload": WORKLOADS[1]}, {"workload": replace(WORKLOADS[0], batch=5)},
    ]  # fmt: skip
    assert len({replace(case, **change).id for change in changes} | {case.id}) == 1 + len(changes)


def test_roofs_are_measured(monkeypatch):
    monkeypatch.setitem(roofs.PRODUCT, "cpu", 64)
    monkeypatch.setitem(roofs.COPIED, "cpu", 1)
    monkeypatch.setitem(roofs.WARM_SECONDS, "cpu", 0.0)
    found = roofs.measure_roofs(CPU, (torch.float32, torch.bfloat16))
    assert found["dtype"] == "float32"
    assert found["matmul_by_dtype"].keys() == {"float32", "bfloat16"}
    assert found["matmul_flop_per_s"] == found["matmul_by_dtype"]["float32"]
    assert 1e7 < found["copy_bytes_per_s"] < 1e13
    assert 1e7 < found["matmul_flop_per_s"] < 1e15


def test_what_pytest_measured_is_read_like_any_other_run(tmp_path):
    case = BenchCase(WORKLOADS[0]).describe()
    errors = {"error": 0.1, "output_error": 1e-7, "gradient_error": None}
    info = {"case": case, "provider": "conv2d", "errors": errors, "peak_bytes": 7}
    content = {
        "benchmarks": [{"extra_info": info, "stats": {"data": [0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.007]}}],
        "sdn_triton": {
            "environment": {"torch": "2"},
            "roofs": None,
            "providers": {"conv2d": {"title": "", "role": "floor"}, "triton": {"title": "", "role": "ours"}},
            "unrun": [{"case": case, "provider": "triton", "status": "unavailable", "why": "no GPU", "errors": None}],
        },
    }
    source, target = tmp_path / "pytest.json", tmp_path / "bench.json"
    source.write_text(json.dumps(content))
    assert pytest_results.main([str(source), str(target)]) == 0
    found = read_record(target)
    (own,) = found["cases"]
    assert own["id"] == case["id"]
    assert own["results"]["conv2d"]["median_ms"] == pytest.approx(4.0)
    assert own["results"]["conv2d"]["peak_bytes"] == 7
    assert (own["results"]["triton"]["status"], own["results"]["triton"]["why"]) == ("unavailable", "no GPU")
    assert found["settings"]["interleaved"] is False


def test_a_file_of_other_benchmarks_is_refused(tmp_path, capsys):
    source = tmp_path / "pytest.json"
    source.write_text('{"benchmarks": []}')
    with pytest.raises(SystemExit) as stopped:
        pytest_results.main([str(source), str(tmp_path / "out.json")])
    assert stopped.value.code == 2
    assert "was not written by the benchmarks in bench/suite" in capsys.readouterr().err
