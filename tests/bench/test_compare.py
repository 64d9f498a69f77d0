"""The benchmark harness itself: it refuses wrong results, finds slow ones slower, and keeps what it measured."""

import json
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import oracle
from support.bench_runs import wrong_gradient, wrong_pixel

from sdn_triton import SDNNeck
from sdn_triton.bench import terminal
from sdn_triton.bench.measuring import rounds
from sdn_triton.bench.measuring.environment import fingerprint, write_json
from sdn_triton.bench.problems.checking import Problem, Setting, violations
from sdn_triton.bench.problems.networks import NETWORKS, Network
from sdn_triton.bench.problems.plain import PlainNeck, reference_difference
from sdn_triton.bench.problems.providers import FLOOR, KINDS, PROVIDERS, plain, unfold
from sdn_triton.bench.problems.workloads import workloads_of
from sdn_triton.bench.reports import compare_tables, images
from sdn_triton.bench.runs.session import Budget, Session

TINY = Network("Tiny", (4, 6), (4, 8))
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


def slow(u, v, weight, bias):
    time.sleep(0.02)
    return F.conv2d(u, weight, bias, padding=1)


def session_of(*providers, device="cpu", backward=True, seconds=60.0, workloads=(LAYER,)):
    setting = Setting(torch.device(device), torch.float32, backward=backward)
    return Session(setting, [PROVIDERS[FLOOR], *providers], Budget(seconds, list(workloads)), quick=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("workload", [LAYER, BLOCK, NECK], ids=lambda workload: workload.kind)
def test_providers_are_right(workload, dtype, device):
    problem = Problem(workload, Setting(device, dtype))
    checked = []
    for provider in PROVIDERS.values():
        if provider.compiled or workload.kind not in provider.kinds or provider.unavailable(device, dtype):
            continue
        errors = problem.errors(provider, problem.case(provider).answers(backward=True))
        assert not violations(errors, problem.bounds(provider)), provider.name
        checked.append(provider.name)
    assert {"conv2d", "central", "eager", "unfold"} <= set(checked)


@pytest.mark.parametrize("difference", [wrong_value, wrong_pixel, wrong_gradient, not_a_number])
@pytest.mark.parametrize("workload", [LAYER, NECK], ids=lambda workload: workload.kind)
def test_a_wrong_provider_is_refused(workload, difference):
    session = session_of(plain("wrong", "", difference))
    floor, result = session.run(workload)
    assert floor.status == "ok"
    assert result.status == "wrong"
    assert result.forward is result.forward_backward is result.forward_bytes is None
    assert session.went_wrong
    shown = compare_tables.workload_table(workload, [floor, result]).plain()
    assert "wrong WRONG, not timed" in shown


def test_a_wrong_compiler_is_refused_too_but_is_not_our_mistake():
    provider = replace(plain("wrong", "", wrong_value), compiled=True)
    session = Session(Setting(torch.device("cpu"), torch.float32), [PROVIDERS[FLOOR], provider], Budget(60.0, [LAYER]))
    result = {result.provider: result for result in session.run(LAYER)}["wrong"]
    assert result.status == "wrong"
    assert result.forward is None
    assert not session.went_wrong


def test_a_wrong_shape_is_refused():
    _, result = session_of(plain("wrong", "", wrong_shape), backward=False).run(LAYER)
    assert (result.status, result.reason) == ("wrong", "output: error inf, allowed 1.5e-05")


def test_a_provider_that_raises_is_reported_with_its_first_line():
    floor, result = (session := session_of(plain("broken", "", raises))).run(LAYER)
    assert (floor.status, result.status) == ("ok", "failed")
    assert result.reason == "RuntimeError: this provider is broken"
    assert session.went_wrong


def test_running_out_of_memory_is_no_error_of_the_provider():
    def hungry(u, v, weight, bias):
        raise torch.OutOfMemoryError("no")

    floor, result = (session := session_of(plain("hungry", "", hungry))).run(LAYER)
    assert (floor.status, result.status, result.reason) == ("ok", "skipped", "out of memory")
    assert not session.went_wrong


def test_a_slow_provider_is_found_slower():
    provider = replace(plain("slow", "", slow), exact=PROVIDERS[FLOOR].exact)
    floor, result = session_of(provider).run(LAYER)
    assert result.status == "ok", result.reason
    for own, other in ((result.forward, floor.forward), (result.forward_backward, floor.forward_backward)):
        assert own is not None
        assert other is not None
        assert own.quartiles[0] > other.quartiles[1]
        assert own.median > 0.02


def test_without_backward_no_gradient_is_checked_or_timed():
    _, result = session_of(plain("wrong gradient", "", wrong_gradient), backward=False).run(LAYER)
    assert result.status == "ok"
    assert list(result.errors) == ["output"]
    assert result.forward is not None
    assert result.forward_backward is None


def test_a_used_up_budget_is_said():
    session = session_of(seconds=1e-9)
    (result,) = session.run(LAYER)
    assert result.status == "skipped"
    assert result.reason == "the budget of 0 s is used up (see --budget)"
    assert not session.went_wrong


def test_compilation_waits_for_time():
    setting = Setting(torch.device("cpu"), torch.float32)
    session = Session(setting, [PROVIDERS["compile"]], Budget(5.0, [LAYER]))
    if "compile" in session.absent:
        pytest.skip(session.absent["compile"])
    (result,) = session.run(LAYER)
    assert result.status == "skipped"
    assert "compiling takes about" in str(result.reason)


def test_what_is_not_compiled_is_said_beforehand():
    setting, provider = Setting(torch.device("cpu"), torch.float32), replace(PROVIDERS["eager"], compiled=True)
    session = Session(setting, [PROVIDERS[FLOOR], provider], Budget(60.0, [NECK, LAYER]))
    assert session.uncompiled == [NECK]
    said = f"eager: left out of {NECK.name}: the budget is too short (see --budget)"
    assert said in compare_tables.introduction(session)
    result = session.run(NECK)[1]
    assert (result.status, result.forward) == ("skipped", None)
    assert "which the budget has no room for" in str(result.reason)
    roomy = Session(setting, [PROVIDERS[FLOOR], provider], Budget(600.0, [NECK, LAYER]))
    assert roomy.uncompiled == []
    assert said not in compare_tables.introduction(roomy)


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


def test_results_are_json_with_all_raw_figures():
    session = session_of(PROVIDERS["unfold"], plain("wrong", "", not_a_number), workloads=(LAYER, NECK))
    for workload in (LAYER, NECK):
        session.run(workload)
    found = json.loads(json.dumps(session.describe(complete=True), allow_nan=False))
    assert found["schema"] == 1
    assert found["complete"] is True
    layer, neck = found["workloads"]
    assert (layer["kind"], layer["stages"], neck["kind"]) == ("layer", [[4, 10, 14]], "neck")
    floor, other, wrong = layer["results"]
    assert floor["provider"] == "conv2d"
    for which in ("forward", "forward_backward"):
        assert len(other[which]["samples_ms"]) >= 3
        assert other[which]["quartiles_ms"][0] <= other[which]["median_ms"] <= other[which]["quartiles_ms"][1]
        assert other[f"{which}_peak_bytes"] > 0
    assert other["errors"].keys() == other["bounds"].keys()
    assert {"output", "gradient of input", "gradient of guidance", "gradient of weight"} <= other["errors"].keys()
    assert (wrong["status"], wrong["errors"]["output"], wrong["forward"]) == ("wrong", None, None)


def test_the_summary_shows_wins_and_losses():
    session = session_of(PROVIDERS["eager"], PROVIDERS["unfold"])
    _, eager, other = session.run(LAYER)
    for which in ("forward", "forward_backward"):
        setattr(eager, which, rounds.Timing((2.0,)))
        setattr(other, which, rounds.Timing((3.0,)))
    (summary,) = compare_tables.conclusion(session)
    assert "1.50x faster" in summary.plain()
    assert summary.styles == [terminal.GOOD]
    eager.forward = rounds.Timing((6.0,))
    (summary,) = compare_tables.conclusion(session)
    assert "2.00x slower" in summary.plain()
    assert summary.styles == [terminal.BAD]


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
