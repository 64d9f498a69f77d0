"""``make gpu``: its plan, tried with parts that need no GPU; and predictions set beside measurements."""

import json
import os
import sys
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sdn_triton.bench import predicted, sanitized
from sdn_triton.bench.environment import GPU_CLOCKS, clocks
from sdn_triton.bench.gpu import run as gpu
from sdn_triton.bench.gpu.run import Part


def python(code):
    return lambda folder, limit: [sys.executable, "-c", code.format(folder=folder, limit=limit)]


WRITES = python("open(r'{folder}/made', 'w').write('x'); print('limit', {limit:.1f})")
SLEEPS = python("import time; print('begun', flush=True); time.sleep(60)")


def test_parts_run_in_order_and_are_on_disk_as_they_end(tmp_path, capsys):
    seen = []

    def note(name, result=None):
        summary = json.loads((tmp_path / "gpu.json").read_text())
        seen.append((name, list(summary["parts"])))
        return result

    parts = [
        Part("first", 20, WRITES, why_not=lambda folder: note("first")),
        Part("broken", 20, python("raise SystemExit(3)"), why_not=lambda folder: note("broken")),
        Part("absent", 20, SLEEPS, why_not=lambda folder: note("absent", "it is not installed")),
        Part("needy", 20, SLEEPS, needs=("made", "unmade")),
        Part("content", 20, python("print('all there')"), needs=("made",)),
        Part("long", 1.5, SLEEPS),
    ]
    outcomes = gpu.Run(tmp_path, parts, environment={"torch": "1"}).run()
    assert seen == [("first", []), ("broken", ["first"]), ("absent", ["first", "broken"])]
    assert [outcome.status for outcome in outcomes.values()] == [0, 3, None, None, 0, None]
    assert [outcome.went_well for outcome in outcomes.values()] == [True, False, True, True, True, False]
    assert "it needs unmade" in str(outcomes["needy"])
    assert str(outcomes["long"]).startswith("cut off after 1.")
    summary = json.loads((tmp_path / "gpu.json").read_text())
    assert summary["environment"] == {"torch": "1"}
    assert summary["parts"]["long"]["cut_off"] is True
    assert summary["parts"]["absent"] == {
        "exit_status": None, "seconds": 0.0, "cut_off": False, "not_run": "it is not installed"
    }  # fmt: skip
    assert (tmp_path / "first.txt").read_text() == "limit 20.0\n"
    assert (tmp_path / "long.txt").read_text().startswith("begun\n")
    assert "== absent: not run: it is not installed" in capsys.readouterr().out


def test_no_part_passes_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "LEAST", 1.0)
    parts = [Part("long", 60, SLEEPS), Part("late", 60, WRITES), Part("later", 1, WRITES)]
    outcomes = gpu.Run(tmp_path, parts, total=1.5).run()
    assert outcomes["long"].describe()["cut_off"] is True
    assert outcomes["long"].seconds < 20
    assert [outcomes[name].why_not for name in ("late", "later")] == ["0 s were left"] * 2
    assert not (tmp_path / "made").exists()


def test_the_plan_fits_and_begins_with_what_matters():
    names = [part.name for part in gpu.PARTS]
    assert names[:2] == ["tests", "bench"]
    assert sum(part.seconds for part in gpu.PARTS[:-1]) <= gpu.TOTAL < 540
    assert names.index("tune") < names.index("bench-tuned")
    assert names.index("machine-code") < names.index("predicted")


@pytest.mark.parametrize("part", [p for p in gpu.PARTS if p.name != "machine-code"], ids=lambda part: part.name)
def test_commands_are_such_as_the_programs_know(part, monkeypatch):
    """The options exist, budgets lie below the limit, and nothing names a folder of this machine."""
    from sdn_triton.cli import parser_for

    monkeypatch.setattr(gpu, "sanitizer", lambda: "compute-sanitizer")
    folder = gpu.ROOT / "bench" / "results" / "some-gpu" / "2000-01-01"
    command = [str(word) for word in part.command(folder, part.seconds)]
    assert not [word for word in command if str(gpu.ROOT) in word and word != sys.executable]
    if command[1:3] == ["-m", "sdn_triton"] and "report" not in command:
        arguments = command[3:]
        if "--json" in arguments:  # a file in a folder that is not there in the test
            arguments[arguments.index("--json") + 1] = "x.json"
        args = parser_for(arguments).parse_args(arguments)
        assert 0 < args.budget <= part.seconds - gpu.MARGIN
    assert isinstance(part.environment(folder), dict)


def test_a_second_run_of_a_day_has_a_folder_of_its_own(tmp_path):
    day = datetime(2000, 1, 2, tzinfo=timezone.utc)
    found = [gpu.new_folder(tmp_path, "some-gpu", day) for _ in range(3)]
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "some-gpu/2000-01-02", "some-gpu/2000-01-02-2", "some-gpu/2000-01-02-3"
    ]  # fmt: skip
    assert all((path / "tables").is_dir() for path in found)


