"""The commands as users run them: in a pipe, with wrong options, without triton."""

import json
import os
import subprocess
import sys

import pytest
import torch
from support.commands import SMALL, TINY
from support.places import ROOT

from sdn_triton._version import __version__
from sdn_triton.bench.commands import doctor
from sdn_triton.cli import main

WRONG = (
    "from sdn_triton.bench.problems.providers import PROVIDERS, plain, register, unfold;"
    "register(plain('wrong', 'twice too much', lambda u, v, weight, bias: 2 * unfold(u, v, weight, bias)));"
)


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "40"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


def run_cli(before: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_python("-c", f"{before} from sdn_triton.cli import main; raise SystemExit(main({list(arguments)}))")


def test_compare_in_a_pipe(tmp_path):
    path = tmp_path / "figures.json"
    options = (*SMALL, "--json", str(path))
    done = run_cli(TINY, "compare", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "[4/4" in done.stderr
    lines = done.stdout.splitlines()
    assert "Tiny 64x64, layer stage 1: 4x16x16" in lines
    assert "Tiny 64x64, block stage 1: 4x16x16" in lines
    assert "Tiny 64x64, neck: 4x16x16, 6x8x8" in lines
    rows = [line.split() for line in lines if line.startswith("eager  ")]
    assert len(rows) == 4
    assert all(len(row) == 11 for row in rows)
    assert "compile: not run: --quick leaves compilation out" in lines
    assert any(line.startswith("Summary, Tiny 64x64: eager") for line in lines)
    found = json.loads(path.read_text())
    assert found["complete"] is True
    assert found["settings"]["command"] == ["compare", *options]
    assert [(case["kind"], case["name"]) for case in found["cases"][::2]] == [
        ("layer", "stage 1"), ("layer", "stage 2"), ("block", "stage 1"), ("neck", "neck")
    ]  # fmt: skip
    assert [case["pass"] for case in found["cases"]] == ["inference", "training"] * 4
    assert {r["status"] for case in found["cases"] for n, r in case["results"].items() if n != "triton"} == {"ok"}
    assert main(["bench", "compare", str(path), str(path)]) == 0


def test_compare_ends_with_1_when_a_provider_is_wrong():
    done = run_cli(TINY + WRONG, "compare", *SMALL, "--provider", "wrong")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "wrong WRONG, not timed: output: error 1.0e+00" in done.stdout


BENCH = (
    "bench",
    "run",
    "--network",
    "tiny",
    "--size",
    "64x64",
    "--threads",
    "1",
    "--kind",
    "layer",
    "--rounds",
    "8",
    "8",
)
FEW = ("--provider", "eager", "--provider", "unfold")


@pytest.mark.long
def test_bench_in_a_pipe_is_stopped_by_its_budget_and_gone_on_with(tmp_path):
    path = tmp_path / "bench.json"
    options = (*BENCH, *FEW, "--json", str(path))
    done = run_cli(TINY, *options, "--budget", "0.001")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 cases did not fit the budget" in done.stdout
    assert json.loads(path.read_text())["complete"] is False

    done = run_cli(TINY, *options, "--budget", "60")
    assert done.returncode == 2
    assert "is there: --resume goes on with it" in done.stderr

    done = run_cli(TINY, *options, "--budget", "60", "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "[4/4" in done.stderr
    found = json.loads(path.read_text())
    assert found["complete"] is True
    assert found["roofs"]["copy_bytes_per_s"] > 0
    assert [(case["name"], case["pass"]) for case in found["cases"]] == [
        (f"stage {i}", what) for i in (1, 2) for what in ("inference", "training")
    ]
    assert {r["status"] for case in found["cases"] for r in case["results"].values()} == {"ok"}
    assert {name: provider["role"] for name, provider in found["providers"].items()} == {
        "conv2d": "floor", "eager": "ours", "unfold": "baseline"
    }  # fmt: skip
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("unfold  ")]
    assert len(rows) == 4
    assert any(line.startswith("eager beside the floor") for line in done.stdout.splitlines())

    done = run_cli(TINY, *options, "--budget", "60", "--resume")
    assert "4 of 4 cases are finished and kept." in done.stdout
    assert json.loads(path.read_text())["cases"] == found["cases"]
    done = run_cli(TINY, *options, "--budget", "60", "--resume", "--no-tf32")
    assert done.returncode == 2
    assert "tf32.convolution: True there, False now" in done.stderr


@pytest.mark.long
def test_bench_ends_with_1_when_a_provider_is_wrong(tmp_path):
    options = ("--provider", "wrong", "--pass", "inference", "--json", str(tmp_path / "bench.json"))
    done = run_cli(TINY + WRONG, *BENCH, *options)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "wrong refused: output: error 1.0e+00" in done.stdout


def test_bench_lists_its_cases(capsys):
    assert main(["bench", "run", "--suite", "cpu", "--list", "--kind", "neck"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all("/neck/" in line for line in lines)


def test_bench_has_commands_of_its_own(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for command in ("run", "compare", "plot", "report"):
        assert f"\n    {command}" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--suite", "everything"], "choose from"),
        (["--size", "64x64"], "--size needs --network"),
        (["--suite", "cpu", "--batch", "3"], "no case of the suite is left"),
        (["--rounds", "9", "8"], "the least must not be above the most"),
        (["--rounds", "9"], "expected 2 arguments"),
        (["--pass", "sideways"], "choose from"),
        (["--json", "no-such-folder/out.json"], "existing folder"),
    ],
    ids=lambda value: "-".join(value)[2:] if isinstance(value, list) else "",
)
def test_wrong_options_of_bench_say_so(options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "run", *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--network", "vgg"], "choose from"),
        (["--size", "512"], "HEIGHTxWIDTH"),
        (["--size", "8x8"], "at least 32x32"),
        (["--batch", "0"], "positive whole number"),
        (["--budget", "-1"], "positive number of seconds"),
        (["--threads", "two"], "positive whole number"),
        (["--dtype", "int8"], "choose from"),
        (["--device", "abacus"], "is not a device"),
        (["--device", "meta"], "can be compared"),
        (["--device", "cuda:99"], "torch sees"),
        (["--provider", "magic"], "choose from"),
        (["--image", "no-such-file.png"], "there is no file"),
        (["--json", "no-such-folder/out.json"], "existing folder"),
        (["--jsn", "out.json"], "unrecognized"),
    ],
    ids=lambda value: "-".join(value)[2:] if isinstance(value, list) else "",
)
def test_wrong_options_say_so(options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *options])
    assert stopped.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err


def test_an_image_names_the_extra_it_needs(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    path = tmp_path / "image.png"
    path.write_bytes(b"")
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--image", str(path)])
    assert stopped.value.code == 2
    assert "pip install '.[networks]'" in capsys.readouterr().err


def test_a_file_that_is_no_image_is_said(tmp_path, capsys):
    pytest.importorskip("PIL")
    path = tmp_path / "image.png"
    path.write_bytes(b"not an image")
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--image", str(path)])
    assert stopped.value.code == 2
    assert "not an image" in capsys.readouterr().err


def test_no_command_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr()
    assert "compare" in shown.out
    assert "doctor" in shown.out


def test_the_package_is_the_command():
    done = run_python("-m", "sdn_triton", "--version")
    assert (done.returncode, done.stdout) == (0, f"sdn-triton {__version__}\n"), done.stderr


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert torch.__version__ in shown
    assert "What runs where" in shown
    rows = [line.split() for line in shown.splitlines() if line.startswith("cpu ")]
    assert [row[1:4] for row in rows] == [
        [dtype, "eager", "eager"] for dtype in ("float32", "bfloat16", "float16", "float64")
    ]


def test_doctor_without_triton():
    done = run_cli("import sys; sys.modules['triton'] = None;", "doctor")
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("triton "))
    assert "not installed" in line or "importing it fails" in line
    assert "cpu     float32   eager" in done.stdout


def test_doctor_names_what_brings_the_missing(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "package_version", lambda name: None)
    monkeypatch.setattr(doctor, "cpp_compiler", lambda: None)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for extra in doctor.EXTRAS:
        assert f"pip install '.[{extra}]'" in shown
    assert "triton (not installed)" in shown
    assert "C++ compiler" in shown


def test_doctor_knows_the_extras_of_the_package():
    tomllib = pytest.importorskip("tomllib")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, packages in doctor.EXTRAS.items():
        assert sorted(requirement.partition(">")[0] for requirement in declared[extra]) == sorted(packages)
