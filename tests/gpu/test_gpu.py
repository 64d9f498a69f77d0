"""``make gpu``: its steps, its files and its plan, tried with programs that need no GPU."""

import errno
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.gpu_folders import folders
from support.places import ROOT

from sdn_triton.bench.gpu import __main__ as command
from sdn_triton.bench.gpu import files, findings, graph_tests, machine, plan, rehearsal, steps
from sdn_triton.bench.gpu import run as gpu_run
from sdn_triton.bench.gpu.files import OUTPUTS, read_lines
from sdn_triton.bench.gpu.run import Run
from sdn_triton.bench.gpu.steps import Step
from sdn_triton.bench.measuring.environment import GPU_CLOCKS, clocks

__all__ = ["folders"]  # a fixture


def python(code):
    return lambda folders, limit: [sys.executable, "-c", code.format(out=folders.out, work=folders.work, limit=limit)]


SLEEPS = python("import time; print('begun', flush=True); time.sleep(60)")
FINE = python("print('limit', {limit:.1f})")


def environment(folders):
    return json.loads((folders.out / files.ENVIRONMENT).read_text())


def test_steps_run_in_order_and_each_costs_only_itself(folders, capsys):
    seen = []

    def note(name, result=None):
        seen.append((name, list(environment(folders)["steps"])))
        return result

    def fails(folders, limit):
        raise KeyError("smoke has no such line")

    todo = [
        Step("fine", 20, FINE, why_not=lambda folders: note("fine")),
        Step("broken", 20, python("raise SystemExit(3)"), why_not=lambda folders: note("broken")),
        Step("absent", 20, SLEEPS, why_not=lambda folders: note("absent", "it is not installed")),
        Step("faulty", 20, fails),
        Step("long", 3.0, SLEEPS),
        Step("last", 20, FINE, log="sanitizer.txt"),
    ]
    outcomes = Run(folders, todo, 200.0, facts={"python": "3"}).run()
    # What runs is on disk as cut off, should the run end there.
    assert seen == [("fine", ["fine"]), ("broken", ["fine", "broken"]), ("absent", ["fine", "broken", "absent"])]
    assert [outcome.status for outcome in outcomes.values()] == [0, 3, None, None, None, 0]
    assert [outcome.went_well for outcome in outcomes.values()] == [True, False, True, False, False, True]
    assert "KeyError: 'smoke has no such line'" in outcomes["faulty"].why
    assert 3 <= outcomes["long"].seconds < 20
    content = environment(folders)
    assert content["environment"] == {"python": "3", "compiled_before": None}
    assert content["steps"]["long"]["why"] == "cut off at 3 s"
    assert content["steps"]["absent"] == {"status": None, "seconds": 0.0, "why": "it is not installed", "begun": 0}
    assert (folders.work / "fine.txt").read_text() == "limit 20.0\n"
    assert (folders.work / "long.txt").read_text() == "begun\n\ncut off at 3 s\n"
    assert (folders.out / "sanitizer.txt").read_text() == "limit 20.0\n"
    assert "begun\n" in capsys.readouterr().out
    text = (folders.out / files.SUMMARY).read_text()
    assert "Steps that ended well: fine" in text
    assert "  absent: not run: it is not installed" in text
    assert "  broken: exit status 3" in text


def test_what_torch_says_of_the_machine_and_what_was_compiled_is_taken_over(folders):
    (folders.work / "fingerprint.json").write_text('{"torch": "2"}')
    (folders.work / "precompile.json").write_text('{"parts": {}}')
    Run(folders, [], 60.0, facts={"python": "3", "torch": "none"}).run()
    assert environment(folders)["environment"] == {"python": "3", "torch": "2", "compiled_before": {"parts": {}}}


def test_time_is_kept_for_later_steps_and_slack_goes_to_who_takes_it(folders, monkeypatch):
    monkeypatch.setattr(steps, "LEAST", 1.0)
    monkeypatch.setattr(gpu_run, "LEAST", 1.0)
    todo = [Step("first", 5, FINE), Step("hungry", 10, FINE, takes_slack=True), Step("modest", 10, FINE)]
    Run(folders, todo, 40.0).run()
    limits = {step.name: float((folders.work / f"{step.name}.txt").read_text().split()[1]) for step in todo}
    assert limits["first"] == 5
    assert 20 < limits["hungry"] <= 30  # of 40, 10 are the last step's
    assert limits["modest"] == 10
    outcomes = Run(folders, [Step("long", 60, SLEEPS), Step("late", 60, FINE)], 1.5).run()
    assert outcomes["long"].why in ("cut off at 1 s", "cut off at 2 s")
    assert outcomes["late"].why == "0 s were left"
    hurried = Run(folders, [Step("hurried", 60, FINE)], 0.7).run()["hurried"]
    assert (hurried.begun, hurried.why) == (0, "1 s were left")


