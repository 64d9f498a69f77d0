"""Commands whose output cannot be written: one line, an exit status, and nothing that was measured is lost."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import SMALL, TINY
from support.places import ROOT

from sdn_triton.bench import arguments
from sdn_triton.bench.commands import compare
from sdn_triton.bench.runs.record import Record
from sdn_triton.cli import main

FULL = Path("/dev/full")
DOCTOR = f"{sys.executable} -m sdn_triton doctor"
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


def shell(command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


def test_a_reader_that_has_seen_enough():
    done = shell(f"{DOCTOR} | head -1; exit ${{PIPESTATUS[0]}}")
    assert done.stdout == "Installed\n"
    assert done.stderr == ""
    assert done.returncode in (0, 141)  # 0 where all was written before


OUTPUTS = {
    "closed": ("sdn_triton doctor", ">&-", "standard output is closed"),
    "full": ("sdn_triton doctor", f"> {FULL}", "No space left on device"),
    "another": ("sdn_triton.bench.yardstick", ">&-", "standard output is closed"),
}


@needs_full
@pytest.mark.parametrize(("module", "redirection", "reason"), OUTPUTS.values(), ids=OUTPUTS.keys())
def test_an_output_that_cannot_be_written(module, redirection, reason):
    done = shell(f"{sys.executable} -m {module} {redirection}")
    assert re.fullmatch(rf"[\w. -]+: error: {reason}\n", done.stderr), done.stderr
    assert done.returncode == 74


@needs_full
def test_what_was_measured_is_kept_elsewhere(tmp_path):
    """The folder goes away while the command runs."""
    path = tmp_path / "folder" / "figures.json"
    path.parent.mkdir()
    lose = (
        "import shutil; from sdn_triton.bench.runs.runner import Runner; run = Runner.run; Runner.run = "
        f"lambda *a: (shutil.rmtree({str(path.parent)!r}, ignore_errors=True), run(*a))[1];"
    )
    options = ["compare", *SMALL, "--json", str(path)]
    code = f"{lose} {TINY} from sdn_triton.cli import main; raise SystemExit(main({options}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = re.findall(r"cannot write (.*): No such file or directory; the figures are in (.*)\n", done.stderr)
    assert [given for given, _ in said] == [str(path)]
    assert done.returncode == 1, done.stderr
    found = json.loads(Path(said[0][1]).read_text())
    assert found["complete"] is True
    assert len(found["cases"]) == 8


def test_a_records_file_moves_once(tmp_path, capsys):
    path = tmp_path / "gone" / "bench.json"
    record = Record(path, {}, {}, False)
    for case in ("one", "two"):
        record.add({"id": case})
    assert record.path != path
    assert [case["id"] for case in json.loads(record.path.read_text())["cases"]] == ["one", "two"]
    assert capsys.readouterr().err.count("cannot write") == 1


def test_a_folder_that_takes_no_files_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(arguments.os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(Exception, match=r"cannot write .*figures.json.*: its folder is read-only"):
        arguments.writable_file(str(tmp_path / "figures.json"))


def test_an_error_while_printing_names_the_file(monkeypatch, capsys):
    monkeypatch.setattr(compare, "run", lambda args: Path("/nowhere/at/all").read_text())
    assert main(["compare"]) == 74
    assert capsys.readouterr().err == "sdn-triton: error: /nowhere/at/all: No such file or directory\n"
