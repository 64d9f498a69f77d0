"""The marker ``sampled``, tried on a file of tests."""

import subprocess
import sys
from pathlib import Path

CONFTEST = """
from sampling import mark_what_a_sample_leaves_out

def pytest_collection_modifyitems(items):
    mark_what_a_sample_leaves_out(items)
"""
CASES = """
import pytest

@pytest.mark.sampled(2)
@pytest.mark.parametrize("case", [*range(5), pytest.param(5, marks=pytest.mark.long)])
def test_some(case): pass

def test_all(): pass
"""


def collected(folder: Path, chosen: str) -> list[str]:
    options = [
        "-m",
        chosen,
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        f"pythonpath={Path(__file__).parent}",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options], cwd=folder, capture_output=True, text=True, check=True
    )
    return [line for line in done.stdout.splitlines() if "::" in line]


def test_a_sample_and_the_rest_are_all(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_cases.py").write_text(CASES)
    short, long = collected(tmp_path, "not long"), collected(tmp_path, "long")
    assert len(short) == 2 + 1
    assert "test_cases.py::test_all" in short
    assert "test_cases.py::test_some[5]" in long
    assert len({*short, *long}) == len(short) + len(long) == 7
