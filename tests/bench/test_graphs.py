"""Timing by CUDA graphs, on a GPU that only keeps to the rules of streams and captures: calls run on the CPU."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from support.bench_runs import CPU, TINY, WORKLOADS, started
from support.places import ROOT

from sdn_triton import cli
from sdn_triton.bench.measuring import clocks
from sdn_triton.bench.measuring.clocks import CaptureFailedError, GraphClock, on_stream_of
from sdn_triton.bench.problems.cases import grid
from sdn_triton.bench.problems.checking import Problem, Setting
from sdn_triton.bench.problems.providers import PROVIDERS, unfold
from sdn_triton.bench.problems.workloads import PASSES
from sdn_triton.bench.runs import runner
from sdn_triton.bench.runs.record import read_record
from sdn_triton.bench.runs.runner import UnusableDeviceError


class Stream:
    """A stream of a device that orders nothing."""

    def __init__(self, device: object = None) -> None: ...

    def wait_stream(self, other: "Stream") -> None: ...


class Event:
    """A millisecond lies between any two."""

    def __init__(self, enable_timing: bool) -> None: ...

    def record(self) -> None: ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, other: "Event") -> float:
        return 1.0


class Graph:
    """What was captured needs no replay to be timed here."""

    def replay(self) -> None: ...


class Gpu:
    """Its streams and captures, with what PyTorch refuses."""

    def __init__(self) -> None:
        self.current = Stream()
        self.is_capturing = self.is_spoiled = False

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    @contextmanager
    def graph(self, graph: Graph, stream: Stream) -> Iterator[None]:
        assert not self.is_spoiled, "the allocator is in the middle of a capture"
        self.is_capturing = self.is_spoiled = True
        with self.stream(stream):
            yield
        self.is_capturing = self.is_spoiled = False

    def convolution(self, u, v, weight, bias):
        """One whose backward runs on the stream of its forward, which a capture on another stream does not allow."""
        y, stream = unfold(u, v, weight, bias), self.current
        if y.requires_grad:
            y.register_hook(lambda grad: self.refuse(self.is_capturing and stream is not self.current))
        return y

    def uncapturable(self, u, v, weight, bias):
        """One that asks for a value, as ``.item()`` does."""
        self.refuse(self.is_capturing)
        return unfold(u, v, weight, bias)

    @staticmethod
    def refuse(forbidden: bool) -> None:
        if forbidden:
            raise RuntimeError("operation not permitted when stream is capturing")


@pytest.fixture
def gpu(monkeypatch) -> Gpu:
    gpu = Gpu()
    names = dict(
        Stream=Stream, Event=Event, CUDAGraph=Graph, stream=gpu.stream, graph=gpu.graph,
        current_stream=lambda device: gpu.current, synchronize=lambda device: None,
    )  # fmt: skip
    for name, value in names.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(runner, "why_no_mode", lambda device, mode: None)
    monkeypatch.setattr(runner, "clock_for", lambda device, mode, cache: GraphClock(torch.device("cuda"), cold=False))
    monkeypatch.setattr(runner, "peak_memory", lambda call, device: 0)
    return gpu


def cases(*passes: str):
    return grid([TINY], [(40, 56)], kinds=("layer",), stages=(1,), passes=passes, modes=("kernel",))


def test_every_pass_of_every_provider_is_captured_on_the_stream_it_ran_on(gpu, provider):
    names = ["conv2d", provider("one", gpu.convolution), provider("other", gpu.convolution)]
    run = started(names)
    run.run(cases(*PASSES))
    for case in run.record.content["cases"]:
        assert {name: found["status"] for name, found in case["results"].items()} == dict.fromkeys(names, "ok"), case


def test_a_failed_capture_says_so(gpu, provider):
    clock = GraphClock(torch.device("cuda"), cold=False)
    ready = Problem(WORKLOADS[0], Setting(CPU, torch.float32)).make_ready(PROVIDERS[provider("new", gpu.uncapturable)])
    with on_stream_of(clock):
        assert gpu.current is clock.stream
        with pytest.raises(CaptureFailedError, match="not captured: RuntimeError: operation not permitted"):
            clock.warm_up("new", ready.forward)
    assert gpu.is_spoiled


def test_a_run_goes_on_in_another_process_without_what_failed_in_this_one(gpu, provider, tmp_path):
    path, passes = tmp_path / "bench.json", ("inference", "training")
    names = ["conv2d", provider("broken", gpu.uncapturable), "unfold"]
    tried = []
    for process in range(len(passes)):
        gpu.is_capturing = gpu.is_spoiled = False
        run = started(names, path=path, resume=True)
        with pytest.raises(UnusableDeviceError, match="broken left the device unusable: CaptureFailedError"):
            run.run(cases(*passes), begin=lambda case: tried.append(case.pass_))
        (*_, case) = read_record(path)["cases"]
        assert len(read_record(path)["cases"]) == process + 1
        assert {name: found["status"] for name, found in case["results"].items()} == {
            "conv2d": "skipped", "broken": "failed", "unfold": "skipped",
        }  # fmt: skip
        assert "broken left the device unusable" in case["results"]["unfold"]["why"]
    gpu.is_capturing = gpu.is_spoiled = False
    run = started(names, path=path, resume=True)
    run.run(cases(*passes))
    assert not run.unfinished(cases(*passes))
    for case in read_record(path)["cases"]:
        assert {name: found["status"] for name, found in case["results"].items()} == {
            "conv2d": "ok", "broken": "failed", "unfold": "ok",
        }  # fmt: skip
    assert tried == ["inference", "inference", "training"]


def test_what_failed_is_kept_where_no_time_is_left(gpu, provider, tmp_path):
    path = tmp_path / "bench.json"
    names = ["conv2d", provider("broken", gpu.uncapturable)]
    with pytest.raises(UnusableDeviceError):
        started(names, path=path).run(cases("inference"))
    started(names, path=path, resume=True, budget=0.0).run(cases("inference"))
    (case,) = read_record(path)["cases"]
    assert [found["status"] for found in case["results"].values()] == ["skipped", "failed"]


def test_a_device_that_no_longer_answers_ends_the_process_too(provider, monkeypatch, tmp_path):
    """As after an illegal access, of which every later call would be found guilty: here in the checks before timing."""

    def broken(u, v, weight, bias):
        monkeypatch.setattr(runner, "is_usable", lambda device: False)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    path, names = tmp_path / "bench.json", [provider("broken", broken), "unfold"]
    members = grid([TINY], [(40, 56)], kinds=("layer",), stages=(1,), passes=("inference", "training"))
    with pytest.raises(UnusableDeviceError, match="illegal memory access"):
        started(names, path=path).run(members)
    for case in read_record(path)["cases"]:
        assert [case["results"][name]["status"] for name in names] == ["failed", "skipped"]
    monkeypatch.setattr(runner, "is_usable", lambda device: True)
    again = started(names, path=path, resume=True)
    again.run(members)
    for case in again.record.content["cases"]:
        assert [case["results"][name]["status"] for name in names] == ["failed", "ok"]


def test_whether_a_gpu_answers(monkeypatch):
    assert clocks.is_usable(CPU)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    assert clocks.is_usable(torch.device("cuda"))

    def refuse(device):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", refuse)
    assert not clocks.is_usable(torch.device("cuda"))


def test_the_command_goes_on_in_a_new_process(monkeypatch, tmp_path, capfd):
    """With what is left of its budget; without a limit of its own it could not end: the case is recorded by then."""

    class Replaced(BaseException):
        pass

    def replace(program, arguments):
        replaced.append((program, arguments))
        raise Replaced

    def fail(self, *given):
        raise UnusableDeviceError("broken left the device unusable")

    replaced: list[tuple[str, list[str]]] = []
    monkeypatch.setattr("os.execv", replace)
    monkeypatch.setattr(runner.Runner, "run", fail)
    monkeypatch.setattr("sdn_triton.bench.commands.running.measure_roofs", lambda device, dtypes: None)
    monkeypatch.chdir(tmp_path)
    command = ["bench", "run", "--suite", "quick", "--device", "cpu", "--budget", "300", "--json", "bench.json"]
    with pytest.raises(Replaced):
        cli.main(command)
    ((program, arguments),) = replaced
    assert program == arguments[0] == sys.executable
    assert arguments[1 : 3 + len(command)] == ["-m", "sdn_triton", *command]
    resume, option, seconds = arguments[3 + len(command) :]
    assert (resume, option) == ("--resume", "--budget")
    assert 200 < float(seconds) <= 300
    assert "broken left the device unusable; a new process goes on" in capfd.readouterr().err


def test_the_new_process_has_nothing_that_the_first_one_held_open():
    """As a driver's connection to the device, with which memory there would be kept."""
    code = """if True:
        import os, sys
        from bench import run
        held = os.open(os.devnull, os.O_RDONLY)
        os.set_inheritable(held, True)
        sys.executable = "/bin/sh"
        command = ["-c", f"test -e /proc/self/fd/{held}"]
        execute = os.execv
        os.execv = lambda program, arguments: execute(program, [program, *command])
        run._go_on([], 1.0)
    """
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 1
