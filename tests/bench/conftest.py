"""What the tests of benchmarks share."""

import pytest

from sdn_triton.bench.problems.providers import PROVIDERS, plain


@pytest.fixture
def provider(monkeypatch):
    """Adds a provider for one test."""

    def add(name, difference, **others):
        monkeypatch.setitem(PROVIDERS, name, plain(name, name, difference, **others))
        return name

    return add
