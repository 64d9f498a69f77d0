"""Which cases of a parametrised test `make test` runs; `make test-long` runs the others."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any
from zlib import crc32

import pytest


def sample(cases: Iterable[Any], runs: Callable[..., bool]) -> list[Any]:
    """The cases, marked ``long`` unless ``runs`` says of their values that they stand for the others."""
    marked = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        marked.append(pytest.param(*values, marks=() if runs(*values) else pytest.mark.long))
    return marked


def mark_what_a_sample_leaves_out(items: Iterable[pytest.Item]) -> None:
    """Of a test marked ``sampled(n)`` mark all but n cases ``long``: those n whose names have the smallest checksums.

    A case that is marked ``long`` already is not drawn.
    """
    cases = defaultdict(list)
    for item in items:
        marker = item.get_closest_marker("sampled")
        if marker is not None and item.get_closest_marker("long") is None:
            cases[item.nodeid.partition("[")[0], marker.args[0]].append(item)
    for (_, count), of_one_test in cases.items():
        for item in sorted(of_one_test, key=lambda item: crc32(item.name.encode()))[count:]:
            item.add_marker(pytest.mark.long)
