"""The benchmark harness itself: it refuses wrong results, finds slow ones slower, and keeps what it measured."""

import argparse
import json
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import oracle
from support.bench_example import case, no_result, one_case, run_of, timed
from support.bench_runs import CPU, TINY, started, wrong_gradient, wrong_pixel

from sdn_triton import SDNNeck
from sdn_triton.bench import terminal
from sdn_triton.bench.commands import compare, running
from sdn_triton.bench.measuring import rounds
from sdn_triton.bench.measuring.environment import fingerprint, write_json
from sdn_triton.bench.problems.cases import BenchCase
from sdn_triton.bench.problems.checking import Problem, Setting, check, violations
from sdn_triton.bench.problems.networks import NETWORKS
from sdn_triton.bench.problems.plain import PlainNeck, reference_difference
from sdn_triton.bench.problems.providers import KINDS, PROVIDERS, plain, unfold
from sdn_triton.bench.problems.workloads import workloads_of
from sdn_triton.bench.reports import compare_tables, images
from sdn_triton.bench.runs import runner
from sdn_triton.cli import main

LAYER, _, BLOCK, _, NECK = workloads_of(TINY, 40, 56, kinds=KINDS)


@pytest.fixture(autouse=True)
def one_thread():
    """Threads of several test processes that wait for each other take longer than the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def wrong_value(u, v, weight, bias):
    return unfold(u, v, weight, bias) * 1.001


def wrong_shape(u, v, weight, bias):
    return unfold(u, v, weight, bias)[..., 1:]


def not_a_number(u, v, weight, bias):
    y = unfold(u, v, weight, bias)
    return torch.where(torch.arange(y.shape[-1], device=y.device) == 0, torch.nan, y)


def raises(u, v, weight, bias):
    raise RuntimeError("this provider is broken\nand says more")


def checked(difference, workload=LAYER, backward=True, **others):
    return check(
        Problem(workload, Setting(CPU, torch.float32, backward=backward)), plain("it", "", difference, **others)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("workload", [LAYER, BLOCK, NECK], ids=lambda workload: workload.kind)
def test_providers_are_right(workload, dtype, device):
    problem = Problem(workload, Setting(device, dtype))
    checked = []
    for provider in PROVIDERS.values():
        if provider.compiled or workload.kind not in provider.kinds or provider.unavailable(device, dtype):
            continue
        errors = problem.errors(provider, problem.make_ready(provider).answers(backward=True))
        assert not violations(errors, problem.bounds(provider)), provider.name
        checked.append(provider.name)
    assert {"conv2d", "central", "eager", "unfold"} <= set(checked)


@pytest.mark.parametrize("difference", [wrong_value, wrong_pixel, wrong_gradient, not_a_number])
@pytest.mark.parametrize("workload", [LAYER, NECK], ids=lambda workload: workload.kind)
def test_a_wrong_provider_is_refused(workload, difference):
    finding, may_be_timed = checked(difference, workload)
    assert (finding.status, may_be_timed) == ("refused", None)
    assert "allowed" in finding.why


def test_a_wrong_shape_is_refused():
    finding, _ = checked(wrong_shape, backward=False)
    assert (finding.status, finding.why) == ("refused", "output: error inf, allowed 1.5e-05")
    assert finding.figures() == {"error": None, "output_error": None, "gradient_error": None}


def test_a_provider_that_raises_is_reported_with_its_first_line():
    finding, _ = checked(raises)
    assert (finding.status, finding.why) == ("failed", "RuntimeError: this provider is broken")


@pytest.mark.parametrize(("text", "line"), [("", ""), (" \n ", ""), ("one\ntwo", "one")])
def test_the_first_line_of_an_error(text, line):
    assert terminal.first_line(ValueError(text)) == f"ValueError: {line}"


def test_running_out_of_memory_is_no_error_of_the_provider():
    def hungry(u, v, weight, bias):
        raise torch.OutOfMemoryError("no")

    finding, _ = checked(hungry)
    assert (finding.status, finding.why) == ("unavailable", "out of memory")


def test_without_backward_no_gradient_is_checked():
    finding, may_be_timed = checked(wrong_gradient, backward=False)
    assert finding.status == "ok"
    assert list(finding.errors) == ["output"]
    assert finding.figures()["gradient_error"] is None
    assert may_be_timed is not None


@pytest.mark.parametrize("compiled", [False, True])
def test_a_wrong_compiler_is_refused_too_but_is_not_our_mistake(provider, compiled):
    run = started(["conv2d", provider("wrong", wrong_value, compiled=compiled)])
    run.run([BenchCase(LAYER)])
    (case,) = run.record.content["cases"]
    assert [result["status"] for result in case["results"].values()] == ["ok", "refused"]
    assert len(list(running._mistakes(run.record.content))) == (0 if compiled else 1)


def cases_of(*workloads):
    return [BenchCase(workload, pass_=pass_) for workload in workloads for pass_ in ("inference", "training")]


def test_what_is_not_compiled_is_said_beforehand(provider, capsys):
    """Of two problems the smaller one is compiled, though the other comes first."""
    run = started(["conv2d", provider("slow", unfold, compiled=True)], budget=60.0)
    assert [problem[0] for problem in run.plan(cases_of(NECK, LAYER))] == [NECK]
    view = compare.PassesSideBySide(("inference", "training"), "float32")
    run.record.content["environment"] |= ENVIRONMENT
    assert running.run_and_show(run, cases_of(NECK, LAYER), view) == 0
    shown = capsys.readouterr().out
    assert "slow: if compiling takes 25 s a layer, left out of Tiny 40x56, neck (see --budget)" in shown
    neck, _, layer, _ = (case["results"]["slow"] for case in run.record.content["cases"])
    assert (neck["status"], layer["status"]) == ("skipped", "ok")
    assert "compiling takes about 50 s, and" in neck["why"]
    assert started(["conv2d", "slow"], budget=600.0).plan(cases_of(NECK, LAYER)) == []


ENVIRONMENT = {
    "device": {"name": "here", "threads": 1}, "git": {"revision": None}, "load": None, "torch": "2", "triton": None,
    "python": "3",
}  # fmt: skip


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_timing_leaves_the_seconds_that_checks_and_compilers_will_need(provider):
    """A problem that was compiled in less than was feared leaves the rest to all."""
    clock = Clock()
    names = ["conv2d", provider("slow", unfold, compiled=True)]
    budget = started(names, budget=300.0, clock=clock).budget
    first, *others = cases = [BenchCase(replace(LAYER, name=f"stage {i}")) for i in range(4)]
    budget.plan(cases, lambda case: case.providers(names))
    budget.was_checked(first.problem, 2.0)
    assert budget.share(first) == pytest.approx((300 - 3 * (25 + 2)) / 4)
    clock.now = 100.0
    budget.was_compiled(first.problem, 5.0)
    assert budget.share(first) == pytest.approx((200 - 3 * (5 + 2)) / 4)
    budget.was_timed(first)
    assert budget.share(others[0]) == pytest.approx((200 - 3 * (5 + 2)) / 3)
    clock.now = 290.0  # 10 s are left, 45 % of them for compilers
    assert budget.why_not_compile(others[0].problem, 0.0) is not None
    budget.was_compiled(first.problem, 4.0)
    assert budget.why_not_compile(others[0].problem, 0.0) is None


def test_the_default_budget_has_room_to_compile_every_workload():
    args = argparse.Namespace(network=["segformer-b0"], size=[(512, 512)], batch=[1], image=None)
    (workloads,) = compare._workloads(args)
    run = started(["conv2d", "compile"], budget=compare.SECONDS)
    assert [w.kind for w in workloads] == ["layer"] * 4 + ["block", "neck"]
    run.budget.plan(cases_of(*workloads), lambda case: [PROVIDERS["compile"]])
    assert run.budget.not_compiled() == []


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "stopped; {} has every finished case"),
        (runner.UnusableDeviceError("broken left the device unusable"), 1, "goes on in a new process"),
    ],
    ids=["interrupted", "unusable"],
)
def test_what_ends_a_comparison_leaves_its_file(tmp_path, monkeypatch, capsys, error, status, said):
    """A file that was there is replaced."""

    def end(self, *given):
        self.record.write()
        raise error

    monkeypatch.setattr(runner.Runner, "run", end)
    monkeypatch.setitem(NETWORKS, "tiny", TINY)
    path = tmp_path / "figures.json"
    path.write_text("{}")
    options = ["--quick", "--network", "tiny", "--size", "64x64", "--device", "cpu", "--json", str(path)]
    assert main(["compare", *options]) == status
    assert said.format(path) in capsys.readouterr().err
    assert json.loads(path.read_text())["settings"]["quick"] is True


def test_a_used_up_budget_is_said():
    run = started(["conv2d"], budget=1e-9)
    run.run([BenchCase(LAYER)])
    (case,) = run.record.content["cases"]
    assert case["results"]["conv2d"]["status"] == "skipped"
    assert case["results"]["conv2d"]["why"] == "0 of 0 s are left (see --budget)"


def test_the_reference_is_the_definition():
    u, v, weight, bias = (torch.randn(s, dtype=torch.float64) for s in ((2, 3, 5, 7), (2, 3, 5, 7), (4, 3, 3, 3), (4,)))
    expected = oracle.sdc(u, v, weight, bias, padding=(1, 1))
    np.testing.assert_allclose(reference_difference(u, v, weight, bias).numpy(), expected, rtol=1e-12, atol=1e-12)
    inputs = [x[:1].clone().requires_grad_() for x in (u, v)]
    assert torch.autograd.gradcheck(lambda a, b: reference_difference(a, b, weight, bias), inputs)


def test_the_plain_neck_has_the_parameters_of_the_library():
    own, theirs = PlainNeck([4, 6], unfold).state_dict(), SDNNeck([4, 6]).state_dict()
    assert all(theirs.pop(f"stages.{stage}.sdc.contrast") == 1 for stage in range(2))  # the plain formula's is fixed
    assert {name: x.shape for name, x in own.items()} == {name: x.shape for name, x in theirs.items()}


def test_rounds_start_with_another_provider_each_time(device):
    order = []
    calls = {name: lambda name=name: order.append(name) or time.sleep(0.03) for name in "abc"}
    timings = rounds.interleave(calls, torch.device("cpu"), seconds=0.01, rounds=(3, 9))
    assert "".join(order[-9:]) == "abcbcacab"
    assert all(len(timing.samples) == 3 and timing.median >= 0.03 for timing in timings.values())
    (once,) = rounds.interleave({"a": calls["a"]}, torch.device("cpu"), seconds=-1.0).values()
    assert (len(once.samples), once.spread) == (1, None)
    assert rounds.interleave({}, device, seconds=1.0) == {}


def test_medians_and_quartiles():
    timing = rounds.Timing((1.0, 5.0, 2.0, 4.0, 3.0))
    assert (timing.median, timing.quartiles, timing.spread) == (3.0, (2.0, 4.0), 1 / 3)
    assert timing.describe()["samples_ms"] == [1000.0, 5000.0, 2000.0, 4000.0, 3000.0]


def test_peak_memory_counts_what_is_freed_again(device):
    size = 2**20
    source = torch.zeros(size, dtype=torch.float32, device=device)

    def call():
        wide = torch.cat((source, source))
        return wide[:size] + 1

    assert 0 <= rounds.peak_memory(call, device) - 3 * 4 * size < 512


def test_the_error_stream_survives_the_profiler(capfd):
    rounds.peak_memory(lambda: torch.zeros(10), torch.device("cpu"))
    print("still here", file=sys.stderr)
    assert capfd.readouterr().err == "still here\n"


def test_json_is_written_in_full_or_not_at_all(tmp_path):
    path = tmp_path / "out.json"
    write_json(path, {"figure": 1})
    with pytest.raises(TypeError):
        write_json(path, {"figure": object()})
    assert json.loads(path.read_text()) == {"figure": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["out.json"]


def test_fingerprint_names_everything_a_figure_depends_on(device):
    found = json.loads(json.dumps(fingerprint(device)))
    assert found["device"]["name"]
    assert {"time", "cpu", "load", "python", "torch", "triton", "ptxas", "git", "tf32", "sdn_triton"} <= found.keys()
    assert found["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("own", "shown", "style"),
    [
        ((2.0, 1.9, 2.1), "1.50x faster", terminal.GOOD),
        ((2.0, 1.9, 2.95), "1.50x faster?", terminal.FAINT),
        ((6.0, 5.9, 6.1), "2.00x slower", terminal.BAD),
    ],
    ids=["faster", "undecided", "slower"],
)
def test_the_summary_shows_wins_and_losses(tmp_path, own, shown, style):
    results = {
        "conv2d": timed(1, 1, 1),
        "eager": timed(*own),
        "unfold": timed(3.0, 2.9, 3.1),
        "compile": timed(4, 4, 4),
    }
    (summary,) = compare_tables.summary_tables(run_of(tmp_path, one_case(results)))
    assert summary.rows == [["layer stage 1 4x16x16", f"{own[0]:.2f}x", "unfold", shown]]
    assert summary.styles == [style]


def workload_table(tmp_path, told=(), **results):
    run = run_of(tmp_path, one_case(results))
    (passes,) = compare_tables.by_workload(run.cases)
    return compare_tables.workload_table(run, "A title", passes, set(told))


def test_both_passes_stand_in_one_row(tmp_path):
    content = one_case({"conv2d": timed(1, 1, 1), "eager": timed(2, 2, 2) | {"peak_bytes": 2**20}})
    training = case("Net 64x64", "layer", "stage 1", [[4, 16, 16]], "training")
    errors = {"output_error": 1e-7, "gradient_error": 2e-6}
    results = {"conv2d": timed(10, 10, 10), "eager": timed(30, 30, 30) | {"peak_bytes": 2**21} | errors}
    content["cases"][0]["results"]["eager"] |= errors
    content["cases"].append(training | {"results": results})
    run = run_of(tmp_path, content)
    (passes,) = compare_tables.by_workload(run.cases)
    table = compare_tables.workload_table(run, "A title", passes, set())
    assert table.rows[1] == ["eager", "2.00 ±0%", "2.00x", "30.0 ±0%", "3.00x", "1.0", "2.0", "1e-07", "2e-06"]


def test_what_has_no_time_says_why(tmp_path):
    wrong = no_result("refused", "output: error 1, allowed 0.1")
    table = workload_table(tmp_path, conv2d=timed(1, 1, 1), eager=wrong, triton=no_result("unavailable", "no GPU"))
    assert table.notes == [
        "eager WRONG, not timed: output: error 1, allowed 0.1",
        "triton unavailable, not timed: no GPU",
    ]
    assert table.styles[1:] == [terminal.BAD, terminal.FAINT]
    told = workload_table(
        tmp_path, [("triton", "no GPU")], conv2d=timed(1, 1, 1), triton=no_result("unavailable", "no GPU")
    )
    assert (len(told.rows), told.notes) == (1, [])
    skipped = no_result("skipped", "0 of 5 s are left")
    half = workload_table(tmp_path, conv2d=timed(1, 1, 1), eager=skipped)
    assert [row[:2] for row in half.rows] == [["conv2d", "1.00 ±0%"], ["eager", "skipped"]]
    assert workload_table(tmp_path, conv2d=skipped, eager=skipped).plain().splitlines() == [
        "A title", "-------", "conv2d, eager skipped, not timed: 0 of 5 s are left"
    ]  # fmt: skip


def test_a_restless_machine_is_said(tmp_path):
    def scattered(share):
        return timed(1, 1, 1) | {"samples_ms": [1.0, 1.0 - share, 1.0 + share, 1.0 - share, 1.0 + share]}

    run = run_of(tmp_path, one_case({"eager": scattered(0.3)}))
    assert compare_tables.restlessness(run).startswith("The times scatter by ±30%")
    assert compare_tables.restlessness(run_of(tmp_path, one_case({"eager": scattered(0.1)}))) is None


def test_a_pipe_gets_whole_lines(capsys, monkeypatch):
    for is_terminal in (False, True):
        if is_terminal:  # a terminal, but no rich
            monkeypatch.setitem(sys.modules, "rich", None)
            monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        table = terminal.Table("A title", ("name", "figure"))
        table.add(("x" * 300, "1.0"), terminal.BAD)
        with terminal.Report(1) as lines:
            lines.begin("first step")
            lines.show(table)
        shown = capsys.readouterr()
        assert "x" * 300 + "     1.0\n" in shown.out
        assert "first step" in shown.err
        assert "\x1b" not in shown.out + shown.err


@pytest.mark.parametrize("name", images.BACKBONES)
@pytest.mark.sampled(4)
def test_pyramids_are_those_of_the_real_networks(name, tmp_path):
    pytest.importorskip("transformers")
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.zeros((50, 70, 3), dtype=np.uint8)).save(tmp_path / "image.png")
    features = images.image_features(name, tmp_path / "image.png", 64, 96)
    expected = [(1, c, *size) for c, size in zip(NETWORKS[name].channels, NETWORKS[name].sizes(64, 96), strict=True)]
    assert [tuple(feature.shape) for feature in features] == expected
