"""What machine this is: drivers, tools and versions at once, and in a process of its own what torch says.

``python -m sdn_triton.bench.gpu.machine`` is that process. What is said at once needs neither torch nor the package.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "triton", "numpy", "pytest", "pytest-xdist", "hypothesis", "matplotlib", "jinja2")
TOOLS = {"gcc": "--version", "nvcc": "--version", "compute-sanitizer": "--version"}
CARD = ("name", "driver_version", "memory.total", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit")


def facts() -> dict[str, Any]:
    """What can be said without torch, in less than a second on a sound machine."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "packages": {name: _version(name) for name in PACKAGES},
        "tools": {name: _answer(tool(name), option) for name, option in TOOLS.items()},
        "card": dict(zip(CARD, (_card() or "").split(", "), strict=False)),
    }


def tool(name: str) -> str | None:
    """Where a program is, in the CUDA toolkit if nowhere else; None if it is not installed."""
    toolkit = os.path.join(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin")
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), toolkit]))


def compute_capability() -> str:
    """The card's, without the point: 90.

    Raises:
        RuntimeError: nvidia-smi does not say.
    """
    answer = _answer(tool("nvidia-smi"), "--query-gpu=compute_cap", "--format=csv,noheader,nounits")
    if not answer or not answer.partition(" / ")[0].replace(".", "", 1).isdigit():
        raise RuntimeError(f"nvidia-smi does not say what the card can compute: {answer!r}")
    return answer.partition(" / ")[0].replace(".", "")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _card() -> str | None:
    query = f"--query-gpu={','.join(CARD)}"
    return _answer(tool("nvidia-smi"), query, "--format=csv,noheader,nounits")


def _answer(program: str | None, *options: str) -> str | None:
    """The first lines of what a program prints; None where there is none, or no answer."""
    if program is None:
        return None
    try:
        run = subprocess.run([program, *options], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = [line.strip() for line in run.stdout.splitlines() if line.strip()]
    return " / ".join(lines[:4]) or None


def main(argv: Sequence[str] | None = None) -> int:
    """Write what a figure depends on, as torch finds it."""
    parser = argparse.ArgumentParser(
        prog="python -m sdn_triton.bench.gpu.machine", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--device", default="cuda", help="default: cuda")
    args = parser.parse_args(argv)
    import torch

    from ..measuring.environment import fingerprint, write_json

    write_json(args.json, fingerprint(torch.device(args.device)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
