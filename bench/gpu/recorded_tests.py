"""A plugin of pytest that has the kernel tests launch nothing, and writes down what they would have compiled."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path

import pytest

from sdn_triton.aot.compile import TARGETS
from sdn_triton.tuning.precision import convolutions_in

from .specialisations import RECORDED, Specialisation, collected

_seen: set[Specialisation] = set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test as far as it gets: its results are wrong, since nothing was computed."""
    arch, out = os.environ[RECORDED].split(" ", 1)
    try:
        # On a GPU tests/conftest.py sets this precision.
        with collected(TARGETS[arch]) as specialisations, convolutions_in("ieee"):
            return (yield)
    finally:
        lines = "".join(json.dumps(asdict(new)) + "\n" for new in specialisations if new not in _seen)
        with Path(out).open("ab", buffering=0) as file:  # all at once: other processes write to it, too
            file.write(lines.encode())
        _seen.update(specialisations)
