"""The emulator runs what Triton compiles, and a process compiles only where Triton's interpreter is off."""

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("TRITON_INTERPRET", "0") not in ("0", ""):
        skip = pytest.mark.skip(
            reason="Triton interprets in this process; run TRITON_INTERPRET=0 pytest tests/emulator"
        )
        for item in items:
            if item.path.parent == HERE:
                item.add_marker(skip)