def test_tests_of_kernels_come_first():
    files = gpu.test_files()
    kernels = [name for name in files if "kernels" in name]
    assert files[: len(kernels)] == kernels
    assert {Path(name).name for name in files} == {path.name for path in (gpu.ROOT / "tests").glob("test_*.py")}


def test_the_sanitized_program_checks_every_kind(capsys):
    assert sanitized.main(["--provider", "eager", "--dtype", "float32", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.endswith(": ok") for line in lines)
    assert {kind for kind in ("layer", "block", "neck") for line in lines if f"/{kind}/" in line} == {
        "layer", "block", "neck"
    }  # fmt: skip


def test_the_sanitized_program_fails_where_results_are_wrong(monkeypatch, capsys):
    from sdn_triton.bench.providers import PROVIDERS, plain, unfold

    wrong = plain("wrong", "", lambda u, v, weight, bias: 1.01 * unfold(u, v, weight, bias))
    monkeypatch.setitem(PROVIDERS, "wrong", wrong)
    assert sanitized.main(["--provider", "wrong", "--dtype", "float32", "--device", "cpu"]) == 1
    assert ": wrong: output" in capsys.readouterr().out


def code_row(kernel, ratios, channels=64, dtype="bf16", pairs=True):
    return {
        "kernel": kernel, "channels": channels, "outputs": channels, "dtype": dtype, "memory_format": "channels_last",
        "config": {"pairs": pairs}, "floor_ratio": ratios[0], "ratio": ratios[1],
        "error": None,
    }  # fmt: skip


def measured_case(pass_, ours, floor, **changes):
    results = {
        name: {"status": "ok", "samples_ms": [ms] * 9, "median_ms": ms, "interval_ms": [ms, ms]}
        for name, ms in (("triton", ours), ("conv2d", floor))
    }
    return {
        "id": pass_, "kind": "layer", "mode": "kernel", "pass": pass_, "stages": [[64, 8, 8]], "dtype": "bfloat16",
        "memory_format": "channels_last", "results": results,
    } | changes  # fmt: skip


def test_predictions_stand_beside_what_was_measured(tmp_path, capsys):
    code = [
        code_row("difference_forward", (1.0, 2.0)),
        code_row("difference_forward", (9.0, 9.0), dtype="fp16"),
        code_row("difference_forward", (9.0, 9.0), channels=128),
        code_row("difference_data_gradient", (1.0, 1.5)),
        code_row("tap_products", (2.0, 2.5)),
        code_row("difference_weight_gradient", (3.0, 4.0)),
    ]
    cases = [
        measured_case("inference", 3.0, 2.0),
        measured_case("backward", 8.0, 2.0),
        measured_case("training", 8.0, 2.0),
        measured_case("inference", 3.0, 2.0, mode="operator"),
        measured_case("inference", 3.0, 2.0, stages=[[32, 8, 8]]),
    ]
    content = {"schema": 1, "cases": cases, "environment": {}, "settings": {}, "roofs": None, "complete": True}
    forward, backward = predicted.rows_of(code, content)
    assert (forward.floor, forward.predicted, forward.measured.median) == (1.0, 2.0, 1.5)
    # All three kernels of the backward, over the two products of a convolution's.
    assert (backward.floor, backward.predicted, backward.measured.median) == (3.0, 4.0, 4.0)
    # Kernels without pairs make no products of taps first.
    assert predicted.predict(
        [*code[:4], code_row("difference_data_gradient", (5.0, 6.0), pairs=False), code[5]], cases[1]
    ) == (4.0, 5.0)
    files = {name: tmp_path / f"{name}.json" for name in ("code", "bench", "out")}
    files["code"].write_text(json.dumps(code))
    files["bench"].write_text(json.dumps(content | {"providers": {}}))
    assert predicted.main([str(files["code"]), str(files["bench"]), "--json", str(files["out"])]) == 0
    assert "1.50x" in capsys.readouterr().out
    assert [row["measured"] for row in json.loads(files["out"].read_text())] == [1.5, 4.0]
    files["code"].write_text("[]")
    assert predicted.main([str(files["code"]), str(files["bench"])]) == 1


def test_clocks_are_those_of_the_card_that_runs(tmp_path, monkeypatch):
    """nvidia-smi counts cards otherwise than CUDA_VISIBLE_DEVICES leaves them; what it does not know is None."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\ncase "$*" in *--id=GPU-ab-cd*) echo "1980, 1980, 2619, 700.00, [N/A]";; *) exit 6;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    cards = {"ab-cd": 1980.0, "other": None}
    for uuid, megahertz in cards.items():
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, uuid=uuid: SimpleNamespace(uuid=uuid))
        found = clocks(torch.device("cuda"))
        assert list(found) == list(GPU_CLOCKS)
        assert (found["sm_mhz"], found["temperature_c"]) == (megahertz, None)