def test_what_is_urgent_comes_first(folders):
    (folders.first / "smoke.jsonl").write_text('{"family": "block"}\n')
    later = Step("later", 9, FINE, is_urgent=lambda f: 1 / 0 if not f.result("smoke.jsonl") else False)
    urgent = replace(later, name="urgent", is_urgent=lambda f: any(read_lines(f.result("smoke.jsonl"))))
    assert list(Run(folders, [later, urgent], 50.0).run()) == ["urgent", "later"]
    (folders.first / "smoke.jsonl").unlink()
    assert list(Run(folders, [later, urgent], 50.0).run()) == ["later", "urgent"]  # who cannot say so is not


def test_a_step_that_goes_on_is_begun_again_until_it_is_done(folders, monkeypatch):
    monkeypatch.setattr(steps, "LEAST", 0.1)
    dies = python(
        "import os, pathlib; count = pathlib.Path(r'{work}/count');"
        "n = len(count.read_text()) if count.exists() else 0;"
        "count.write_text('x' * (n + 1)); os.kill(os.getpid(), 9) if n < 2 else None"
    )
    outcomes = Run(folders, [Step("again", 30, dies, goes_on=True), Step("once", 30, python("1 / 0"))], 90.0).run()
    assert (outcomes["again"].status, outcomes["again"].begun) == (0, 3)
    assert (outcomes["once"].status, outcomes["once"].begun) == (1, 1)
    wrong_options = Step("wrong", 30, python("raise SystemExit(2)"), goes_on=True)
    assert Run(folders, [wrong_options], 90.0).run()["wrong"].begun == 1


def test_a_step_runs_where_it_wants_with_its_environment_and_this_repository(folders, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    shows = python("import os; print(os.getcwd(), os.environ['PYTHONPATH'], os.environ.get('GIVEN'))")
    todo = [Step("inside", 20, shows, runs_in_work=True), Step("outside", 20, shows, environment={"GIVEN": "1"})]
    Run(folders, todo, 60.0).run()
    found = {step.name: (folders.work / f"{step.name}.txt").read_text().split() for step in todo}
    path = f"{ROOT}:/elsewhere"
    assert found == {"inside": [str(folders.work), path, "None"], "outside": [str(ROOT), path, "1"]}


def test_what_a_command_leaves_behind_ends_with_it(tmp_path):
    """A grandchild that holds the output open does not hold the run up."""
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
    start = time.perf_counter()
    outcome = steps.run_command([sys.executable, "-c", code], tmp_path / "log.txt", 30.0)
    assert (outcome.status, time.perf_counter() - start < 20) == (0, True)
    status = Path(f"/proc/{(tmp_path / 'log.txt').read_text().strip()}/stat")
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] not in "ZX":
        assert time.perf_counter() - start < 20, "it still runs"
        time.sleep(0.01)


def test_a_command_that_writes_without_end_is_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(steps, "LARGEST", 100_000)
    command = [sys.executable, "-c", "while True: print('x' * 1000)"]
    outcome = steps.run_command(command, tmp_path / "log.txt", 30.0)
    assert outcome.why.startswith("cut off: it wrote more than")
    assert outcome.seconds < 20


def test_the_archive_has_everything_but_what_is_too_large(folders):
    contents = {"a.txt": b"a", "deep/b.txt": b"b", "large.bin": random.Random(0).randbytes(50_000)}
    for name, content in contents.items():
        path = folders.work / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    (folders.work / "half.part").write_text("x")
    folders.pack()
    assert archived(folders.out) == contents
    folders.pack(largest=20_000)
    assert archived(folders.out) == {"a.txt": b"a", "deep/b.txt": b"b", files.LEFT_OUT: b"large.bin\n"}
    assert (folders.work / "large.bin").exists()
    again = replace(folders, work=folders.first)
    again.unpack()
    assert (folders.first / "deep/b.txt").read_bytes() == b"b"


