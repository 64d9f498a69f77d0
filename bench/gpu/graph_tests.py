"""Each test of CUDA graphs in a process of its own: ``python -m sdn_triton.bench.gpu.graph_tests --report FILE``.

A capture that fails leaves its process on a stream of its own and the allocator believing in a capture, so that all
that comes after it fails, too.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .. import ROOT

NAMED = "cuda_graph"
"""What the names of these tests have in common."""
DEFINED = re.compile(rf"^def test_\w*{NAMED}", re.MULTILINE)
GROUP = "graphs"
AT_ONCE = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Find the tests and run them; 1 if one of them failed."""
    parser = argparse.ArgumentParser(
        prog="python -m sdn_triton.bench.gpu.graph_tests", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--report", type=Path, required=True, metavar="FILE")
    args = parser.parse_args(argv)
    tests = collected()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        statuses = list(pool.map(lambda test: run(test, args.report.resolve()), tests))
    return int(any(statuses))


def collected(root: Path = ROOT) -> list[str]:
    """The tests, by their ids.

    Raises:
        RuntimeError: there is none, or a file cannot be imported.
    """
    files = [path for path in sorted((root / "tests").rglob("test_*.py")) if DEFINED.search(path.read_text("utf-8"))]
    options = ["--collect-only", "-q", "-k", NAMED]
    command = [sys.executable, "-m", "pytest", *options, *(str(path.relative_to(root)) for path in files)]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # they take seconds to import
    listed = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if listed.returncode:
        raise RuntimeError(f"no tests of CUDA graphs: {listed.stdout}{listed.stderr}")
    return [line for line in listed.stdout.splitlines() if "::" in line]


def run(test: str, report: Path) -> int:
    """Run one test; its exit status."""
    options = ["-q", "-p", "bench.gpu.reporting", "--report", str(report), "--group", GROUP]
    return subprocess.run([sys.executable, "-m", "pytest", *options, test], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
