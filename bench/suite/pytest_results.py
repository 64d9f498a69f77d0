"""From what pytest-benchmark wrote to what ``sdn-triton bench`` reads.

``python -m sdn_triton.bench.suite.pytest_results IN OUT``.

The providers of a case ran one after the other, not in turns: the file says so, and ``bench compare`` minds it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdn_triton.streams import guarded

from .. import arguments
from ..measuring.environment import write_json
from ..measuring.rounds import Timing
from ..runs.runner import Row, row, timed_row
from ..runs.saved_runs import SCHEMA


def record_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same figures as ``sdn-triton bench run`` writes them.

    Raises:
        ValueError: the file is none of ``bench/suite``.
    """
    if "sdn_triton" not in content:
        raise ValueError(
            "it was not written by the benchmarks in bench/suite (pytest bench/suite --benchmark-json FILE)"
        )
    own = content["sdn_triton"]
    cases: dict[str, dict[str, Any]] = {}

    def put(case: Mapping[str, Any], provider: str, result: Row) -> None:
        cases.setdefault(case["id"], {**case, "results": {}})["results"][provider] = result

    for benchmark in content["benchmarks"]:
        info = benchmark["extra_info"]
        timing = Timing(tuple(benchmark["stats"]["data"]))
        put(info["case"], info["provider"], timed_row(timing, info["peak_bytes"], info["errors"]))
    for missing in own["unrun"]:
        put(missing["case"], missing["provider"], row(missing["status"], missing["why"], missing["errors"]))
    used = {name for case in cases.values() for name in case["results"]}
    return {
        "schema": SCHEMA,
        "complete": True,
        "environment": own["environment"],
        "settings": {"suite": "pytest-benchmark", "interleaved": False, "interval_level": 0.95},
        "roofs": own["roofs"],
        "providers": {name: facts for name, facts in own["providers"].items() if name in used},
        "cases": list(cases.values()),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Convert one file."""
    parser = argparse.ArgumentParser(
        prog="python -m sdn_triton.bench.suite.pytest_results", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("source", type=arguments.existing_file, metavar="IN", help="of pytest --benchmark-json")
    parser.add_argument("target", type=arguments.writable_file, metavar="OUT")
    args = parser.parse_args(argv)
    try:
        write_json(args.target, record_of(json.loads(Path(args.source).read_text())))
    except ValueError as error:
        parser.error(f"cannot read {args.source}: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded("python -m sdn_triton.bench.suite.pytest_results", main))
