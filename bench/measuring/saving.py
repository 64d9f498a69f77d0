"""Figures that took long to measure are kept, whatever becomes of the file that they were meant for."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from sdn_triton.tuning.files import write_json


def save(path: Path, content: Any) -> Path:
    """Write JSON and return the file that has it: ``path`` or, where that cannot be written, one in a temporary folder.

    A command whose figures went elsewhere ends with 1.

    Raises:
        OSError: there is no room in the temporary folder, either.
    """
    try:
        write_json(path, content)
    except OSError as error:
        spare = Path(mkdtemp(prefix="sdn-triton-")) / path.name
        write_json(spare, content)
        print(f"cannot write {path}: {error.strerror}; the figures are in {spare}", file=sys.stderr, flush=True)
        return spare
    return path
