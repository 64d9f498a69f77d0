"""Which cases of a parametrised test `make test` runs; `make test-long` runs the others."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def sample(cases: Iterable[Any], runs: Callable[..., bool]) -> list[Any]:
    """The cases, marked ``long`` unless ``runs`` says of their values that they stand for the others."""
    marked = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        marked.append(pytest.param(*values, marks=() if runs(*values) else pytest.mark.long))
    return marked
