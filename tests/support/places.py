"""Where things lie in the repository."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
RESULTS = ROOT / "bench" / "results"
README = ROOT / "README.md"
EXAMPLE = TESTS / "support" / "bench-example.json"
"""A file of ``sdn-triton bench run``, made by ``bench_example.py``."""
