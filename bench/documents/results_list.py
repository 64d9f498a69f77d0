"""The list of the files under ``bench/results``: what each is and the command that made it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..reports.markdown import markdown_table
from ..terminal import Cell, Table

KNOWN = {
    "eager-forward": (
        "the eager path beside conv2d and unfolding",
        "python -m sdn_triton.bench.experiments.eager_forward --json FILE",
    ),
    "host-cost": ("what a call costs the host", "python -m sdn_triton.bench.experiments.host_cost --json FILE"),
    "row-sharded": (
        "memory of a neck whose image is spread over ranks",
        "python -m sdn_triton.bench.experiments.row_sharded --times 0 --ranks 1,2,4,8 --json FILE",
    ),
    "defaults": (
        "what the compiler makes of every kernel with its default configuration, and the clocks that predicts",
        "python -m sdn_triton.bench.machine_code --arch sm_80 --arch sm_90 --arch sm_100 --kernel ... --json FILE",
    ),
    "yardstick": (
        "what every pass of a 3x3 layer should cost by its machine code, and by other ways",
        "python -m sdn_triton.bench.yardstick",
    ),
    "proofs": ("what a verifier proves of the compiled kernels", "python -m sdn_triton.bench.proofs --json FILE"),
    "cpu": ("what SDN does to borders: every run of the experiment", "python -m sdn_triton.bench.quality --json FILE"),
    "map-cpu": (
        "where SDN helps and where another does: every run of the map",
        "python -m sdn_triton.bench.quality --map --json FILE",
    ),
    "environment": ("a machine with a GPU, and how each step of `make gpu` ended there", "make gpu"),
    "table": ("configurations that were tried for the paired kernels, right and wrong, with their times", "make gpu"),
    "predictions": (
        "what machine code predicts for the shapes that `make gpu` times",
        "python -m sdn_triton.bench.gpu.predictions",
    ),
}
"""By the name of the file, or of its folder: what it is, and its command where the file does not say so itself."""


def table_of_files(results: Path) -> str:
    """A table of all JSON files, with device, date and revision as they have them."""
    table = Table("", ("file", "what", "command", "measured on", "when", "revision"), text=True)
    for path in sorted(results.rglob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        what, command = _described(path, content)
        fields = content if isinstance(content, dict) else {}
        environment = fields.get("environment") or next(iter(fields.get("sessions", ())), fields)
        device = environment.get("device")
        git = environment.get("git") or {}
        revision = f"{git['revision'][:10]}{', changed' if git.get('dirty') else ''}" if git.get("revision") else ""
        name = path.relative_to(results).as_posix()
        table.add(
            [
                Cell(f"[{name}]({name})"),
                what,
                Cell(f"`{command}`" if command else ""),
                device["name"] if isinstance(device, Mapping) else "no device",
                str(environment.get("time", "")).partition("T")[0],
                revision,
            ]
        )
    return markdown_table(table)


def _described(path: Path, content: Any) -> tuple[str, str]:
    """What a file is, and its command."""
    if isinstance(content, dict) and {"schema", "cases"} <= set(content):
        command = content.get("settings", {}).get("command")
        words = [str(word) for word in command] if isinstance(command, list) else []
        return (
            f"{len(content['cases'])} cases of `sdn-triton bench run`",
            f"sdn-triton {' '.join(words)}" if words else "",
        )
    unknown = "not described in bench/documents/results_list.py", ""
    return KNOWN.get(path.stem) or KNOWN.get(path.parent.name, unknown)