def archived(out):
    with tarfile.open(out / files.REST) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}


def test_an_archive_that_reaches_out_of_its_folder_is_not_followed(folders):
    with tarfile.open(folders.out / files.REST, "w:gz") as tar:
        info = tarfile.TarInfo("../stray.txt")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    folders.unpack()
    assert not (folders.work.parent / "stray.txt").exists()


def test_a_file_has_its_old_content_until_it_has_all_of_the_new(folders, monkeypatch):
    """Whatever a run replaces is written elsewhere first: the process may end at any moment."""
    run = Run(folders, [Step("step", 20, FINE, published=(files.BENCH, files.TABLE))], 60.0)
    for name in (files.BENCH, files.TABLE):
        (folders.work / name).write_text("{}")
    run.run()
    before = {path.name: path.read_bytes() for path in folders.out.iterdir()}
    assert before.keys() == {"bench.json", "table.json", "environment.json", "summary.txt", "rest.tgz"}
    places = []

    def ends(source, target):
        places.append(Path(target).name)
        assert {path.name: path.read_bytes() for path in folders.out.iterdir()} == before

    monkeypatch.setattr(os, "replace", ends)
    run.outcomes["step"] = replace(run.outcomes["step"], status=7)
    run._save()
    assert places == ["bench.json", "table.json", "environment.json", "summary.txt", "rest.tgz"]


def test_a_file_is_whole_on_another_disk_too(folders, monkeypatch):
    """Renaming does not work from one disk to another: then it is copied beside its place first."""
    real = os.replace

    def replace_on_one_disk(source, target):
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "another disk")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace_on_one_disk)
    files.write_whole(folders.out / "bench.json", b"{}", folders.work)
    assert {path.name for path in folders.out.iterdir()} == {"bench.json"}
    assert list(folders.work.iterdir()) == []


def test_a_file_that_cannot_be_replaced_is_an_error(folders, monkeypatch):
    def refuse(source, target):
        raise PermissionError(errno.EACCES, "not yours")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        files.write_whole(folders.out / "bench.json", b"{}", folders.work)
    assert list(folders.out.iterdir()) == []


def test_a_result_of_this_run_comes_before_one_of_part_1(folders):
    assert folders.result(files.SMOKE) is None
    for folder in (folders.first, folders.out):
        (folder / files.SMOKE).write_text("")
        assert folders.result(files.SMOKE) == folder / files.SMOKE


def test_what_is_being_written_lies_on_the_disk_of_the_results(folders, monkeypatch, tmp_path):
    monkeypatch.setattr(files, "ROOT", tmp_path)
    assert files.work_folder(folders.out).parent == tmp_path / "build"
    real = Path.stat

    def on_another_disk(path, **options):
        found = real(path, **options)
        return SimpleNamespace(st_dev=-1, st_mode=found.st_mode) if path.name == "build" else found

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", on_another_disk)
        assert files.work_folder(folders.out).parent == tmp_path
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(files, "ROOT", tmp_path / "file")  # no folder can be made in there
    assert files.work_folder(folders.out).parent == tmp_path


def test_half_a_last_line_does_not_count(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": ')
    assert [row["a"] for row in read_lines(path)] == [1, 2]
    path.write_text('{"a": 1}\n{"a" 2}\n')
    with pytest.raises(json.JSONDecodeError):
        list(read_lines(path))
    assert list(read_lines(None)) == []


def all_is_readable(out):
    """Every file by the means that its readers have; the names of those that are there."""
    names = {path.name for path in out.iterdir()}
    assert len(names) <= 8
    assert names <= set(OUTPUTS)
    for name in ("environment.json", "bench.json", "table.json"):
        if name in names:
            json.loads((out / name).read_text())
    list(read_lines(out / "smoke.jsonl" if "smoke.jsonl" in names else None))
    findings.Tests.of(out / "tests.txt" if "tests.txt" in names else None)
    if "rest.tgz" in names:
        archived(out)
    return names


def stand_ins(out):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = [sys.executable, str(ROOT / "tests" / "support" / "gpu_stand_ins.py"), str(out)]
    return subprocess.Popen(script, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)


@pytest.mark.parametrize("seed", range(6))
def test_a_run_that_is_killed_at_any_moment_leaves_files_that_can_be_read(seed, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    process = stand_ins(out)
    while not (out / files.SUMMARY).exists():
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0.0, 1.6))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    names = all_is_readable(out)
    assert {"environment.json", "rest.tgz", "summary.txt"} <= names
    assert (out / "summary.txt").read_text().count("\n") <= 60


