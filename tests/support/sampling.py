"""Which cases of a parametrised test `make test` runs; `make test-long` runs the others."""

import re
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
        for item in sorted(of_one_test, key=_number)[count:]:
            item.add_marker(pytest.mark.long)


def share_of(items: Iterable[pytest.Item], share: str) -> list[pytest.Item]:
    """One of several equal shares of the items: "2/4" is the second of four.

    Raises:
        pytest.UsageError: it is not written so.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", share)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise pytest.UsageError(f"--share must be k/n with k from 1 to n, got {share!r}")
    which, shares = int(found[1]) - 1, int(found[2])
    return [item for item in items if _number(item) % shares == which]


def _number(item: pytest.Item) -> int:
    return crc32(item.name.encode())
