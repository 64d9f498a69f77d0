"""Which revision of the sources runs: as git says, or as was written down before they went where no git repository is.

``python -m sdn_triton.bench.measuring.revision`` writes it into the file ``REVISION`` beside ``bench/``, which git
ignores: a copy of the sources without ``.git`` has to take that file along. Inside a repository nobody reads it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from sdn_triton.streams import guarded
from sdn_triton.tuning.files import write_json

from .. import ROOT

FILE = "REVISION"
UNKNOWN: dict[str, Any] = {"revision": None, "dirty": None, "changes": None}


def git_revision(root: Path = ROOT) -> dict[str, Any]:
    """The revision of the sources below ``root`` and whether they were changed; None where nobody knows.

    Results that lie in ``bench/results`` are no change: a benchmark writes them while it runs. ``changes`` tells two
    changed trees of one revision apart.

    Raises:
        ValueError: the file that should say it says something else.
    """
    return _by_git(root) or _written(root / FILE) or UNKNOWN


def _by_git(root: Path) -> dict[str, Any] | None:
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    sources = ["--", str(root), f":(exclude){root}/bench/results"]
    revision = output_of(["git", "-C", str(root), "rev-parse", "HEAD"])
    if revision is None:
        return None
    status = output_of(["git", "-C", str(root), "status", "--porcelain", *sources])
    changes = output_of(["git", "-C", str(root), "diff", "HEAD", *sources]) if status else None
    return {
        "revision": revision.strip(),
        "dirty": None if status is None else bool(status),
        "changes": hashlib.sha256(changes.encode()).hexdigest()[:12] if changes else None,
    }


def _written(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        revision = json.loads(file.read_text())
    except ValueError:
        revision = None
    if not isinstance(revision, dict) or revision.keys() != UNKNOWN.keys():
        raise ValueError(
            f"{file} must hold what `python -m sdn_triton.bench.measuring.revision` writes, "
            f"got {file.read_text()[:60]!r}"
        )
    return revision


def output_of(command: list[str]) -> str | None:
    """What a command prints; None if it fails or is not there."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def main(root: Path = ROOT) -> int:
    """Write the file; the exit status is 1 where git knows no revision."""
    revision = _by_git(root)
    if revision is None:
        print(f"git knows no revision of {root}", file=sys.stderr)
        return 1
    write_json(root / FILE, revision)
    print(json.dumps(revision))
    return 0


if __name__ == "__main__":
    name = "python -m sdn_triton.bench.measuring.revision"
    argparse.ArgumentParser(name, description=f"Write the file {FILE}: of which sources these are.").parse_args()
    sys.exit(guarded(name, main))