def test_a_run_that_is_told_to_end_says_what_it_was_at(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    process = stand_ins(out)
    while not (out / "smoke.jsonl").exists():
        time.sleep(0.01)
    process.terminate()
    assert process.wait(20) == 143
    assert "smoke: cut off with the run" in (out / "summary.txt").read_text()
    assert all_is_readable(out) >= {"smoke.jsonl", "rest.tgz"}
    assert "smoke.txt" in archived(out)


def test_a_run_to_its_end_has_all_files(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    assert stand_ins(out).wait(60) == 1  # one step is broken
    assert all_is_readable(out) == set(OUTPUTS)
    assert json.loads((out / "bench.json").read_text())["number"] == 29


# The plan


def programs(plan_steps, folders):
    return [(step, [str(word) for word in step.command(folders, step.seconds)]) for step in plan_steps]


@pytest.fixture
def on_a_card(monkeypatch):
    monkeypatch.setattr(plan, "compute_capability", lambda: "90")
    monkeypatch.setattr(plan, "tool", lambda name: f"/bin/{name}")


@pytest.mark.parametrize("part", [1, 2, None])
def test_the_plan_fits_and_begins_with_what_matters(part):
    for archive in (None, Path("kernels.tgz")):
        todo = plan.plan(part, archive)
        assert sum(step.seconds for step in todo) <= plan.SECONDS[part] < 600
        names = [step.name for step in todo]
        assert len(set(names)) == len(names)
        before, after = ["unpack", "precompile", "environment"], ["tuner", "sanitizer", "page"]
        order = [*before, "smoke", "timings", "kernels", "huge", "others", "graphs", *after]
        assert [name for name in order if name in names] == names
    assert plan.SECONDS[1] <= 285


def test_kernels_are_compiled_and_have_the_configurations_that_ship():
    launching = {"precompile", "smoke", "timings", "kernels", "huge", "others", "graphs", "tuner", "sanitizer"}
    for step in plan.plan(None):
        if step.name in launching:
            launching.remove(step.name)
            assert (step.environment["TRITON_INTERPRET"], step.environment["SDN_TRITON_TABLES"]) == ("0", "")
    assert not launching


def test_both_parts_make_the_whole():
    parts = [[step.name for step in plan.plan(part)] for part in (1, 2, None)]
    assert set(parts[0]) | set(parts[1]) == set(parts[2])
    assert {"precompile", "environment"} == set(parts[0]) & set(parts[1])


def test_what_is_rehearsed_is_the_plan(folders, on_a_card):
    """The same steps, in the same order, with the same files and the same programs."""
    real, tried = plan.plan(None), rehearsal.STEPS
    assert [step.name for step in tried] == [step.name for step in real]
    assert [(step.log, step.published, step.runs_in_work, step.goes_on) for step in tried] == [
        (step.log, step.published, step.runs_in_work, step.goes_on) for step in real
    ]
    modules = [[words[words.index("-m") + 1] for _, words in programs(s, folders)] for s in (real, tried)]
    assert modules[0] == modules[1]


def test_commands_are_such_as_the_programs_know(folders, on_a_card, monkeypatch):
    """Their options exist, and budgets lie below the limits."""
    from sdn_triton.bench.gpu import timings, tuning
    from sdn_triton.cli import parser_for

    ran = []
    monkeypatch.setattr(timings, "run", lambda words, *others: ran.append(words) or 0)
    monkeypatch.chdir(folders.work)
    for step, words in programs([*plan.plan(None), *rehearsal.STEPS], folders):
        if "sdn_triton.bench.gpu.timings" in words:
            assert timings.main(words[3:]) == 0
            args = parser_for(ran[-1][3:]).parse_args(ran[-1][3:])
            assert (args.json, args.resume) == (Path("bench.json"), True)
            assert float(words[words.index("--seconds") + 1]) < step.seconds
    assert [words[words.index("--suite") + 1] for words in ran] == ["gpu", "quick"]
    with pytest.raises(SystemExit):
        tuning.main(["--table", "x.json", "--seconds", "5", "--without", "no_such_kernel"])


def test_marks_that_the_plan_names_are_known(folders, on_a_card, pytestconfig):
    """An expression with an unknown mark ends pytest before its first test."""
    known = {re.match(r"\w+", line)[0] for line in pytestconfig.getini("markers")}
    named = set()
    for _, words in programs([*plan.plan(None), *rehearsal.STEPS], folders):
        if words[2] == "pytest":
            named |= set(re.findall(r"\w+", words[words.index("-m", 3) + 1])) - {"not", "and"}
    assert named == {"huge", "long"}
    assert named <= known


def test_of_what_takes_gigabytes_two_run_at_a_time(folders):
    pytest.importorskip("xdist")
    chosen = {}
    for step, words in programs([plan.KERNEL_TESTS, plan.HUGE_TESTS], folders):
        chosen[step.name] = {
            option: words[words.index(option, 3) + 1] for option in ("-m", "-n") if option in words[3:]
        }
    assert chosen["huge"] == {"-m": "huge", "-n": "2"}
    assert chosen["kernels"]["-m"] == "not huge"


def test_what_smoke_found_changes_the_rest(folders, on_a_card):
    def line(kernels, ok, variant="as chosen", family="forward"):
        row = {"family": family, "kernels": kernels, "arithmetic": "bf16", "shape": "odd", "size": "1", "why": None}
        return json.dumps(row | {"variant": variant, "ok": ok, "shares": {}}) + "\n"

    path = folders.first / "smoke.jsonl"
    path.write_text(line(["paired_forward"], True))
    assert not plan.SANITIZE.is_urgent(folders)
    assert "--family" not in plan.SANITIZE.command(folders, 30)
    assert "--report-api-errors no" in " ".join(plan.SANITIZE.command(folders, 30))
    assert "--without" not in plan.TUNER.command(folders, 30)
    # A variant that is right lets the tuner find another, which it checks itself.
    path.write_text(line(["paired_forward"], False) + line(["paired_forward"], True, "one stage"))
    assert plan.SANITIZE.is_urgent(folders)
    assert plan.SANITIZE.command(folders, 30)[-2:] == ["--family", "forward"]
    assert "--without" not in plan.TUNER.command(folders, 30)
    wrong = [line(["paired_weight_gradient"], False, variant) for variant in ("as chosen", "one stage")]
    path.write_text("".join(wrong))
    assert plan.TUNER.command(folders, 30)[-2:] == ["--without", "difference_weight_gradient"]
    # Of the question about the compiler's fault only the form that ships can be wrong, in any number of stages.
    path.write_text(line(["paired_forward"], False, "2 stages", family="hazard, as shipped"))
    assert plan.SANITIZE.command(folders, 30)[-2:] == ["--family", "hazard, as shipped"]


def test_the_sanitizer_is_missed_where_it_is_not(folders, monkeypatch):
    monkeypatch.setattr(plan, "tool", lambda name: None)
    assert "compute-sanitizer is not installed" in plan.SANITIZE.why_not(folders)


def test_graph_tests_are_found_and_run_one_by_one(tmp_path, monkeypatch):
    assert graph_tests.DEFINED.search((ROOT / "tests" / "dispatch" / "test_compile.py").read_text())
    (tmp_path / "tests").mkdir()
    parametrized = "import pytest\n@pytest.mark.parametrize('x', [1, 2])\n"
    (tmp_path / "tests/test_a.py").write_text(f"{parametrized}def test_a_cuda_graph(x): pass\ndef test_b(): pass\n")
    (tmp_path / "tests/test_b.py").write_text("raise ImportError('its tests only mention a cuda_graph')\n")
    found = graph_tests.collected(tmp_path)
    assert found == ["tests/test_a.py::test_a_cuda_graph[1]", "tests/test_a.py::test_a_cuda_graph[2]"]
    (tmp_path / "tests/test_c.py").write_text("import missing\ndef test_another_cuda_graph(): pass\n")
    with pytest.raises(RuntimeError, match="No module named 'missing'"):
        graph_tests.collected(tmp_path)
    for path in (tmp_path / "tests").iterdir():
        path.unlink()
    with pytest.raises(RuntimeError, match="no tests of CUDA graphs"):
        graph_tests.collected(tmp_path)
    ran = []
    monkeypatch.setattr(graph_tests, "collected", lambda: found)
    monkeypatch.setattr(graph_tests, "run", lambda test, report: ran.append(test) or int(test == found[0]))
    assert graph_tests.main(["--report", str(tmp_path / "tests.txt")]) == 1
    assert sorted(ran) == sorted(found)


# The command


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--part", "1"], "--part needs --out"),
        (["--out", "{out}", "--first", "{out}"], "--first needs --part 2"),
        (["--part", "2", "--out", "{out}", "--first", "{out}/none"], "there is no '{out}/none'"),
        (["--out", "{out}", "--archive", "{out}/none"], "there is no file '{out}/none'"),
        (["--rehearse", "--part", "1", "--out", "{out}"], "--rehearse takes both parts"),
        (["--rehearse"], "--rehearse needs --out"),
        (["--out", "{out}"], "it has bench.json already"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(options, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "run", lambda *given: 0)
    (tmp_path / "bench.json").write_text("{}")
    with pytest.raises(SystemExit) as stopped:
        command.main([option.format(out=tmp_path) for option in options])
    assert stopped.value.code == 2
    assert message.format(out=tmp_path) in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_no_default_folder(capsys):
    with pytest.raises(SystemExit):
        command.main([])
    assert "needs a GPU" in capsys.readouterr().err


def test_part_2_goes_on_in_the_folder_of_part_1(tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(plan, "plan", lambda part, archive: [Step(f"step-{part}", 20, FINE)])
    for part in ("1", "2"):
        assert command.main(["--out", str(out), "--part", part]) == 0
    assert set(archived(out)) == {"step-1.txt", "step-2.txt"}
    assert list(json.loads((out / "environment.json").read_text())["steps"]) == ["step-1", "step-2"]
    assert list((tmp_path / "build").iterdir()) == []  # what was being written there


def test_a_second_run_of_a_day_has_a_folder_of_its_own(tmp_path):
    day = datetime(2000, 1, 2, tzinfo=timezone.utc)
    found = []
    for _ in range(3):
        found.append(command.new_folder(tmp_path, day))
        found[-1].mkdir()
    assert [path.name for path in found] == ["2000-01-02", "2000-01-02-2", "2000-01-02-3"]


@pytest.mark.long
def test_the_rehearsal_leaves_every_file(tmp_path):
    out = tmp_path / "out"
    subprocess.run([sys.executable, "-m", "bench.gpu", "--rehearse", "--out", str(out)], cwd=ROOT, timeout=600)
    assert all_is_readable(out) == set(OUTPUTS)
    found = json.loads((out / "environment.json").read_text())["steps"]
    assert {name: step["why"] or step["status"] for name, step in found.items()} == dict.fromkeys(found, 0)


# What the machine says


def test_clocks_are_those_of_the_card_that_runs(tmp_path, monkeypatch):
    """nvidia-smi counts cards otherwise than CUDA_VISIBLE_DEVICES leaves them; what it does not know is None."""
    known = 'case "$*" in *--id=GPU-ab-cd*) echo "1980, 1980, 2619, 700.00, [N/A]";; *) exit 6;; esac'
    card_that_answers(tmp_path, monkeypatch, known)
    cards = {"ab-cd": 1980.0, "other": None}
    for uuid, megahertz in cards.items():
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, uuid=uuid: SimpleNamespace(uuid=uuid))
        found = clocks(torch.device("cuda"))
        assert list(found) == list(GPU_CLOCKS)
        assert (found["sm_mhz"], found["temperature_c"]) == (megahertz, None)


def card_that_answers(folder, monkeypatch, script):
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_the_card_is_asked_without_torch(tmp_path, monkeypatch):
    card_that_answers(tmp_path, monkeypatch, 'case "$*" in *compute_cap*) echo 9.0;; *) echo "H100, 580.1";; esac')
    assert machine.compute_capability() == "90"
    found = machine.facts()
    assert (found["card"]["name"], found["card"]["driver_version"]) == ("H100", "580.1")
    assert found["packages"]["torch"] == torch.__version__
    (tmp_path / "toolkit/bin").mkdir(parents=True)
    (tmp_path / "nvidia-smi").rename(tmp_path / "toolkit/bin/checker")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "toolkit"))
    assert machine.tool("checker") == str(tmp_path / "toolkit/bin/checker")
    card_that_answers(tmp_path, monkeypatch, "echo no devices")
    with pytest.raises(RuntimeError, match="nvidia-smi does not say"):
        machine.compute_capability()


def test_the_run_begins_without_torch():
    """Its first import takes seconds, on a fresh machine more than that."""
    code = "import sys; import bench.gpu.__main__; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
